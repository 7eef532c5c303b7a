"""Feature statistics: what every BatchNorm layer of a network saw in training, and what it sees in a batch."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode

from dilib import losses
from dilib.classifier import frozen_copy

TORCH_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)  # whose forward is known


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and (biased) variance, per channel, of the input of each BatchNorm layer: one (channels,) tensor a layer.

    `first` says how much the layer counts in `distance` that runs first, whose features are closest to pixels; each
    other layer counts 1.
    """

    means: Mapping[str, Tensor]
    variances: Mapping[str, Tensor]
    first: float = 1.0

    @classmethod
    def from_batchnorm(cls, network: nn.Module, first: float = 1.0) -> "FeatureStatistics":
        """The running mean and variance stored in training. Eqs. 5 and 6. Raises ValueError without BatchNorm."""
        layers = batchnorm_layers(network)
        return cls(
            {name: layer.running_mean.detach().float().clone() for name, layer in layers.items()},
            {name: layer.running_var.detach().float().clone() for name, layer in layers.items()},
            first,
        )

    @classmethod
    def from_images(cls, network: nn.Module, images: Tensor, batch_size: int = 256) -> "FeatureStatistics":
        """Measured over real images (N, C, H, W), normalised for `network`. Sec. A.2, Table 8."""
        observed = Observed(network, torch.float32)
        batches = [observed.moments_of(batch) for batch in images.split(batch_size)]
        weights = torch.tensor([len(batch) / len(images) for batch in images.split(batch_size)])
        weights = weights.to(images.device).view(-1, 1)
        means, variances = {}, {}
        for name in batches[0].means:
            mean = torch.stack([batch.means[name] for batch in batches])
            variance = torch.stack([batch.variances[name] for batch in batches])
            means[name] = (weights * mean).sum(0)
            variances[name] = (weights * (variance + (mean - means[name]) ** 2)).sum(0)
        return cls(means, variances)

    def tensors(self) -> dict[str, Tensor]:
        """All means and variances by name, as a file holds them; `like` reads them back."""
        named = {"mean": self.means, "variance": self.variances}
        return {f"{kind}.{layer}": value for kind, values in named.items() for layer, value in values.items()}

    def like(self, tensors: dict[str, Tensor]) -> "FeatureStatistics":
        """Statistics of the same network from what `tensors` returned; `first` stays."""
        means, variances = (
            {
                layer: tensors[f"{kind}.{layer}"].to(mine.device)
                for layer, mine in self.means.items()
                if f"{kind}.{layer}" in tensors
            }
            for kind in ("mean", "variance")
        )
        return FeatureStatistics(means, variances, self.first)

    def joined(self, other: "FeatureStatistics", share: float) -> "FeatureStatistics":
        """Statistics of a mixture of images, of which a `share` in [0, 1] comes from where `other` was measured.

        Of the layers that both have: those that did not run were not measured.
        """
        means, variances = {}, {}
        for layer in (layer for layer in other.means if layer in self.means):
            mine, theirs = self.means[layer], other.means[layer]
            means[layer] = torch.lerp(mine, theirs, share)
            spread = share * (1 - share) * (mine - theirs) ** 2
            variances[layer] = torch.lerp(self.variances[layer], other.variances[layer], share) + spread
        return FeatureStatistics(means, variances, self.first)

    def distance(self, batch: "FeatureStatistics") -> Tensor:
        """R_feature of a batch's statistics to these, over the layers that ran. Eq. 4."""
        layers = list(batch.means)
        return losses.feature_distance(
            [batch.means[layer] for layer in layers],
            [batch.variances[layer] for layer in layers],
            [self.means[layer] for layer in layers],
            [self.variances[layer] for layer in layers],
            [self.first, *[1.0] * (len(layers) - 1)],
        )


