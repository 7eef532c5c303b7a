"""Networks on few bits: weights and activations rounded to grids, whose ranges are set on any images. Sec. 5."""

from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dilib.classifier import frozen_copy
from dilib.downloads import reason
from dilib.structure import copied, undisturbed

ENDS = 8  # bits that the first and the last layer keep: rounding hurts most there
OUTSIDE = {F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d}  # a layer's own work, done by a function
CLIPS = torch.linspace(0.1, 1.0, 19).tolist()  # shares of an activation's range that are tried


class WeightGrid(nn.Module):
    """A weight's nearest values on 2^bits - 1 symmetric levels, for each output channel; gradients pass through."""

    def __init__(self, bits: int):
        super().__init__()
        self.highest = 2 ** (bits - 1) - 1

    def forward(self, weight: Tensor) -> Tensor:
        values = weight.float()
        scale = values.detach().abs().flatten(1).amax(1).clamp_min(1e-12) / self.highest
        zero = torch.zeros_like(scale, dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(values, scale, zero, 0, -self.highest, self.highest)
        return rounded.to(weight.dtype)


class ActivationGrid(nn.Module):
    """A tensor's nearest values on 2^bits levels; the first tensor that it sees sets their range."""

    def __init__(self, bits: int):
        super().__init__()
        self.highest = 2**bits - 1
        self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("zero", torch.zeros((), dtype=torch.int32))

    def forward(self, values: Tensor) -> Tensor:
        if not self.scale:
            self._calibrate(values)
        rounded = torch.fake_quantize_per_tensor_affine(values.float(), self.scale.float(), self.zero, 0, self.highest)
        return rounded.to(values.dtype)

    @torch.no_grad()
    def _calibrate(self, values: Tensor) -> None:
        """The range, 0 in it, that loses least in the squared mean: wide for the outliers or fine for the others."""
        low, high = values.min().clamp(max=0), values.max().clamp(min=1e-12)
        errors = []
        for clip in CLIPS:
            scale = clip * (high - low) / self.highest
            grid = scale, (-clip * low / scale).round().int()
            rounded = torch.fake_quantize_per_tensor_affine(values, *grid, 0, self.highest)
            errors.append(((rounded - values).square().mean().item(), *grid))
        _, self.scale, self.zero = min(errors, key=lambda found: found[0])


def quantized(network: nn.Module, images: Tensor, bits: int) -> nn.Module:
    """A copy on `bits`-bit weights and activations, BatchNorm folded, calibrated on normalised images (N, C, H, W).

    It computes in floating point what integers would give, and can be trained: gradients pass through the rounding.
    Raises ValueError for `bits` outside 2..8, and for a network that can't be traced or folded, or that has
    weights in other layers than `nn.Conv2d`, `nn.Linear` and those derived from them, which would stay as they are.
    """
    if not isinstance(bits, Integral) or not 2 <= bits <= 8:
        raise ValueError(f"{bits!r} bits are out of range; choose from 2 to 8")
    images = images.to(next(network.parameters()).device)
    folded = _folded(network, images).requires_grad_(True)
    _check_all_rounded(type(network).__name__, folded)
    calls = [
        node for node in folded.graph.nodes if node.op == "call_module" and _rounds(folded.get_submodule(node.target))
    ]
    for number, node in enumerate(calls):
        own = ENDS if number in (0, len(calls) - 1) else bits
        parametrize.register_parametrization(folded.get_submodule(node.target), "weight", WeightGrid(own))
        folded.add_submodule(f"inputs_{number}", ActivationGrid(own))
        with folded.graph.inserting_before(node):
            node.args = (folded.graph.call_module(f"inputs_{number}", node.args), *node.args[1:])
    folded.recompile()
    with torch.no_grad():
        folded(images)
    return folded


def _check_all_rounded(kind: str, folded: fx.GraphModule) -> None:
    """Raise ValueError where weights would stay as they are, or become others once they are rounded."""
    for node in folded.graph.nodes:
        if node.op == "call_function" and node.target in OUTSIDE:
            raise ValueError(f"{kind} can't be quantised: {node.name} is no nn.Conv2d or nn.Linear; build it of these")
        if node.op != "call_module":
            continue
        layer = folded.get_submodule(node.target)
        if not _rounds(layer) and any(weight.ndim > 1 for weight in layer.parameters()):
            raise ValueError(
                f"{kind} can't be quantised: {node.target} is no nn.Conv2d or nn.Linear; build it of these"
            )
        if _rounds(layer) and not _uses_weights_as_they_are(layer):
            raise ValueError(f"{kind} can't be quantised: {node.target} changes its weights before it uses them")


def _rounds(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear)


@torch.no_grad()
def _uses_weights_as_they_are(layer: nn.Module) -> bool:
    """Whether twice the weights give twice the answer: a derived layer may normalise them, say."""
    doubled = copied(layer)
    doubled.weight.mul_(2)
    shape = (1, layer.in_features) if isinstance(layer, nn.Linear) else (1, layer.in_channels, 32, 32)
    images = torch.ones(shape, device=layer.weight.device)
    bias = layer(torch.zeros_like(images))
    once, twice = layer(images) - bias, doubled(images) - bias
    return torch.allclose(twice, 2 * once, rtol=1e-3, atol=1e-3 * once.abs().max().item())


class _Tracer(fx.Tracer):
    """Takes for whole what is derived from a layer that can be rounded, and not only torch's own."""

    def is_leaf_module(self, layer: nn.Module, name: str) -> bool:
        return _rounds(layer) or super().is_leaf_module(layer, name)


@torch.no_grad()
def _folded(network: nn.Module, images: Tensor) -> fx.GraphModule:
    """A copy in evaluation mode whose BatchNorm is part of its convolutions; it says what the network says."""
    kind = type(network).__name__
    try:
        whole = copied(network).eval()
        traced = fx.GraphModule(whole, _Tracer().trace(whole))
        folded = _with_batchnorm_folded(_with_layers_of_their_own(traced))
        with undisturbed():
            expected = frozen_copy(network, torch.float32)(images)
        with undisturbed():
            found = frozen_copy(folded, torch.float32)(images)
    except Exception as error:  # tracing raises whatever a network makes it stumble over
        raise ValueError(f"{kind} can't be quantised ({reason(error)}); torch.fx must be able to trace it") from error
    if not torch.allclose(found, expected, atol=1e-3 * expected.abs().max().item()):
        off = (found - expected).abs().max().item()
        raise ValueError(f"{kind} can't be quantised: with BatchNorm folded its logits are off by {off:.3g}")
    return folded


def _with_layers_of_their_own(traced: fx.GraphModule) -> fx.GraphModule:
    """Give each call of a layer that is called several times a copy of it: BatchNorm after each may be another's."""
    seen = set()
    for number, node in enumerate(traced.graph.nodes):
        if node.op == "call_module" and node.target in seen:
            layer = copied(traced.get_submodule(node.target))
            node.target = f"{node.target}_{number}"
            traced.add_submodule(node.target, layer)
        if node.op == "call_module":
            seen.add(node.target)
    traced.recompile()
    return traced


def _with_batchnorm_folded(traced: fx.GraphModule) -> fx.GraphModule:
    """Each BatchNorm that reads a convolution's output, and nobody else does, made part of it."""
    for node in traced.graph.nodes:
        if node.op == "call_module" and type(traced.get_submodule(node.target)) is nn.BatchNorm2d:
            made_by = node.args[0]
            convolves = made_by.op == "call_module" and isinstance(traced.get_submodule(made_by.target), nn.Conv2d)
            if convolves and len(made_by.users) == 1:
                layers = (traced.get_submodule(each.target) for each in (made_by, node))
                traced.set_submodule(made_by.target, fuse_conv_bn_eval(*layers))
                node.replace_all_uses_with(made_by)
                traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
