"""A network that classes are added to: what it knows, what it answers, and what it dreams of them. Sec. 4.5."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dilib import sources
from dilib.artifacts import has_tensors, load_tensors, save_tensors, weights
from dilib.classifiers import CLASSES, Classifier
from dilib.continual_data import HALF, data_sets, sizes, some
from dilib.data import Data, Split
from dilib.evaluation import predict, split_accuracy
from dilib.extension import binary_cross_entropy, extend, shift_to_binary
from dilib.models import Preprocessing
from dilib.progress import counted
from dilib.recipe import Recipe
from dilib.statistics import FeatureStatistics
from dilib.study import TILES, Study, plain
from dilib.subject import Subject, of_imagenet, of_study
from dilib.training import train
from dilib.workers import side_by_side

DREAMS = ("deepdream", "deepinversion")  # the methods that make images
WATCHED = 500  # images of a data set that are looked at along the way, and that its statistics are measured on
AT_ONCE = 250  # images in a forward pass


@dataclass(frozen=True)
class Known:
    """A network as extended so far: its classes' names in order, and for each data set its first class.

    BatchNorm is frozen and remembers the base data set alone; `statistics` are of all data sets, each as large a part
    as it has classes.
    """

    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    starts: tuple[int, ...]
    statistics: FeatureStatistics


def base(study: Study, network: str, halved: bool, method: str) -> Known:
    """The network before anything is added; for LwF.MC fine-tuned with binary cross-entropy, as it asks for."""
    varied = _halved(study) if halved else study
    subject = _subject(varied, network)
    teacher = subject.load()
    preprocessing = replace(teacher.preprocessing, size=sizes(study).size)
    trained = _binary(varied, network, teacher.network, preprocessing) if method == "lwf_mc" else teacher.network
    return Known(
        trained,
        preprocessing,
        CLASSES if study.dataset == "imagenet" else varied.data.classes,
        (0,),
        FeatureStatistics.from_batchnorm(trained, first=subject.first_layer),
    )


def _halved(study: Study) -> Study:
    """The study on the old half of its classes, with a teacher of its own."""
    varied = copy.copy(study)
    varied.data = data_sets(study, (HALF,))[0]
    varied.place = study.place.with_name(f"{study.place.name}-{HALF}")
    varied.artifacts = study.artifacts / HALF
    return varied


def _binary(study: Study, network: str, teacher: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """The teacher fine-tuned on its own data with binary cross-entropy."""
    settings, split = sizes(study).binary, data_sets(study, ())[0].train
    card = plain({"teacher": _subject(study, network).settings, "binary": settings, "size": preprocessing.size})
    path = study.artifacts / "teachers" / f"{network}-binary.safetensors"
    with study.lock(f"teacher-binary-{network}"):
        if not has_tensors(path, card):
            shift_to_binary(teacher, _logits(teacher, preprocessing, some(split, WATCHED)))
            with counted(settings.epochs, "binary cross-entropy for LwF.MC") as on_epoch:
                train(
                    teacher.requires_grad_(True),
                    split.pixels.to(study.device),
                    split.labels.to(study.device),
                    settings,
                    loss_of=binary_cross_entropy,
                    prepare=preprocessing.normalise,
                    on_epoch=on_epoch,
                )
            save_tensors(path, weights(teacher), card)
    teacher.load_state_dict(load_tensors(path, card)[0])
    return teacher.eval()


def _subject(study: Study, network: str) -> Subject:
    if study.dataset == "imagenet":
        return of_imagenet(study.scale, network, study.device)
    return of_study(study, network)


def base_settings(study: Study, network: str, halved: bool) -> dict:
    """What a base network's weights depend on, and the resolution it is used at."""
    settings = sizes(study)
    return {
        "network": _subject(study, network).settings,
        "size": settings.size,
        "classes": settings.old if halved else "all",
    }


def untrained(study: Study, network: str, classes: int) -> nn.Module:
    """A network of the same architecture with random weights and so many classes in all."""
    subject = _subject(study, network)
    return extend(subject.fresh(0), classes - subject.classes(), seed=0)


def dreams_cell(study: Study, network: str, halved: bool, method: str, seed: int) -> dict:
    """What a base network makes of images dreamt from itself; all processes make them together.

    Its samples are the first images, of classes `sample_labels`.
    """
    name, settings, _ = _dreams_key(study, network, halved, method, seed)
    return study.cell(name, settings, lambda: _dreams_metrics(study, network, halved, method, seed), seed)


