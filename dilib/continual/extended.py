"""A network that has learnt the classes of several data sets, one after another. Sec. 4.5."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dilib.classifier import Classifier
from dilib.data import Data, Split
from dilib.evaluation import predict, split_accuracy
from dilib.feature_statistics import FeatureStatistics

WATCHED = 500  # images of a data set that are looked at along the way, and that its statistics are measured on
AT_ONCE = 250  # images in a forward pass


@dataclass(frozen=True)
class Extended:
    """A classifier as extended so far: its classes' names in order, and for each data set its first class.

    BatchNorm is frozen and remembers the base data set alone; `statistics` are of all data sets, each as large a part
    as it has classes.
    """

    classifier: Classifier
    classes: tuple[str, ...]
    starts: tuple[int, ...]
    statistics: FeatureStatistics


def joined(before: Extended, known: Extended, new: Data) -> FeatureStatistics:
    """The statistics so far, joined by those that the network has on the images it has just learnt."""
    pixels = some(new.train, WATCHED).pixels
    images = known.classifier.preprocessing.normalise(pixels).to(known.classifier.device)
    measured = FeatureStatistics.from_images(known.classifier.network, images, AT_ONCE)
    return before.statistics.joined(measured, share=len(new.classes) / len(known.classes))


def top1(known: Extended, test: Split, start: int) -> float:
    """Top-1 in percent over all classes on a data set whose first class is `start`."""
    return split_accuracy(known.classifier, Split(test.pixels, test.labels + start), AT_ONCE)


def taken_for(known: Extended, tests: Sequence[Split]) -> Tensor:
    """(D, D): how many percent of each data set's images (rows) are taken for a class of each data set (columns)."""
    boundaries = torch.tensor([*known.starts[1:], len(known.classes)])
    rows = []
    for test in tests:
        guesses = logits(known.classifier, test).argmax(1).cpu()
        sets = torch.bucketize(guesses, boundaries, right=True)
        rows.append(100 * sets.bincount(minlength=len(tests)) / len(test.labels))
    return torch.stack(rows)


def logits(classifier: Classifier, split: Split) -> Tensor:
    """Logits (N, K) of a split's images, at the resolution that they have."""
    batches = (classifier.preprocessing.normalise(pixels) for pixels in split.pixels.split(AT_ONCE))
    return torch.cat([predict(classifier, batch.to(classifier.device)) for batch in batches])


def some(split: Split, count: int) -> Split:
    """At most `count` images, evenly spread over the split."""
    step = -(-len(split.labels) // count)
    return Split(split.pixels[::step], split.labels[::step])