class MovingAverage:
    """A batch's statistics over its updates: a share `memory` of what they were, and the rest of the newest.

    A batch of few images is seen a little differently by every update. The average's gradient is the newest's alone,
    and whole, so that it pulls as strongly as statistics of one update do.
    """

    def __init__(self, memory: float):
        self.memory = memory
        self._so_far: dict[tuple[str, str], Tensor] = {}

    def __call__(self, newest: FeatureStatistics) -> FeatureStatistics:
        """The average with the newest; the first statistics are their own average."""
        means, variances = (
            {layer: self._averaged((kind, layer), value) for layer, value in found.items()}
            for kind, found in (("mean", newest.means), ("variance", newest.variances))
        )
        return FeatureStatistics(means, variances, newest.first)

    def _averaged(self, key: tuple[str, str], newest: Tensor) -> Tensor:
        seen = newest.detach()
        self._so_far[key] = seen.lerp(self._so_far.get(key, seen), self.memory)
        return self._so_far[key] + (newest - seen)


def batchnorm_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that keep BatchNorm's running statistics, by name: torch's own and others, such as FrozenBatchNorm2d.

    Raises ValueError when there is none.
    """
    layers = {name: layer for name, layer in network.named_modules() if has_statistics(layer)}
    if not layers:
        raise ValueError(
            f"{type(network).__name__} has no BatchNorm layer with running statistics; DeepInversion needs a network "
            "trained with BatchNorm"
        )
    return layers


def has_statistics(layer: nn.Module) -> bool:
    """Whether a layer keeps BatchNorm's running statistics."""
    stored = (getattr(layer, "running_mean", None), getattr(layer, "running_var", None))
    return all(isinstance(each, Tensor) for each in stored) and not isinstance(layer, _InstanceNorm)


@dataclass
class _Seen:
    """The moments of every input that the layers have read in one forward pass, by layer, in the order they ran."""

    means: dict[str, list[Tensor]] = field(default_factory=dict)
    variances: dict[str, list[Tensor]] = field(default_factory=dict)

    def calls(self, layer: str) -> int:
        return len(self.means.get(layer, ()))

    def add(self, layer: str, mean: Tensor, variance: Tensor) -> None:
        self.means.setdefault(layer, []).append(mean)
        self.variances.setdefault(layer, []).append(variance)


class Observed:
    """A frozen copy of a network that keeps the moments of what its BatchNorm layers read, differentiably.

    Every layer runs as it is, whatever its class and hooks: where one calls BatchNorm on its stored statistics, the
    call is answered by one node that gives the moments, too; of one that does its own arithmetic, the input is
    measured. Layers that do not run do not count. Raises ValueError without BatchNorm.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        self.frozen = frozen_copy(network, dtype)
        layers = batchnorm_layers(self.frozen.network)
        self._calls = _BatchNormCalls({id(layer.running_mean): name for name, layer in layers.items()})
        for name, layer in layers.items():
            if type(layer) in TORCH_BATCHNORMS and "forward" not in vars(layer):
                layer.forward = partial(self._calls.norm, name, _Norm.of(layer))
            else:
                _measure_own_arithmetic(name, layer, self._calls)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        calls = self._calls
        calls.seen = _Seen()
        # Listening takes a little time with every operation, which all updates but the first save where it is no use.
        with nullcontext() if calls.needless else calls:
            logits = self.frozen(images)
        calls.needless = not calls.heard
        return logits

    @property
    def moments(self) -> FeatureStatistics:
        """What the last forward pass showed, layers in the order that they ran; differentiable.

        The calls of a layer that ran more than once count alike, as in its running statistics.
        """
        means, variances = (
            {layer: values[0] if len(values) == 1 else torch.stack(values).mean(0) for layer, values in found.items()}
            for found in (self._calls.seen.means, self._calls.seen.variances)
        )
        return FeatureStatistics(means, variances)

    @torch.no_grad()
    def moments_of(self, images: Tensor) -> FeatureStatistics:
        """Statistics of one batch (N, C, H, W), without gradients."""
        self(images)
        return self.moments


class _Norm(NamedTuple):
    """What a frozen BatchNorm layer computes with; `scale` is what it multiplies each channel by."""

    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    scale: Tensor

    @classmethod
    def of(cls, layer: nn.Module) -> "_Norm":
        return cls.with_scale(layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps)

    @classmethod
    def with_scale(cls, mean, variance, weight, bias, eps) -> "_Norm":
        scale = torch.rsqrt(variance + eps)
        return cls(mean, variance, weight, bias, eps, scale if weight is None else scale * weight)


class _BatchNormCalls(TorchFunctionMode):
    """Intercepts calls of F.batch_norm on the stored statistics of known layers, and notes what they read."""

    def __init__(self, layers: dict[int, str]):
        super().__init__()
        self.layers, self.seen = layers, _Seen()
        self.heard = self.needless = False  # whether a call came that no layer of torch's own made

    def norm(self, layer: str, norm: _Norm, input: Tensor) -> Tensor:
        """BatchNorm as the layer has it."""
        output, mean, variance = _NormWithMoments.apply(input, norm)
        self.seen.add(layer, mean, variance)
        return output

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _batch_norm(
        self, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    ):
        layer = self.layers.get(id(running_mean))
        if layer is None or training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        self.heard = True
        if any(each is not None and each.requires_grad for each in (weight, bias)):
            # In a frozen copy such a weight depends on the images, and so their gradient on it.
            self.seen.add(layer, *_moments(layer, input, len(running_mean)))
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return self.norm(layer, _Norm.with_scale(running_mean, running_var, weight, bias, eps), input)


def _measure_own_arithmetic(name: str, layer: nn.Module, calls: _BatchNormCalls) -> None:
    """Have the layer's input measured at each call in which it does not come to BatchNorm itself."""
    before: list[int] = []
    layer.register_forward_pre_hook(lambda layer, inputs: before.append(calls.seen.calls(name)))

    def measure(layer: nn.Module, inputs: tuple, named: dict, output) -> None:
        if calls.seen.calls(name) == before.pop():
            features = next(each for each in (*inputs, *named.values()) if isinstance(each, Tensor))
            calls.seen.add(name, *_moments(name, features, len(layer.running_mean)))

    layer.register_forward_hook(measure, with_kwargs=True)


