import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: test files run side by side

import pytest
import torch

from dilib import networks
from dilib.classifier import Classifier, Preprocessing

torch.set_flush_denormal(True)


@pytest.fixture
def network():
    """A tiny VGG-11-BN whose BatchNorm layers have seen some noise, in evaluation mode."""
    torch.manual_seed(0)
    network = networks.create("vgg11_bn", classes=4, channels=3, width=1 / 16)
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(16, 3, 32, 32))
    return network.eval()


@pytest.fixture
def preprocessing():
    return Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.1), size=32)


@pytest.fixture
def teacher(network, preprocessing):
    return Classifier(network, preprocessing, "tiny")