def finished_dreams(study: Study, network: str, method: str) -> list[dict]:
    """The cells there are of the whole base network's dreams, one a seed."""
    name, settings, _ = _dreams_key(study, network, False, method, 0)
    return study.cells(name, settings)


def _dreams_key(study: Study, network: str, halved: bool, method: str, seed: int) -> tuple[str, dict, int]:
    name = f"continual-dreams--{network}{'--half' if halved else ''}--{method}"
    images = sizes(study).extension.images_per_class
    settings = {"base": base_settings(study, network, halved), "dreams": dreams(study, network, method)}
    return name, plain({**settings, "images_per_class": images}), seed


def _dreams_metrics(study: Study, network: str, halved: bool, method: str, seed: int) -> dict:
    known = base(study, network, halved, method)
    how, count = recipe(study, network, known, method, seed), dreams_of(study, known)
    unmade, started = sources.unmade(study, how, count), time.perf_counter()
    processes = min(study.jobs, count // how.batch_size)
    side_by_side(_fill, study, [(network, halved, method, seed)] * processes)
    made = sources.dreamt(study, how, count)
    return {
        "images": count,
        "seconds": (time.perf_counter() - started) / unmade if unmade else 0.0,
        "processes": processes,
        "teacher_top1": split_accuracy(known.network, made, known.preprocessing, AT_ONCE),
        "sample_labels": made.labels[: 2 * TILES].tolist(),
        "samples": made.pixels[: 2 * TILES],
    }


def _fill(study: Study, network: str, halved: bool, method: str, seed: int) -> dict:
    known = base(study, network, halved, method)
    sources.dreamt(study, recipe(study, network, known, method, seed), dreams_of(study, known))
    return {}


def dreams(study: Study, network: str, method: str) -> dict:
    """How images are dreamt: what a recipe has beside network, classes and seed."""
    settings, subject = sizes(study), _subject(study, network)
    objective = settings.objective or subject.objective
    return {
        "batch_size": settings.batch_size,
        "objective": objective.deepdream() if method == "deepdream" else objective,
        "schedules": (settings.schedule,),
        "first_layer": subject.first_layer,
    }


def recipe(study: Study, network: str, known: Known, method: str, seed: int) -> Recipe:
    # Neighbouring classes are often alike, and statistics want a batch of unlike ones.
    classes = torch.randperm(len(known.classes), generator=torch.Generator().manual_seed(seed))
    teacher = Classifier(network, known.network, known.preprocessing)
    how = dreams(study, network, method)
    return Recipe(teacher, tuple(classes.tolist()), **how, seed=seed, statistics=known.statistics)


def dreams_of(study: Study, known: Known) -> int:
    """How many images are dreamt from a network: so many a class, rounded up to whole batches."""
    settings = sizes(study)
    wanted = settings.extension.images_per_class * len(known.classes)
    return -(-wanted // settings.batch_size) * settings.batch_size


def joined(before: Known, known: Known, new: Data) -> FeatureStatistics:
    """The statistics so far, joined by those that the network has on the images it has just learnt."""
    images = known.preprocessing.normalise(some(new.train, WATCHED).pixels)
    device = next(known.network.parameters()).device
    measured = FeatureStatistics.from_images(known.network, images.to(device), AT_ONCE)
    return before.statistics.joined(measured, share=len(new.classes) / len(known.classes))


def top1(known: Known, test: Split, start: int) -> float:
    """Top-1 in percent over all classes on a data set whose first class is `start`."""
    return split_accuracy(known.network, Split(test.pixels, test.labels + start), known.preprocessing, AT_ONCE)


def guessed(known: Known, tests: Sequence[Split]) -> Tensor:
    """(D, D): how many percent of each data set's images (rows) are taken for a class of each data set (columns)."""
    boundaries = torch.tensor([*known.starts[1:], len(known.classes)])
    rows = []
    for test in tests:
        guesses = _logits(known.network, known.preprocessing, test).argmax(1).cpu()
        taken_for = torch.bucketize(guesses, boundaries, right=True)
        rows.append(100 * taken_for.bincount(minlength=len(tests)) / len(test.labels))
    return torch.stack(rows)


def _logits(network: nn.Module, preprocessing: Preprocessing, split: Split) -> Tensor:
    device = next(network.parameters()).device
    batches = [preprocessing.normalise(pixels).to(device) for pixels in split.pixels.split(AT_ONCE)]
    return torch.cat([predict(network, batch) for batch in batches])
