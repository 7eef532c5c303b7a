"""Networks on few bits: weights and activations rounded to grids, whose ranges are set on any images. Sec. 5."""

import copy

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import parametrize

ENDS = 8  # bits that the first and the last layer keep: rounding hurts most there
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
    Raises ValueError for `bits` outside 2..8.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits are out of range; choose from 2 to 8")
    folded = fuse(copy.deepcopy(network).eval()).requires_grad_(True)
    layers = [layer for layer in folded.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        own = ENDS if layer in (layers[0], layers[-1]) else bits
        parametrize.register_parametrization(layer, "weight", WeightGrid(own))
        layer.inputs = ActivationGrid(own)
        layer.register_forward_pre_hook(lambda layer, inputs: layer.inputs(inputs[0]))
    with torch.no_grad():
        folded(images.to(next(folded.parameters()).device))
    return folded