def _moments(name: str, features: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (channels,) over all but the second axis, in fp32 or better."""
    if features.ndim < 2 or features.shape[1] != channels:
        raise ValueError(
            f"{name} keeps statistics of {channels} channels but reads {tuple(features.shape)}; "
            "have it call torch.nn.functional.batch_norm, or give a network whose channels are the second axis"
        )
    values = features.to(torch.promote_types(features.dtype, torch.float32)).transpose(0, 1).flatten(1)
    return values.mean(1), values.var(1, correction=0)


class _NormWithMoments(torch.autograd.Function):
    """Frozen BatchNorm and its input's moments in one node, so that backward reads each feature map once.

    The input gradient is g·scale + (x − μ)·2ġ_σ²/n + ġ_μ/n, per channel. The BatchNorm kernel computes the second part
    with fp32 parameters over half-precision features; the first is added in place, at the features' precision.
    """

    @staticmethod
    def forward(ctx, features: Tensor, norm: _Norm):
        # Passing running statistics makes the kernel keep its sums in their precision, fp32.
        unused = torch.zeros_like(norm.mean), torch.zeros_like(norm.variance)
        mean, variance = torch.batch_norm_update_stats(features, *unused, 0.0)
        ctx.save_for_backward(features, mean, norm.scale)
        ctx.count = features.numel() // features.shape[1]
        return _frozen_batch_norm(features, *norm[:5]), mean, variance

    @staticmethod
    def backward(ctx, grad_output: Tensor, grad_mean: Tensor, grad_variance: Tensor):
        features, mean, scale = ctx.saved_tensors
        weight, bias = grad_variance * (2 / ctx.count), grad_mean / ctx.count
        gradient = _frozen_batch_norm(features, mean, torch.ones_like(mean), weight, bias, 0.0)
        scale = scale.to(gradient.dtype).view(1, -1, *[1] * (gradient.ndim - 2))
        return gradient.addcmul_(grad_output, scale), None


def _frozen_batch_norm(features: Tensor, mean, variance, weight, bias, eps: float) -> Tensor:
    """What F.batch_norm does in evaluation mode, not intercepted by `_BatchNormCalls`."""
    return torch.batch_norm(features, weight, bias, mean, variance, False, 0.0, eps, torch.backends.cudnn.enabled)
