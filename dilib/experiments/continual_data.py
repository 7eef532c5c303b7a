"""The data sets of Sec. 4.5: the base, those added to it, and the base split into halves that resemble each other."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from dilib import data
from dilib.data import Data, Split
from dilib.networks import IMAGENET_CLASSES
from dilib.study.cells import Study
from dilib.study.scales.settings import Continual

HALF = "half"  # the base data set's classes, split into old ones and new ones that resemble them
_loaded = data.loaded


def continual_settings(study: Study) -> Continual:
    """The scale's settings for the study's data set."""
    return study.scale.continual_imagenet if study.dataset == "imagenet" else study.scale.continual


def check_addition(known: Sequence[str], added: Data) -> None:
    """Raise ValueError unless the data set can be added to a network with these classes."""
    clash = sorted(set(known) & set(added.classes))
    if clash:
        raise ValueError(f"{added.title} has classes that are known already ({', '.join(clash[:3])}); rename them")
    for label, name in enumerate(added.classes):
        if not (added.train.labels == label).any():
            raise ValueError(f"{added.title} has no training image of class {name!r}; remove the class or add images")


def check_additions(study: Study, added: tuple[str, ...]) -> None:
    """Raise ValueError unless these data sets can be added, one after another, to the study's base."""
    first, *others = data_sets(study, added)
    classes, there = IMAGENET_CLASSES if study.dataset == "imagenet" else first.classes, len(first.classes)
    if len(classes) != there:
        raise ValueError(f"{first.title} has {there} classes here and the network {len(classes)}; put the others there")
    for other in others:
        check_addition(classes, other)
        classes += other.classes


def metric(column: str) -> str:
    """The name, in a cell's metrics, of top-1 on an added data set, or "combined", "base", or HALF as it is."""
    return column if column in ("combined", "base", HALF) else data.slug(column)


def identities(study: Study, added: tuple[str, ...]) -> list[str]:
    """What settings call the data sets that are added."""
    part = "-validation" if study.choosing else ""
    return [HALF if name == HALF else data.identity(name, study.data_folder) + part for name in added]


def data_sets(study: Study, added: tuple[str, ...]) -> list[Data]:
    """The base and the data sets added to it, in order and with its number of channels.

    For (HALF,) they are the base's old classes and its new ones.
    """
    settings = continual_settings(study)
    if added == (HALF,):
        return halves(study.data, settings.old)
    first = _imagenet(study, settings.size) if study.dataset == "imagenet" else study.data
    others = [_loaded(name, study.data_folder, settings.size) for name in added]
    others = [data.for_choosing(each) for each in others] if study.choosing else others
    return [first, *(_in_channels(each, first.preprocessing.channels) for each in others)]


def can_be_halved(study: Study) -> bool:
    """Whether the base has two old classes or more, images enough to teach them, and others to be added as new ones."""
    settings = continual_settings(study)
    old = [label for label in settings.old if label < len(study.data.classes)]
    if not 2 <= len(old) < len(study.data.classes):
        return False
    there = torch.isin(study.data.train.labels, torch.tensor(old)).sum()
    return bool(there >= study.scale.training[next(iter(settings.networks))].batch_size)


def halves(whole: Data, old: Sequence[int]) -> list[Data]:
    """A data set's old classes, and its others, each counted from 0."""
    new = [label for label in range(len(whole.classes)) if label not in old]
    return [data.of_classes(whole, labels, word) for word, labels in (("old", old), ("new", new))]


def _in_channels(each: Data, channels: int) -> Data:
    train, test = (Split(data.in_channels(split.pixels, channels), split.labels) for split in (each.train, each.test))
    return replace(each, train=train, test=test)


def _imagenet(study: Study, size: int) -> Data:
    """ImageNet; of a validation split alone, every other image stands in for the training split."""
    whole = _loaded("imagenet", study.data_folder, size)
    if len(whole.train.labels):
        return whole
    return replace(whole, train=_every_other(whole.test, 0), test=_every_other(whole.test, 1))


def _every_other(split: Split, first: int) -> Split:
    return Split(split.pixels[first::2], split.labels[first::2])


def first_of_each(each: Data, count: int, start: int) -> Split:
    """The first `count` training images of every class, labels counted from `start`."""
    chosen = torch.cat([(each.train.labels == label).nonzero()[:count, 0] for label in range(len(each.classes))])
    return Split(each.train.pixels[chosen], each.train.labels[chosen] + start)
