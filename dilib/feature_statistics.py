"""Feature statistics: what every BatchNorm layer of a network saw in training, and what it sees in a batch."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dilib import losses
from dilib.classifier import Frozen, frozen_copy


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and (biased) variance, per channel, of the input of each BatchNorm layer: one (channels,) tensor a layer.

    `weights`, one a layer, say how much each counts in `distance`; None for 1 each.
    """

    means: tuple[Tensor, ...]
    variances: tuple[Tensor, ...]
    weights: tuple[float, ...] | None = None

    @classmethod
    def from_batchnorm(cls, network: nn.Module, first: float = 1.0) -> "FeatureStatistics":
        """The running mean and variance stored in training. Eqs. 5 and 6. Raises ValueError without BatchNorm.

        `first` is the weight of the first layer, whose features are closest to pixels.
        """
        layers = batchnorm_layers(network)
        return cls(
            tuple(layer.running_mean.detach().float().clone() for layer in layers),
            tuple(layer.running_var.detach().float().clone() for layer in layers),
            None if first == 1 else (first, *[1.0] * (len(layers) - 1)),
        )

    @classmethod
    def from_images(cls, network: nn.Module, images: Tensor, batch_size: int = 256) -> "FeatureStatistics":
        """Measured over real images (N, C, H, W), normalised for `network`. Sec. A.2, Table 8."""
        observed, layers = observe(network, torch.float32)
        batches = [
            batch_moments(observed, layers, images[i : i + batch_size]) for i in range(0, len(images), batch_size)
        ]
        weights = torch.tensor([len(images[i : i + batch_size]) for i in range(0, len(images), batch_size)])
        weights = (weights / len(images)).to(images.device).view(-1, 1)
        means, variances = [], []
        for layer in range(len(layers)):
            mean = torch.stack([batch.means[layer] for batch in batches])
            variance = torch.stack([batch.variances[layer] for batch in batches])
            pooled = (weights * mean).sum(0)
            means.append(pooled)
            variances.append((weights * (variance + (mean - pooled) ** 2)).sum(0))
        return cls(tuple(means), tuple(variances))

    def tensors(self) -> dict[str, Tensor]:
        """All means and variances by name, as a file holds them; `like` reads them back."""
        named = {"mean": self.means, "variance": self.variances}
        return {f"{name}.{layer}": value for name, values in named.items() for layer, value in enumerate(values)}

    def like(self, tensors: dict[str, Tensor]) -> "FeatureStatistics":
        """Statistics of the same layers from what `tensors` returned; the weights stay."""
        means, variances = (
            tuple(tensors[f"{name}.{layer}"].to(mine.device) for layer, mine in enumerate(self.means))
            for name in ("mean", "variance")
        )
        return FeatureStatistics(means, variances, self.weights)

    def joined(self, other: "FeatureStatistics", share: float) -> "FeatureStatistics":
        """Statistics of a mixture of images, of which a `share` in [0, 1] comes from where `other` was measured."""
        pairs = list(zip(self.means, other.means, strict=True))
        spreads = [share * (1 - share) * (mine - theirs) ** 2 for mine, theirs in pairs]
        variances = zip(self.variances, other.variances, spreads, strict=True)
        return FeatureStatistics(
            tuple(torch.lerp(mine, theirs, share) for mine, theirs in pairs),
            tuple(torch.lerp(mine, theirs, share) + spread for mine, theirs, spread in variances),
            self.weights,
        )

    def distance(self, batch: "FeatureStatistics") -> Tensor:
        """R_feature of a batch's statistics to these. Eq. 4."""
        return losses.feature_distance(batch.means, batch.variances, self.means, self.variances, self.weights)


def batchnorm_layers(network: nn.Module) -> list[_BatchNorm]:
    """The network's BatchNorm layers that carry running statistics. Raises ValueError when there is none."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        raise ValueError(
            f"{type(network).__name__} has no BatchNorm layer with running statistics; DeepInversion needs a network "
            "trained with BatchNorm"
        )
    return layers


def observe(network: nn.Module, dtype: torch.dtype) -> tuple[Frozen, list["ObservedBatchNorm"]]:
    """A frozen copy whose BatchNorm layers record the moments of their last input, and these layers in order."""
    batchnorm_layers(network)
    observed = frozen_copy(network, dtype)
    for parent in list(observed.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and child.running_mean is not None:
                setattr(parent, name, ObservedBatchNorm(child))
    return observed, [module for module in observed.modules() if isinstance(module, ObservedBatchNorm)]


def recorded(layers: list["ObservedBatchNorm"]) -> FeatureStatistics:
    """The statistics that the last forward pass left in the observed layers; differentiable."""
    return FeatureStatistics(tuple(layer.mean for layer in layers), tuple(layer.variance for layer in layers))


@torch.no_grad()
def batch_moments(observed: nn.Module, layers: list["ObservedBatchNorm"], images: Tensor) -> FeatureStatistics:
    """Statistics of one batch (N, C, H, W), without gradients."""
    observed(images)
    return recorded(layers)


class ObservedBatchNorm(nn.Module):
    """A frozen BatchNorm layer that keeps the mean and variance of its last input, differentiably."""

    def __init__(self, norm: _BatchNorm):
        super().__init__()
        self.norm = norm
        scale = torch.rsqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale if norm.weight is None else scale * norm.weight)
        self.mean = self.variance = None

    def forward(self, features: Tensor) -> Tensor:
        output, self.mean, self.variance = _NormWithMoments.apply(features, self.norm, self.scale)
        return output


class _NormWithMoments(torch.autograd.Function):
    """Frozen BatchNorm and its input's moments in one node, so that backward reads each feature map once.

    The input gradient is g·scale + (x − μ)·2ġ_σ²/n + ġ_μ/n, per channel. The BatchNorm kernel computes the second part
    with fp32 parameters over half-precision features; the first is added in place, at the features' precision.
    """

    @staticmethod
    def forward(ctx, features: Tensor, norm: _BatchNorm, scale: Tensor):
        # Passing running statistics makes the kernel keep its sums in their precision, fp32.
        unused = torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)
        mean, variance = torch.batch_norm_update_stats(features, *unused, 0.0)
        ctx.save_for_backward(features, mean, scale)
        ctx.count = features.numel() // features.shape[1]
        output = F.batch_norm(
            features,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            training=False,
            eps=norm.eps,
        )
        return output, mean, variance

    @staticmethod
    def backward(ctx, grad_output: Tensor, grad_mean: Tensor, grad_variance: Tensor):
        features, mean, scale = ctx.saved_tensors
        weight, bias = grad_variance * (2 / ctx.count), grad_mean / ctx.count
        gradient = F.batch_norm(features, mean, torch.ones_like(mean), weight, bias, training=False, eps=0.0)
        scale = scale.to(gradient.dtype).view(1, -1, *[1] * (gradient.ndim - 2))
        return gradient.addcmul_(grad_output, scale), None, None
