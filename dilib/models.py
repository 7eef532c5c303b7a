"""Teachers and students for 32×32 images, built from torchvision's blocks, and the preprocessing a network needs."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from dilib import losses

VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
RESNETS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
NAMES = {"vgg11_bn": "VGG-11-BN", "resnet18": "ResNet-18", "resnet34": "ResNet-34"}


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become a network's input: per-channel mean and std of pixels in [0, 1], and the resolution."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int

    @property
    def channels(self) -> int:
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


def create(name: str, classes: int, channels: int = 3, width: float = 1.0) -> nn.Module:
    """A freshly initialised network for 32×32 images; `width` scales every layer's channels.

    Raises ValueError for an unknown name or a width that leaves no channel.
    """
    if name not in NAMES:
        raise ValueError(f"unknown network {name!r}; choose from {', '.join(NAMES)}")
    if not 0 < width <= 4 or int(64 * width) < 1:
        raise ValueError(f"width {width} is out of range; choose from 1/64 to 4")
    network = _vgg(classes, channels, width) if name == "vgg11_bn" else _resnet(name, classes, channels, width)
    return network.to(memory_format=torch.channels_last)


def _vgg(classes: int, channels: int, width: float) -> nn.Module:
    layers = []
    for item in VGG11:
        if item == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += _conv_bn_relu(channels, int(item * width))
            channels = int(item * width)
    return _with_head(layers, channels, classes)


def _resnet(name: str, classes: int, channels: int, width: float) -> nn.Module:
    planes = int(64 * width)
    layers, inputs = _conv_bn_relu(channels, planes), planes
    for stage, blocks in enumerate(RESNETS[name]):
        outputs = planes * 2**stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = None
            if inputs != outputs:
                shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            layers.append(BasicBlock(inputs, outputs, stride, shortcut))
            inputs = outputs
    return _with_head(layers, inputs, classes)


def _conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def _with_head(layers: list[nn.Module], features: int, classes: int) -> nn.Module:
    network = nn.Sequential(
        nn.Sequential(*layers),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(features, classes),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
