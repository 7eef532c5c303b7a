"""Trained networks that everything starts from, and what their BatchNorm layers remember. Sec. 4.1."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dilib import networks
from dilib.artifacts import load_tensors, plain, save_tensors, weights
from dilib.classifier import Classifier
from dilib.evaluation import accuracy
from dilib.feature_statistics import FeatureStatistics, Observed
from dilib.inversion import Objective, Schedule
from dilib.networks import IMAGENET_CLASSES
from dilib.progress import counted
from dilib.recipe import Recipe
from dilib.rounds import Run
from dilib.study.cells import Cell, Study
from dilib.training import train


@dataclass(frozen=True)
class Maker:
    """A network to make images from, by what its weights depend on (`settings`), and how they are made.

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

    @property
    def title(self) -> str:
        """The network's name in print."""
        return networks.title(self.settings["network"])

    def recipe(self, seed: int = 0) -> Recipe:
        """How a pool of images of all classes is made, every batch from noise."""
        every = tuple(range(self.classes()))
        return Recipe(self.load(), every, self.batch_size, self.objective, self.schedules, self.first_layer, seed)


def maker_of(study: Study, name: str, seed: int = 0) -> Maker:
    """The study's own teacher `name` of a seed; where the data are ImageNet, the classifier that its scale has."""
    if study.dataset == "imagenet":
        return imagenet_maker(study, study.scale.imagenet.teacher)
    return Maker(
        settings=teacher_settings(study, name),
        objective=study.scale.objective[name].deepinversion(),
        schedules=(study.scale.sources.schedule[name],),
        first_layer=1.0,
        batch_size=study.scale.batch_size,
        load=partial(load_teacher, study, name, seed),
        classes=lambda: len(study.data.classes),
        fresh=partial(fresh_network, study, name),
    )


def imagenet_maker(study: Study, name: str) -> Maker:
    """A classifier from the package index or from torchvision, with weights as published."""
    settings = study.scale.imagenet

    def fresh(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return networks.untrained_imagenet_network(name).to(study.device, memory_format=torch.channels_last)

    return Maker(
        settings={"network": name, "dataset": "imagenet"},
        objective=settings.objective,
        schedules=settings.transfer or settings.schedules,
        first_layer=settings.first_layer,
        batch_size=settings.batch_size,
        load=partial(networks.imagenet_classifier, name, study.device, study.precision),
        classes=lambda: len(IMAGENET_CLASSES),
        fresh=fresh,
    )


def teacher_settings(study: Study, name: str) -> dict:
    """Everything but the seed that the weights of a teacher of the study's own depend on."""
    settings = {
        "dataset": study.data_name,
        "network": name,
        "width": study.scale.widths[name],
        "training": asdict(study.scale.training[name]),
    }
    return plain(settings | ({"classes": study.half} if study.half else {}))


def teacher_cell(study: Study, name: str, seed: int = 0) -> Cell:
    """A teacher's top-1 on test and training images, from training it where it is not trained yet."""
    return Cell(f"teacher--{name}", teacher_settings(study, name), partial(_teacher_metrics, study, name, seed), seed)


def _teacher_metrics(study: Study, name: str, seed: int) -> dict:
    teacher = load_teacher(study, name, seed)
    _, card = load_tensors(*_weights(study, name, seed))
    return {
        "seconds": card["seconds"],
        "top1": accuracy(teacher, *study.test),
        "train_top1": accuracy(teacher, *train_sample(study, 10_000)),
        "parameters": sum(parameter.numel() for parameter in teacher.network.parameters()),
    }


def load_teacher(study: Study, name: str, seed: int = 0) -> Classifier:
    """The trained teacher, in evaluation mode; trained first if its weights are missing, damaged or another's."""
    teacher = Classifier(fresh_network(study, name, seed), study.data.preprocessing, name, study.precision)
    path, card = _weights(study, name, seed)
    with study.lock(f"teacher-{path.stem}"):
        if load_tensors(path, card) is None:
            settings = study.scale.training[name]
            with counted(settings.epochs, f"training {networks.title(name)}, seed {seed}") as on_round:
                run = Run(seed, path.with_suffix(".checkpoint.safetensors"), card, on_round)
                history = train(teacher, study.data.train, settings, run)
            save_tensors(path, weights(teacher.network), {**card, "seconds": sum(history["seconds"])})
    teacher.network.load_state_dict(load_tensors(path, card)[0])
    teacher.network.to(study.device).eval()
    return teacher


def trained(study: Study, name: str, seed: int = 0) -> bool:
    """Whether the weights of a teacher are there."""
    return load_tensors(*_weights(study, name, seed)) is not None


def _weights(study: Study, name: str, seed: int) -> tuple[Path, dict]:
    """Where the weights of a teacher are, and their card."""
    path = study.artifacts / "teachers" / f"{name}-seed{seed}.safetensors"
    return path, {**teacher_settings(study, name), "seed": seed, **study.computing}


def fresh_network(study: Study, name: str, seed: int) -> nn.Module:
    """The network with random weights, as wide as the scale has it and made for the study's data."""
    torch.manual_seed(seed)
    channels = study.data.preprocessing.channels
    return networks.create(name, len(study.data.classes), channels, study.scale.widths[name]).to(study.device)


def train_sample(study: Study, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`count` training images drawn at random, normalised (N, C, H, W), with their labels (N,)."""
    split = study.data.train
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed))[:count]
    images = study.data.preprocessing.normalise(split.pixels[order])
    return images.to(study.device), split.labels[order].to(study.device)


def memory_cell(study: Study, name: str) -> Cell:
    """Per BatchNorm layer of a teacher: its channels, and how far a batch's means are from the stored ones.

    The batches are real test images, and N(0, 1) noise.
    """
    settings = {"teacher": teacher_settings(study, name), "batch_size": study.scale.batch_size}
    return Cell(f"memory--{name}", settings, partial(_memory_metrics, study, name))


def _memory_metrics(study: Study, name: str) -> dict:
    network = load_teacher(study, name).network
    stored = FeatureStatistics.from_batchnorm(network)
    observed = Observed(network, torch.float32)
    images, _ = study.test
    real = images[:: len(images) // study.scale.batch_size][: study.scale.batch_size]  # of all classes, in any order
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0)).to(study.device)

    def distances(batch: Tensor) -> list[float]:
        seen = observed.moments_of(batch)
        return [(seen.means[layer] - remembered).norm().item() for layer, remembered in stored.means.items()]

    return {
        "channels": [len(mean) for mean in stored.means.values()],
        "real": distances(real),
        "noise": distances(noise),
    }
