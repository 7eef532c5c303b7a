"""ResNet-20 for CIFAR-10 (He et al., 2016), trained and published by others: a network that nothing here was chosen on.

Yerlan Idelbayev's, https://github.com/akamaster/pytorch_resnet_cifar10, 91.7 % by his account. Its file goes to
`data/teachers/` among the artifacts.
"""

from itertools import pairwise
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from dilib.classifier import Classifier, Preprocessing
from dilib.weights import load_weights

FILE = "teachers/resnet20-12fca82f.th"
PREPROCESSING = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=32)
STAGES = (16, 32, 64)  # channels, of three blocks each


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters: every other pixel where there is a stride, new channels 0."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.before = stride, (outputs - inputs) // 2

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H / stride, W / stride)."""
        shortcut = F.pad(features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.before))
        features = F.relu(self.bn1(self.conv1(features)))
        return F.relu(self.bn2(self.conv2(features)) + shortcut)


class ResNet20(nn.Module):
    """Logits (N, 10) of normalised images (N, 3, 32, 32)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, STAGES[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGES[0])
        for number, (inputs, outputs) in enumerate(pairwise((STAGES[0], *STAGES)), start=1):
            first = Block(inputs, outputs, stride=1 if number == 1 else 2)
            self.add_module(f"layer{number}", nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(2))))
        self.linear = nn.Linear(STAGES[-1], 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(features.mean((2, 3)))


def published(folder: Path) -> Classifier:
    """The network with the weights in a data folder. Raises ValueError where they are not."""
    return Classifier(load_weights(ResNet20(), folder / FILE), PREPROCESSING, "resnet20")
