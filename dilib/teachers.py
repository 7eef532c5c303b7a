"""Trained networks that everything starts from, and what their BatchNorm layers remember. Sec. 4.1."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from dilib import models
from dilib.artifacts import load_tensors, save_tensors, weights
from dilib.evaluation import accuracy
from dilib.progress import counted
from dilib.statistics import FeatureStatistics, batch_moments, observe
from dilib.study import Study, plain
from dilib.training import train
from dilib.workers import cells_side_by_side


def teacher_cells(study: Study, names: Sequence[str]) -> dict[str, dict]:
    """The cells of several teachers, trained side by side."""
    found = cells_side_by_side(teacher_cell, _teacher_key, study, [(name,) for name in names])
    return dict(zip(names, found, strict=True))


def teacher_cell(study: Study, name: str) -> dict:
    """The teacher's test top-1, from training it where it is not trained yet."""
    name_of_cell, settings, seed = _teacher_key(study, name)
    return study.cell(name_of_cell, settings, lambda: _teacher_metrics(study, name), seed)


def _teacher_key(study: Study, name: str) -> tuple[str, dict, int]:
    return f"teacher--{name}", teacher_settings(study, name), 0


def load_teacher(study: Study, name: str) -> nn.Module:
    """The trained teacher, in evaluation mode; trained first if its weights are missing, damaged or another's."""
    network, path, card = (
        fresh_network(study, name, seed=0),
        _teacher_path(study, name),
        plain(teacher_settings(study, name)),
    )
    with study.lock(f"teacher-{name}"):
        if load_tensors(path, card) is None:
            _train_teacher(study, name, network)
            save_tensors(path, weights(network), card)
    network.load_state_dict(load_tensors(path, card)[0])
    return network.to(study.device).eval()


def _teacher_path(study: Study, name: str) -> Path:
    return study.artifacts / "teachers" / f"{name}.safetensors"


def teacher_settings(study: Study, name: str) -> dict:
    """Everything that a teacher's weights depend on."""
    return {
        "dataset": study.place.name,
        "network": name,
        "width": study.scale.widths[name],
        "training": asdict(study.scale.training[name]),
        "seed": 0,
    }


def _teacher_metrics(study: Study, name: str) -> dict:
    network = load_teacher(study, name)
    return {
        "top1": accuracy(network, *study.test),
        "train_top1": accuracy(network, *train_sample(study, 10_000)),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def _train_teacher(study: Study, name: str, network: nn.Module) -> None:
    settings, split = study.scale.training[name], study.data.train
    checkpoint = _teacher_path(study, name).with_suffix(".checkpoint.safetensors")
    images = study.data.preprocessing.normalise(split.pixels).to(study.device)
    with counted(settings.epochs, f"training {models.NAMES[name]}") as on_epoch:
        train(
            network,
            images,
            split.labels.to(study.device),
            settings,
            checkpoint=checkpoint,
            card=plain(teacher_settings(study, name)),
            on_epoch=on_epoch,
        )


def train_sample(study: Study, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """So many training images, drawn at random, normalised, with their labels."""
    split = study.data.train
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed))[:count]
    images = study.data.preprocessing.normalise(split.pixels[order])
    return images.to(study.device), split.labels[order].to(study.device)


def fresh_network(study: Study, name: str, seed: int) -> nn.Module:
    """The network with random weights, as wide as the scale has it and made for the study's data."""
    torch.manual_seed(seed)
    channels = study.data.preprocessing.channels
    return models.create(name, len(study.data.classes), channels, study.scale.widths[name]).to(study.device)


def memory_cell(study: Study, name: str) -> dict:
    """Per BatchNorm layer of a teacher: its channels, and how far a batch's means are from the stored ones.

    The batches are real test images, and N(0, 1) noise.
    """
    settings = plain({"teacher": teacher_settings(study, name), "batch_size": study.scale.batch_size})
    return study.cell(f"memory--{name}", settings, lambda: _memory_metrics(study, name))


def _memory_metrics(study: Study, name: str) -> dict:
    teacher = load_teacher(study, name)
    remembered = FeatureStatistics.from_batchnorm(teacher)
    observed, layers = observe(teacher, torch.float32)
    images, _ = study.test
    real = images[:: len(images) // study.scale.batch_size][: study.scale.batch_size]  # of all classes, in any order
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0)).to(study.device)

    def distances(batch: Tensor) -> list[float]:
        seen = batch_moments(observed, layers, batch)
        return [(mean - stored).norm().item() for mean, stored in zip(seen.means, remembered.means, strict=True)]

    return {
        "channels": [len(mean) for mean in remembered.means],
        "real": distances(real),
        "noise": distances(noise),
    }
