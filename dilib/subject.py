"""A trained network and all that teaching another from it needs: one of the study's own, or an ImageNet classifier."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dilib import classifiers, teachers, transfer
from dilib.classifiers import CLASSES, Classifier
from dilib.evaluation import split_accuracy
from dilib.inversion import Objective, Schedule
from dilib.recipe import Recipe
from dilib.scales import Scale
from dilib.study import Study, plain


@dataclass(frozen=True)
class Subject:
    """A teacher by what its weights depend on (`settings`) and how images are made from it.

    Nothing is loaded, or trained, before `load`, `classes` or `fresh` are called: the teacher, how many classes it
    has, and its architecture with random weights for a seed.
    """

    settings: dict
    objective: Objective
    schedules: tuple[Schedule, ...]
    first_layer: float
    batch_size: int
    load: Callable[[], Classifier]
    classes: Callable[[], int]
    fresh: Callable[[int], nn.Module]

    def recipe(self, seed: int = 0) -> Recipe:
        """How a pool of images of all classes is made."""
        every = tuple(range(self.classes()))
        return Recipe(self.load(), every, self.batch_size, self.objective, self.schedules, self.first_layer, seed)


def subject(study: Study, name: str) -> Subject:
    """The study's own teacher `name`; where the data are ImageNet, the classifier that its scale has for that."""
    if study.dataset == "imagenet":
        return of_imagenet(study.scale, study.scale.imagenet.teacher, study.device)
    return of_study(study, name)


def teacher_top1(study: Study, name: str) -> float:
    """Top-1 in percent on real test images: from the teacher's cell, or of an ImageNet classifier measured now."""
    if study.dataset != "imagenet":
        return teachers.teacher_cell(study, name)["metrics"]["top1"]
    teacher = subject(study, name).load()
    return split_accuracy(teacher.network, study.data.test, teacher.preprocessing)


def of_study(study: Study, name: str) -> Subject:
    """One of the study's own networks, trained on first use."""
    return Subject(
        settings=plain(teachers.teacher_settings(study, name)),
        objective=transfer.objective_of(study, name, "deepinversion"),
        schedules=(study.scale.sources.schedule[name],),
        first_layer=1.0,
        batch_size=study.scale.batch_size,
        load=lambda: Classifier(name, teachers.load_teacher(study, name), study.data.preprocessing),
        classes=lambda: len(study.data.classes),
        fresh=lambda seed: teachers.fresh_network(study, name, seed),
    )


def of_imagenet(scale: Scale, name: str, device: torch.device) -> Subject:
    """A classifier from the package index or from torchvision, with weights as published."""

    def fresh(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return classifiers.untrained(name).to(device, memory_format=torch.channels_last)

    return Subject(
        settings={"network": name, "dataset": "imagenet"},
        objective=scale.imagenet.objective,
        schedules=scale.imagenet.schedules,
        first_layer=scale.imagenet.first_layer,
        batch_size=scale.imagenet.batch_size,
        load=lambda: classifiers.load_classifier(name, device),
        classes=lambda: len(CLASSES),
        fresh=fresh,
    )
