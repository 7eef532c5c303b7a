"""Networks on few bits: weights and activations rounded to grids, whose ranges are set on any images. Sec. 5."""

import operator
from collections.abc import Callable
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.overrides import TorchFunctionMode

from dilib.classifier import frozen_copy
from dilib.downloads import reason
from dilib.feature_statistics import has_statistics
from dilib.structure import copied, undisturbed

ENDS = 8  # bits that the first and the last layer keep: rounding hurts most there
PRODUCTS = {torch.matmul, operator.matmul, torch.mm, torch.bmm, torch.addmm, torch.einsum}
OUTSIDE = {F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d}  # a layer's own work, done by a function
FOLDS = (nn.Conv2d, nn.BatchNorm2d, fuse_conv_bn_eval), (nn.Linear, nn.BatchNorm1d, fuse_linear_bn_eval)
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
    Raises ValueError for `bits` outside 2..8, for a network that can't be traced or folded, and for one with weights
    that would not be rounded as they are used: in other layers than `nn.Conv2d`, `nn.Linear` and those derived from
    them, or in derived ones that do more.
    """
    if not isinstance(bits, Integral) or not 2 <= bits <= 8:
        raise ValueError(f"{bits!r} bits are out of range; choose from 2 to 8")
    images = images.to(next(network.parameters()).device)
    folded = _folded(network, images).requires_grad_(True)
    _check_all_rounded(type(network).__name__, folded, images)
    calls = [node for node in folded.graph.nodes if node.op == "call_module" and _rounds(_layer(folded, node))]
    for number, node in enumerate(calls):
        own, given = ENDS if number in (0, len(calls) - 1) else bits, _input_of(node)
        parametrize.register_parametrization(_layer(folded, node), "weight", WeightGrid(own))
        folded.add_submodule(f"inputs_{number}", ActivationGrid(own))
        with folded.graph.inserting_before(node):
            node.replace_input_with(given, folded.graph.call_module(f"inputs_{number}", (given,)))
    folded.recompile()
    with torch.no_grad():
        folded(images)
    return folded


def _input_of(node: fx.Node) -> fx.Node:
    return node.args[0] if node.args else node.kwargs.get("input", node.all_input_nodes[0])


def _layer(traced: fx.GraphModule, node: fx.Node) -> nn.Module:
    return traced.get_submodule(node.target)


def _rounds(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear)


def _check_all_rounded(kind: str, folded: fx.GraphModule, images: Tensor) -> None:
    """Raise ValueError where weights would stay as they are, or become others after they are rounded."""
    derived = []
    for node in folded.graph.nodes:
        if name := _stays(folded, node):
            raise ValueError(f"{kind} can't be quantised: {name} is no nn.Conv2d or nn.Linear; build it of these")
        layer = _layer(folded, node) if node.op == "call_module" else None
        if not _rounds(layer):
            continue
        if "weight" not in layer._parameters and not parametrize.is_parametrized(layer, "weight"):
            said = "computes its weight from others; call remove_weight_norm or prune.remove first"
            raise ValueError(f"{kind} can't be quantised: {node.target} {said}")
        if type(layer) not in (nn.Conv2d, nn.Linear):
            derived.append(node.target)
    for name, inputs in _inputs_of(folded, derived, images[:2]).items():
        if not _does_as_its_parent(folded.get_submodule(name), *inputs):
            said = "changes its input or its weight, has others, or computes otherwise than nn.Conv2d or nn.Linear"
            raise ValueError(f"{kind} can't be quantised: {name} {said}")


def _stays(folded: fx.GraphModule, node: fx.Node) -> str:
    """The name of what a node computes with weights that are not rounded; "" where there are none."""
    if node.op == "call_module":
        layer = _layer(folded, node)
        return "" if _rounds(layer) or all(weight.ndim < 2 for weight in layer.parameters()) else node.target
    matrices = {name for name, weight in folded.named_parameters() if weight.ndim > 1}
    raw = any(each.op == "get_attr" and each.target in matrices for each in node.all_input_nodes)
    product = node.target in PRODUCTS or (node.op == "call_method" and node.target in ("matmul", "mm", "bmm"))
    return node.name if node.target in OUTSIDE or (product and raw) else ""


@torch.no_grad()
def _inputs_of(network: nn.Module, layers: list[str], images: Tensor) -> dict[str, tuple[tuple, dict]]:
    """What these layers are called with, by position and by name."""
    found = {}
    handles = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, named, name=name: found.update({name: (inputs, named)}), with_kwargs=True
        )
        for name in layers
    ]
    network(images)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def _does_as_its_parent(layer: nn.Module, inputs: tuple, named: dict) -> bool:
    """Whether a derived layer does one convolution or product, with its weight as it is, and has no other weights."""
    own = ("weight", "bias")
    others = [
        each for name, each in layer.named_parameters() if name not in own and "parametrizations.weight." not in name
    ]
    if any(each.ndim > 1 for each in others) or any(map(has_statistics, layer.modules())):
        return False
    with parametrize.cached(), _Calls() as calls:
        layer(*inputs, **named)
        if len(calls.seen) != 1 or calls.seen[0][1] is not layer.weight:
            return False
    given = inputs[0] if inputs else named.get("input", next(iter(named.values())))
    return bool(torch.isin(calls.seen[0][0], torch.cat([given.flatten(), given.new_zeros(1)])).all())  # padded, at most


class _Calls(TorchFunctionMode):
    """Notes the inputs and weights of convolutions and products."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in OUTSIDE:
            self.seen.append((*args, *(kwargs[name] for name in ("input", "weight") if name in kwargs))[:2])
        return function(*args, **kwargs)


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
        with undisturbed():
            ShapeProp(traced).propagate(images[:2])
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
    """Each BatchNorm that alone reads what a convolution or a linear layer says, made part of it."""
    for node in traced.graph.nodes:
        if fold := _fold_of(traced, node):
            made_by = node.args[0]
            traced.set_submodule(made_by.target, fold(_layer(traced, made_by), _layer(traced, node)))
            node.replace_all_uses_with(made_by)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _fold_of(traced: fx.GraphModule, node: fx.Node) -> Callable[[nn.Module, nn.Module], nn.Module] | None:
    """How to make the layer that a node calls part of the one before it; None where it can't be."""
    if node.op != "call_module" or not node.args:
        return None
    made_by, norm = node.args[0], _layer(traced, node)
    if made_by.op != "call_module" or len(made_by.users) > 1 or not has_statistics(norm):
        return None
    layer, shape = _layer(traced, made_by), made_by.meta["tensor_meta"].shape
    if parametrize.is_parametrized(layer) or shape[1] != norm.num_features or len(shape) not in (2, 4):
        return None
    return next((fold for kind, after, fold in FOLDS if isinstance(layer, kind) and type(norm) is after), None)
