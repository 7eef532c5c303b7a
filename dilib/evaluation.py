"""How good a network is, and how varied images are to one.

torchmetrics is imported where it is used: teaching and making images do without it.
"""

import warnings

import torch
from torch import Tensor, nn

from dilib.classifier import Classifier, frozen_copy, head_of, logits_and_features
from dilib.data import Split

WATCHED = 5  # every fifth test image is enough to follow a student's progress


def glimpse(test: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A share of the test images (N, C, H, W) and labels (N,), evenly spread: data sets may be in order of class."""
    images, labels = test
    return images[::WATCHED], labels[::WATCHED]


@torch.no_grad()
def predict(classifier: Classifier, images: Tensor, batch_size: int = 1000) -> Tensor:
    """Logits (N, K), fp32, of normalised images (N, C, H, W), in evaluation mode; the network is left as it was."""
    frozen = classifier.frozen()
    return torch.cat([frozen(batch) for batch in images.split(batch_size)])


def top1(logits: Tensor, labels: Tensor) -> float:
    """Top-1 in percent of logits (N, K) with labels (N,)."""
    return 100 * (logits.argmax(1) == labels.to(logits.device)).float().mean().item()


def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent on normalised images (N, C, H, W) with labels (N,)."""
    return top1(predict(classifier, images), labels)


def accuracy_by_class(classifier: Classifier, images: Tensor, labels: Tensor) -> list[float]:
    """Percent of each class's images (N, C, H, W) that are named right; 0 for a class that has none."""
    from torchmetrics.functional.classification import multiclass_accuracy

    logits = predict(classifier, images)
    right = multiclass_accuracy(logits, labels.to(logits.device), num_classes=logits.shape[1], average="none")
    return (100 * right).tolist()


@torch.no_grad()
def split_accuracy(classifier: Classifier, split: Split, batch_size: int = 1000) -> float:
    """Top-1 in percent on a split, of which only a batch at a time is in memory as floats."""
    frozen, normalise = classifier.frozen(), classifier.preprocessing.normalise
    batches = zip(split.pixels.split(batch_size), split.labels.split(batch_size), strict=True)
    right = sum(
        len(labels) * top1(frozen(normalise(pixels).to(classifier.device)), labels) for pixels, labels in batches
    )
    return right / len(split.labels)


@torch.no_grad()
def penultimate_features(classifier: Classifier, pixels: Tensor, batch_size: int = 250) -> Tensor:
    """What feeds the layer that makes the logits, (N, D), fp32, on the CPU, of images (N, C, H, W), uint8.

    Raises ValueError where that is no linear layer or 1×1 convolution.
    """
    frozen, head = frozen_copy(classifier.network, torch.float32), head_of(classifier)
    normalise = classifier.preprocessing.normalise
    batches = (normalise(batch.to(classifier.device)) for batch in pixels.split(batch_size))
    return torch.cat([logits_and_features(frozen, head, batch)[1].cpu() for batch in batches])


def coverage(real: Tensor, made: Tensor, neighbours: int = 5) -> float:
    """Percent of real points (N, D) with a made one (M, D) no farther than their own k-th nearest real neighbour.

    Naeem et al., "Reliable fidelity and diversity metrics for generative models", 2020.
    """
    radii = torch.cdist(real, real).kthvalue(neighbours + 1).values  # the nearest is the point itself
    return 100 * (torch.cdist(real, made).min(1).values <= radii).float().mean().item()


def inception_score(logits: Tensor) -> float:
    """Inception Score exp(mean KL(p(y|x), p(y))) from a classifier's logits (N, K) of N images; at most min(N, K)."""
    from torchmetrics.image.inception import InceptionScore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on memory, and on the deviation over splits, of which there is one
        score = InceptionScore(feature=nn.Identity(), splits=1)
        score.update(logits.double())
        return score.compute()[0].item()
