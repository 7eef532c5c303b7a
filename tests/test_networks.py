"""ImageNet classifiers: names, preprocessing, and what they make of pixels."""

import pytest
import torch
from sklearn.datasets import load_sample_images

from dilib import networks
from dilib.classifier import Classifier, Preprocessing, resampled
from dilib.downloads import Unreachable
from dilib.evaluation import top1
from dilib.networks import IMAGENET_CLASSES, imagenet_classifier
from dilib.precision import autocast_logits


def test_lite_sees_pixels_as_it_was_trained_to():
    """(pixel − 127)/128, at its own resolution."""
    lite = imagenet_classifier("efficientnet_lite1")
    assert not lite.network.training
    assert lite.preprocessing.size == 240
    pixels = torch.tensor([0, 127, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 240, 240)
    seen = lite.preprocessing.normalise(pixels)[:, 0, 0, 0]
    torch.testing.assert_close(seen, torch.tensor([-127 / 128, 0, 1.0]), atol=1e-5, rtol=0)


def test_a_trained_classifier_names_scikit_learns_photographs():
    """A Chinese palace and a flower, cut square at the centre."""
    lite = imagenet_classifier("efficientnet_lite0")
    pictures = torch.stack([torch.from_numpy(picture.copy()) for picture in load_sample_images().images])
    height, width = pictures.shape[1:3]
    left = (width - height) // 2
    logits = lite.logits(pictures[:, :, left : left + height].permute(0, 3, 1, 2))
    assert logits.shape == (2, 1000)
    assert [IMAGENET_CLASSES[label] for label in logits.argmax(1)] == ["palace", "daisy"]
    assert (IMAGENET_CLASSES[1], IMAGENET_CLASSES[340], IMAGENET_CLASSES[999]) == ("goldfish", "zebra", "toilet tissue")


def test_logits_are_asked_at_the_networks_own_resolution():
    class Brightness(torch.nn.Module):
        """Class 1 for bright images, else 0; refuses any other resolution."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, images):
            assert images.shape[-2:] == (32, 32)
            mean = images.mean((1, 2, 3))
            return torch.stack([-mean, mean], 1) * self.weight

    classifier = Classifier(Brightness(), Preprocessing((0.5,) * 3, (0.25,) * 3, 32))
    pixels = torch.tensor([10, 240, 30], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 64, 64)
    assert top1(classifier.logits(pixels), torch.tensor([0, 1, 1])) == pytest.approx(200 / 3)
    assert torch.equal(resampled(pixels, 32)[:, :, 0, 0], pixels[:, :, 0, 0])


def test_unknown_and_unreachable_networks_are_named_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown ImageNet classifier 'resnet51'; choose from efficientnet_lite0, "):
        imagenet_classifier("resnet51")

    def refuse(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(networks.torchvision.models._api, "load_state_dict_from_url", refuse)
    with pytest.raises(
        Unreachable, match=r"^the weights of ResNet-50 can't be downloaded \(no route to host\); connect to .*"
    ) as e:
        imagenet_classifier("resnet50")
    assert len(str(e.value).splitlines()) == 1


def test_narrow_strided_convolutions_stay_out_of_channels_last():
    """Their training overwrites memory on some CPUs: this would end the process there."""
    for channels in (1, 3):
        network = networks.create("resnet18", classes=3, channels=channels, width=1 / 16)
        images = torch.randn(100, channels, 32, 32).to(memory_format=torch.channels_last)
        for _ in range(3):
            autocast_logits(network, images, torch.float32).square().sum().backward()
    assert next(network.parameters()).is_contiguous()
    wide = networks.create("resnet18", classes=3, width=1 / 8)
    assert next(wide.parameters()).is_contiguous(memory_format=torch.channels_last)
