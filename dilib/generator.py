"""A small network that makes images from latents."""

import math

import torch
from torch import Tensor, nn

from dilib.classifier import Preprocessing, sides


class Generator(nn.Module):
    """Latents (N, Z) → images (N, C, H, W), sides divided by 4; `ending` is what follows the last convolution."""

    def __init__(self, preprocessing: Preprocessing, latents: int, width: int, *ending: nn.Module):
        super().__init__()
        self.shape = (width, *(side // 4 for side in sides(preprocessing.size)))
        self.project = nn.Linear(latents, math.prod(self.shape))
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.BatchNorm2d(width // 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width // 2, preprocessing.channels, 3, padding=1),
            *ending,
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.body(self.project(latents).view(-1, *self.shape))


class ToImages(nn.Module):
    """Any numbers (N, C, H, W) → normalised images whose pixels all lie in [0, 1], by a sigmoid."""

    def __init__(self, preprocessing: Preprocessing):
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, values: Tensor) -> Tensor:
        return self.preprocessing.normalise(255 * torch.sigmoid(values.float()))
