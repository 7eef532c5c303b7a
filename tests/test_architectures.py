"""The networks of Sec. 4.1, by their parameters, their feature maps and their widths."""

import pytest
import torch
from torch import nn

from dilib import networks

NAMES = ("vgg11_bn", "resnet18", "resnet34")


def conv_bn(size, inputs, outputs):
    """Parameters of a size×size convolution without biases and of its BatchNorm's scales and shifts."""
    return size * size * inputs * outputs + 2 * outputs


def vgg11_by_hand():
    layers = ((3, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512))
    return sum(conv_bn(3, *layer) for layer in layers)


def resnet_by_hand(*blocks):
    total = conv_bn(3, 3, 64) + 2 * blocks[0] * conv_bn(3, 64, 64)
    for (inputs, outputs), count in zip(((64, 128), (128, 256), (256, 512)), blocks[1:], strict=True):
        total += conv_bn(3, inputs, outputs) + conv_bn(1, inputs, outputs)  # the step down and its shortcut
        total += (2 * count - 1) * conv_bn(3, outputs, outputs)
    return total


@pytest.mark.parametrize(
    ("name", "by_hand", "number"),
    [
        ("vgg11_bn", vgg11_by_hand(), 9_228_362),
        ("resnet18", resnet_by_hand(2, 2, 2, 2), 11_173_962),
        ("resnet34", resnet_by_hand(3, 4, 6, 3), 21_282_122),
    ],
)
def test_parameters_are_those_of_the_layer_lists(name, by_hand, number):
    network = networks.create(name, classes=10)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == by_hand + 512 * 10 + 10 == number


@pytest.mark.parametrize(
    ("name", "layers", "side"),  # five halvings of 32 pixels for VGG, three for a ResNet
    [("vgg11_bn", 8, 1), ("resnet18", 20, 4), ("resnet34", 36, 4)],
)
def test_feature_maps_and_batchnorm_layers(name, layers, side):
    network = networks.create(name, classes=7, channels=1).eval()
    maps = []
    for module in network.modules():
        if isinstance(module, nn.AdaptiveAvgPool2d):
            module.register_forward_hook(lambda _, inputs, output: maps.append(inputs[0].shape))
    with torch.no_grad():
        assert network(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert maps == [(2, 512, side, side)]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == layers


def shapes(name, width):
    convolutions = [m for m in networks.create(name, 10, width=width).modules() if isinstance(m, nn.Conv2d)]
    return [(m.in_channels, m.out_channels) for m in convolutions]


@pytest.mark.parametrize("name", NAMES)
def test_a_quarter_of_the_width_is_a_quarter_of_every_layers_channels(name):
    whole, quarter = shapes(name, 1), shapes(name, 1 / 4)
    assert (whole[0], quarter[0]) == ((3, 64), (3, 16)), "the image keeps its three"
    assert quarter[1:] == [(inputs // 4, outputs // 4) for inputs, outputs in whole[1:]]
    assert networks.create(name, 10, width=1 / 4)[-1].weight.shape == (10, 128)
    assert shapes(name, 1 / 64)[-1][1] == 8


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("resnet19", 1, "^unknown network 'resnet19'; choose from vgg11_bn, resnet18, resnet34, mlp$"),
        ("resnet50", 1, "^unknown network 'resnet50'; choose from vgg11_bn, "),
        *(
            ("vgg11_bn", width, f"^width {width} is out of range; choose from 1/64 to 4$")
            for width in (0, -1, 1 / 65, 5)
        ),
    ],
)
def test_unknown_names_and_widths_are_refused_in_one_line(name, width, message):
    with pytest.raises(ValueError, match=message) as error:
        networks.create(name, classes=10, width=width)
    assert "\n" not in str(error.value)
