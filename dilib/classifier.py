"""A trained network and all that using it takes: its preprocessing, and the precision that it computes in.

Images pass from one classifier to another as pixels (uint8), never in another one's normalised space.
"""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dilib import losses


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become a network's input: per-channel mean and std of pixels in [0, 1], and the resolution.

    Example:
        >>> cifar10 = Preprocessing(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262), size=32)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int

    @property
    def channels(self) -> int:
        """Number of an image's channels."""
        return len(self.mean)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) in 0..255 → float, zero mean and unit deviation over the training set."""
        mean, std = _columns(self, pixels.device)
        return (pixels.float() / 255 - mean) / std

    def to_pixels(self, images: Tensor) -> Tensor:
        """Normalised (N, C, H, W) → uint8 in 0..255, out-of-range values cut."""
        mean, std = _columns(self, images.device)
        return ((images.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def clip(self, images: Tensor) -> Tensor:
        """Normalised images cut to the range that real pixels can take. Eq. 16."""
        mean, std = _columns(self, images.device)
        return losses.clip_to_pixel_range(images, mean, std)


@lru_cache
def _columns(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and std as (1, C, 1, 1). Kept, as a copy to an accelerator in every update would make it wait."""
    shape = (1, -1, 1, 1)
    mean, std = (torch.tensor(values, device=device) for values in (preprocessing.mean, preprocessing.std))
    return mean.view(shape), std.view(shape)


@dataclass(frozen=True)
class Classifier:
    """A network, its preprocessing, a name for cards and messages, and the precision that copies of it compute in.

    Example:
        >>> teacher = Classifier(my_network.eval(), Preprocessing((0.5,) * 3, (0.25,) * 3, 32))
    """

    network: nn.Module
    preprocessing: Preprocessing
    name: str = "network"
    precision: torch.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device

    @property
    def example(self) -> Tensor:
        """One grey image (1, C, H, W), normalised, to trace the network with."""
        weight = next(self.network.parameters())
        shape = (1, self.preprocessing.channels, self.preprocessing.size, self.preprocessing.size)
        return torch.zeros(shape, device=weight.device, dtype=weight.dtype)

    def with_network(self, network: nn.Module) -> "Classifier":
        """Another network, such as a student, under the same preprocessing and precision."""
        return replace(self, network=network)

    def frozen(self) -> "Frozen":
        """A copy that computes in the classifier's precision and takes no gradients to its weights."""
        return frozen_copy(self.network, self.precision)

    @torch.no_grad()
    def logits(self, pixels: Tensor, batch_size: int = 32) -> Tensor:
        """Logits (N, K), fp32, of images (N, C, H, W), uint8, resampled to the network's own resolution."""
        found = []
        for batch in pixels.split(batch_size):
            images = resampled(batch.to(self.device), self.preprocessing.size)
            found.append(self.network(self.preprocessing.normalise(images)).float())
        return torch.cat(found)


class Frozen(nn.Module):
    """A network that computes in `dtype` and answers in fp32 (fp64 for fp64), whatever its images come in."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        logits = self.network(images.to(self.dtype, memory_format=torch.channels_last))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def frozen_copy(network: nn.Module, dtype: torch.dtype) -> Frozen:
    """A copy in evaluation mode without weight gradients, channels last, in `dtype` but for BatchNorm in fp32."""
    frozen = copy.deepcopy(network).eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)
    for source, layer in zip(network.modules(), frozen.modules(), strict=True):
        if isinstance(layer, _BatchNorm):
            layer.to(torch.promote_types(dtype, torch.float32))
            layer.load_state_dict(source.state_dict())
    return Frozen(frozen, dtype)


def resampled(pixels: Tensor, size: int) -> Tensor:
    """Square uint8 images (N, C, H, H) at another resolution."""
    if pixels.shape[-1] == size:
        return pixels
    resized = F.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def class_count(network: nn.Module) -> int:
    """Number of outputs of a classifier, read from its last linear (or 1×1 convolution) layer."""
    head = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    return head.out_features if isinstance(head, nn.Linear) else head.out_channels


def last_linear(network: nn.Module) -> str:
    """Name of the last linear layer. Raises ValueError where there is none."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise ValueError(f"{type(network).__name__} has no linear layer; give a classifier that ends in one")
    return names[-1]


def logits_and_features(frozen: Frozen, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) of normalised images (N, C, H, W), and what the last linear layer read for them, (N, D); fp32."""
    found = []
    head = frozen.get_submodule(last_linear(frozen))
    handle = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        logits = frozen(images)
    finally:
        handle.remove()
    return logits, found[0].flatten(1).float()
