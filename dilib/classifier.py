"""A trained network and all that using it takes: its preprocessing, and the precision that it computes in.

Images pass from one classifier to another as pixels (uint8), never in another one's normalised space.
"""

import operator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dilib import losses
from dilib.downloads import reason
from dilib.structure import Structure, copied, logits_of, structure, unwrapped

Size = int | tuple[int, int]  # of a square image's sides, or height and width


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become a network's input: per-channel mean and std of pixels in [0, 1], and the resolution.

    `size` is one number, or height and width. Raises ValueError for a mean outside [0, 1] or a std outside (0, 1].

    Example:
        >>> cifar10 = Preprocessing(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262), size=32)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: Size

    def __post_init__(self):
        object.__setattr__(self, "size", _as_size(self.size))
        for name in ("mean", "std"):
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, tuple(float(each) for each in value))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} {value!r} is not a list of numbers; give one per channel") from error
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean {self.mean} and std {self.std} differ in length; give one of each per channel")
        if not all(0 <= mean <= 1 for mean in self.mean) or not all(0 < std <= 1 for std in self.std):
            raise ValueError(
                f"mean {self.mean} and std {self.std} are not of pixels in [0, 1]; "
                "divide those of 0 to 255 by 255, and give stds above 0"
            )
        if min(sides(self.size)) < 1:
            raise ValueError(f"size {self.size} is out of range; give one number of at least 1, or height and width")

    @property
    def channels(self) -> int:
        """Number of an image's channels."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """An image's channels, height and width."""
        return (self.channels, *sides(self.size))

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


def _as_size(size) -> Size:
    """One whole number, or two in a tuple. Raises ValueError for anything else."""
    try:
        return tuple(map(operator.index, size)) if isinstance(size, tuple | list) else operator.index(size)
    except TypeError as error:
        raise ValueError(f"size {size!r} is not a resolution; give one whole number, or height and width") from error


def sides(size: Size) -> tuple[int, int]:
    """Height and width. Raises ValueError for anything but one whole number or two."""
    found = _as_size(size)
    if isinstance(found, tuple) and len(found) != 2:
        raise ValueError(f"size {size!r} is not a resolution; give one whole number, or height and width")
    return found if isinstance(found, tuple) else (found, found)


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

    def __post_init__(self):
        if not isinstance(self.network, nn.Module) or not isinstance(self.preprocessing, Preprocessing):
            found = f"{type(self.network).__name__} and {type(self.preprocessing).__name__}"
            raise ValueError(f"a classifier can't be made of {found}; give a torch.nn.Module and its Preprocessing")
        object.__setattr__(self, "network", unwrapped(self.network))

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are kept in."""
        return self._weight.dtype

    @property
    def _weight(self) -> Tensor:
        every = (
            tensor for tensor in chain(self.network.parameters(), self.network.buffers()) if tensor.is_floating_point()
        )
        return next(every, torch.zeros(()))

    @property
    def example(self) -> Tensor:
        """One grey image (1, C, H, W), normalised, to trace the network with."""
        return torch.zeros((1, *self.preprocessing.shape), device=self.device, dtype=self.dtype)

    def structure(self) -> Structure:
        """How many classes it has, and which layer its logits come from, by a forward pass of a copy.

        Raises ValueError for a network that takes no such images, or returns no logits.
        """
        dtype = torch.promote_types(self.dtype, torch.float32)
        try:
            return structure(copied(self.network).eval().requires_grad_(False).to(dtype), self.example.to(dtype))
        except RuntimeError as error:
            shape = "×".join(map(str, self.preprocessing.shape))
            raise ValueError(f"{type(self.network).__name__} can't take a {shape} image ({reason(error)})") from error

    def with_network(self, network: nn.Module) -> "Classifier":
        """Another network, such as a student, under the same preprocessing and precision."""
        return replace(self, network=network)

    def frozen(self) -> "Frozen":
        """A copy that computes in the classifier's precision and takes no gradients to its weights."""
        return frozen_copy(self.network, self.precision)

    @torch.no_grad()
    def logits(self, pixels: Tensor, batch_size: int = 32) -> Tensor:
        """Logits (N, K), fp32, of images (N, C, H, W), uint8, resampled to the network's own resolution."""
        frozen, found = frozen_copy(self.network, torch.float32), []
        for batch in pixels.split(batch_size):
            images = resampled(batch.to(self.device), self.preprocessing.size)
            found.append(frozen(self.preprocessing.normalise(images)))
        return torch.cat(found)


class Frozen(nn.Module):
    """A network that computes in `dtype` and answers in fp32 (fp64 for fp64), whatever its images come in."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype, self.memory_format = network, dtype, torch.channels_last

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        try:
            output = self.network(images.to(self.dtype, memory_format=self.memory_format))
        except RuntimeError as error:
            if self.memory_format == torch.contiguous_format or "view size is not compatible" not in str(error):
                raise
            # The network flattens its features by view, which takes them in one order of memory alone.
            self.memory_format = torch.contiguous_format
            self.network.to(memory_format=self.memory_format)
            return self(images)
        logits = logits_of(output, self.network)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def frozen_copy(network: nn.Module, dtype: torch.dtype) -> Frozen:
    """A copy in evaluation mode without weight gradients, channels last, in `dtype` but for BatchNorm in fp32."""
    frozen = copied(network).eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)
    for source, layer in zip(network.modules(), frozen.modules(), strict=True):
        if isinstance(layer, _BatchNorm):
            # Of a subclass with layers of its own, such as an activation, only what is BatchNorm's.
            for theirs, ours in zip(_own_tensors(source), _own_tensors(layer), strict=True):
                if ours.is_floating_point():
                    ours.data = theirs.detach().to(torch.promote_types(dtype, torch.float32), copy=True)
    return Frozen(frozen, dtype)


def _own_tensors(layer: nn.Module) -> list[Tensor]:
    return list(chain(layer.parameters(recurse=False), layer.buffers(recurse=False)))


def resampled(pixels: Tensor, size: Size) -> Tensor:
    """uint8 images (N, C, H, W) at another resolution."""
    if tuple(pixels.shape[2:]) == sides(size):
        return pixels
    resized = F.interpolate(pixels.float(), sides(size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def logits_and_features(frozen: Frozen, head: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) of normalised images (N, C, H, W), and what fed the layer `head`, (N, D), pooled; fp32."""
    found = []
    handle = frozen.network.get_submodule(head).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        logits = frozen(images)
    finally:
        handle.remove()
    features = found[-1]
    return logits, (features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)).float()


def head_of(classifier: Classifier) -> str:
    """Name of the layer that the logits come from. Raises ValueError where that is no linear layer or 1×1 convolution.

    Example:
        >>> head_of(Classifier(torchvision.models.resnet18(), preprocessing))
        'fc'
    """
    head = classifier.structure().head
    if head is None:
        raise ValueError(
            f"the logits of {type(classifier.network).__name__} come from no linear layer or 1×1 convolution; "
            "give a classifier that ends in one"
        )
    return head
