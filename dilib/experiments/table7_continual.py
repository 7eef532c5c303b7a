"""Tables 7 and 11: data sets added one after another to a trained network, by several methods. Sec. 4.5."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dilib.artifacts import digest, load_tensors, plain, save_tensors, weights
from dilib.classifier import Classifier
from dilib.continual.extended import AT_ONCE, WATCHED, Extended, joined, logits, some, taken_for, top1
from dilib.continual.extension import (
    CONTINUAL_METHODS,
    ExtensionSettings,
    Lesson,
    binary_cross_entropy,
    extend,
    learn_new_classes,
    shift_to_binary,
)
from dilib.data import Data, Split
from dilib.evaluation import split_accuracy
from dilib.experiments.continual_data import (
    HALF,
    check_additions,
    continual_settings,
    data_sets,
    first_of_each,
    identities,
    metric,
)
from dilib.experiments.image_sources import dreamt
from dilib.experiments.teachers import Maker, imagenet_maker, maker_of
from dilib.feature_statistics import FeatureStatistics
from dilib.networks import IMAGENET_CLASSES
from dilib.progress import bar, counted
from dilib.recipe import Recipe
from dilib.rounds import Run
from dilib.study.cells import TILES, Cell, Study
from dilib.study.workers import side_by_side
from dilib.training import train

DREAMING = ("deepdream", "deepinversion", "amortised")  # the methods that make images
Task = tuple[str, tuple[str, ...], str, int]  # the network, the data sets added to it, the method, the seed


def chains(study: Study, added: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Which data sets (`added`, or the scale's) are added one after another, by the paper's task."""
    settings = continual_settings(study)
    names = tuple(added) or settings.added
    if len(set(map(metric, names))) < len(names):
        raise ValueError(f"of {', '.join(names)} two have one name in results; rename a folder")
    alone = {role: (name,) for role, name in zip(settings.roles, names, strict=False)}
    return alone | ({"both": names} if len(names) > 1 else {})


def continual_cell(study: Study, network: str, added: tuple[str, ...], method: str, seed: int = 0) -> Cell:
    """Top-1 on each data set over all classes, after adding data sets one by one, and along the last addition."""
    name = f"continual--{network}--{'--'.join(map(metric, added))}--{method}"
    settings = _settings(study, network, added, method)
    return Cell(name, settings, partial(_metrics, study, network, added, method, seed), seed)


def run_continual(study: Study, tasks: Sequence[Task]) -> list[dict]:
    """The finished cells of these tasks, side by side; images from the base networks, which all begin with, come first.

    Raises ValueError, before anything is trained, for data sets that can't be added.
    """
    cells = [continual_cell(study, *task) for task in tasks]
    for added in dict.fromkeys(
        added for (_, added, _, _), cell in zip(tasks, cells, strict=True) if not study.has(cell)
    ):
        check_additions(study, added)
    for network, halved, method, seed in dict.fromkeys((n, added == (HALF,), m, s) for n, added, m, s in tasks):
        if method in DREAMING:
            study.result(dreams_cell(study, network, method, seed, halved))
    return study.run(cells)


def _settings(study: Study, network: str, added: tuple[str, ...], method: str) -> dict:
    if method not in CONTINUAL_METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(CONTINUAL_METHODS)}")
    of_scale = continual_settings(study)
    settings = {
        "base": _base_settings(study, network, added == (HALF,)),
        "added": identities(study, added),
        "method": method,
        "extension": extension(study, network, method),
    }
    if method == "lwf_mc":
        settings["binary"] = of_scale.binary
    elif method in DREAMING:
        settings["dreams"] = _dreams(study, network, method)
    return plain(settings)


def extension(study: Study, network: str, method: str) -> ExtensionSettings:
    """How new classes are learnt: the network's settings, with the method's own learning rate where it has one."""
    settings = continual_settings(study)
    usual = settings.networks[network].extension
    return replace(usual, lr=settings.lr.get(method, usual.lr))


def _metrics(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> dict:
    known, course = extended(study, network, added, method, seed)
    top1s = [top1(known, each.test, start) for each, start in zip(data_sets(study, added), known.starts, strict=True)]
    return {
        "combined": sum(top1s) / len(top1s),
        **dict(zip(("base", *map(metric, added)), top1s, strict=True)),
        "classes": known.classes,
        "seconds": course["seconds"].item(),
        "along": course["along"].tolist(),  # updates done, then top-1 on each data set
        "guessed": course["guessed"].tolist(),  # see `taken_for`; before and after
    }


def extended(
    study: Study, network: str, added: tuple[str, ...], method: str, seed: int
) -> tuple[Extended, dict[str, Tensor]]:
    """The network after these additions, made first if it is not there yet, and how the last one went."""
    if not added:
        return base(study, network, method, seed), {}
    path, card = _weights(study, network, added, method, seed)
    halved = added == (HALF,)
    if halved:
        before = base(study, network, method, seed, halved)
    else:
        before, _ = extended(study, network, added[:-1], method, seed)
    new = data_sets(study, added)[-1]
    known = replace(
        before,
        classifier=before.classifier.with_network(extend(before.classifier, len(new.classes), seed)),
        classes=before.classes + new.classes,
        starts=(*before.starts, len(before.classes)),
    )
    with study.lock(f"continual-{path.stem}"):
        if load_tensors(path, card) is None:
            course = _learn(study, network, added, (before, known), method, seed)
            learnt = {f"network.{name}": value for name, value in weights(known.classifier.network).items()}
            save_tensors(path, learnt | course | joined(before, known, new).tensors(), card)
    tensors, _ = load_tensors(path, card)
    state = {name.removeprefix("network."): tensors[name] for name in tensors if name.startswith("network.")}
    known.classifier.network.load_state_dict(state)
    known.classifier.network.eval()
    return replace(known, statistics=before.statistics.like(tensors)), tensors


def extended_if_there(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> Extended | None:
    """The network of a cell, or None where its weights are not in artifacts."""
    there = load_tensors(*_weights(study, network, added, method, seed)) is not None
    return extended(study, network, added, method, seed)[0] if there else None


def _weights(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> tuple[Path, dict]:
    """Where the weights of an extended network are, and their card."""
    card = {"settings": _settings(study, network, added, method), "seed": seed, **study.computing}
    return study.artifacts / "continual" / f"{digest(card)}.safetensors", card


def _learn(
    study: Study, network: str, added: tuple[str, ...], networks: tuple[Extended, Extended], method: str, seed: int
) -> dict[str, Tensor]:
    """Train the second network in place; the course of its accuracies, what was taken for what, and seconds."""
    (before, known), settings = networks, extension(study, network, method)
    sets = data_sets(study, added)
    tests = [some(each.test, WATCHED) for each in sets]
    memories = _memories(study, network, sets[:-1], before, method, seed)
    new = Split(sets[-1].train.pixels, sets[-1].train.labels + len(before.classes))
    along, guessed, started = [], [taken_for(known, tests)], time.perf_counter()
    with bar(settings.updates, f"{sets[-1].title} by {CONTINUAL_METHODS[method]}, seed {seed}") as progress:

        def watch(done: int) -> None:
            progress.update()
            if done % max(1, settings.updates // 10) == 0:
                along.append([done, *(top1(known, *each) for each in zip(tests, known.starts, strict=True))])

        lesson = Lesson(method, new, memories)
        learn_new_classes(before.classifier, known.classifier.network, lesson, settings, seed=seed, on_update=watch)
    seconds = time.perf_counter() - started + (memories.seconds if memories else 0.0)
    return {
        "along": torch.tensor(along),
        "guessed": torch.stack([*guessed, taken_for(known, tests)]),
        "seconds": torch.tensor(seconds, dtype=torch.float64),
    }


def _memories(
    study: Study, network: str, known_data: list[Data], before: Extended, method: str, seed: int
) -> Split | None:
    """Old classes' images as the method has them, with labels: none, real ones, or dreamt by the network so far."""
    if method == "lwf_mc":
        return None
    if method in DREAMING:
        return dreamt(study, _recipe(study, network, before, method, seed), _images(study, network, before))
    count = extension(study, network, method).images_per_class
    parts = [first_of_each(each, count, start) for each, start in zip(known_data, before.starts, strict=True)]
    return Split(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))


def base(study: Study, network: str, method: str, seed: int, halved: bool = False) -> Extended:
    """The network before anything is added; for LwF.MC fine-tuned with binary cross-entropy, as it asks for."""
    settings = continual_settings(study)
    study = study.on_half(settings.old) if halved else study
    maker = _maker(study, network, seed)
    teacher = maker.load()
    teacher = replace(teacher, preprocessing=replace(teacher.preprocessing, size=settings.size))
    if method == "lwf_mc":
        _fine_tune_for_binary(study, network, teacher, seed)
    return Extended(
        teacher,
        IMAGENET_CLASSES if study.dataset == "imagenet" else study.data.classes,
        (0,),
        FeatureStatistics.from_batchnorm(teacher.network, first=maker.first_layer),
    )


def _base_settings(study: Study, network: str, halved: bool) -> dict:
    """What a base network's weights depend on, and the resolution it is used at."""
    settings = continual_settings(study)
    return {
        "network": _maker(study, network).settings,
        "size": settings.size,
        "classes": settings.old if halved else "all",
    }


def _maker(study: Study, network: str, seed: int = 0) -> Maker:
    return imagenet_maker(study, network) if study.dataset == "imagenet" else maker_of(study, network, seed)


def _fine_tune_for_binary(study: Study, network: str, teacher: Classifier, seed: int) -> None:
    """Fine-tune the teacher, in place, on its own data with binary cross-entropy, or load what that gave before."""
    settings, split = continual_settings(study).binary, data_sets(study, ())[0].train
    card = {"teacher": _maker(study, network).settings, "binary": settings, "size": teacher.preprocessing.size}
    card = plain(card | study.computing | {"seed": seed})
    path = study.artifacts / "teachers" / f"{network}-binary-seed{seed}.safetensors"
    with study.lock(f"teacher-{path.stem}"):
        if load_tensors(path, card) is None:
            shift_to_binary(teacher, logits(teacher, some(split, WATCHED)))
            teacher.network.requires_grad_(True)
            with counted(settings.epochs, "binary cross-entropy for LwF.MC") as on_round:
                train(teacher, split, settings, Run(seed, on_round=on_round), loss_of=binary_cross_entropy)
            save_tensors(path, weights(teacher.network), card)
    teacher.network.load_state_dict(load_tensors(path, card)[0])
    teacher.network.eval()


def untrained(study: Study, network: str, classes: int) -> nn.Module:
    """A network of the same architecture with random weights and `classes` outputs."""
    maker = _maker(study, network)
    return extend(maker.load().with_network(maker.fresh(0)), classes - maker.classes(), seed=0)


def dreams_cell(study: Study, network: str, method: str, seed: int = 0, halved: bool = False) -> Cell:
    """What a base network makes of images dreamt from itself; all processes make them together.

    Its samples are the first images, of classes `sample_labels`.
    """
    name = f"continual-dreams--{network}{'--half' if halved else ''}--{method}"
    settings = {
        "base": _base_settings(study, network, halved),
        "dreams": _dreams(study, network, method),
        "images_per_class": extension(study, network, method).images_per_class,
    }
    return Cell(name, settings, partial(_dreams_metrics, study, network, method, seed, halved), seed)


def _dreams_metrics(study: Study, network: str, method: str, seed: int, halved: bool) -> dict:
    known = base(study, network, method, seed, halved)
    recipe, count = _recipe(study, network, known, method, seed), _images(study, network, known)
    # Batches from a shared start are made one after another.
    processes = 1 if recipe.shared_start else min(study.jobs, count // recipe.batch_size)
    side_by_side([partial(_fill, study, network, method, seed, halved)] * processes, study.jobs)
    made = dreamt(study, recipe, count)
    return {
        "images": count,
        "seconds": made.seconds / max(1, processes),
        "processes": processes,
        "teacher_top1": split_accuracy(known.classifier, made, AT_ONCE),
        "sample_labels": made.labels[: 2 * TILES].tolist(),
        "samples": made.pixels[: 2 * TILES],
    }


def _fill(study: Study, network: str, method: str, seed: int, halved: bool) -> None:
    known = base(study, network, method, seed, halved)
    dreamt(study, _recipe(study, network, known, method, seed), _images(study, network, known))


def _dreams(study: Study, network: str, method: str) -> dict:
    """How images are dreamt: what a recipe has beside network, classes and seed."""
    settings, maker = continual_settings(study), _maker(study, network)
    how = settings.networks[network]
    dreams = {
        "batch_size": how.batch_size,
        "objective": how.objective or maker.objective,
        "schedules": (how.schedule,),
        "first_layer": maker.first_layer,
    }
    if method == "deepdream":
        dreams["objective"] = replace(dreams["objective"].deepdream(), alpha_tv=settings.deepdream_tv)
    if method == "amortised":
        amortised = study.scale.amortised
        dreams |= {
            "objective": amortised.objective[network].deepinversion(),
            "schedules": (amortised.schedule,),
            "warm_up": amortised.warm_up,
            "shared_start": amortised.settings,
        }
    return dreams


def _recipe(study: Study, network: str, known: Extended, method: str, seed: int) -> Recipe:
    # Neighbouring classes are often alike, and statistics want a batch of unlike ones.
    classes = torch.randperm(len(known.classes), generator=torch.Generator().manual_seed(seed))
    dreams = _dreams(study, network, method)
    return Recipe(known.classifier, tuple(classes.tolist()), **dreams, seed=seed, statistics=known.statistics)


def _images(study: Study, network: str, known: Extended) -> int:
    """How many images are dreamt from a network: `images_per_class` each, rounded up to whole batches."""
    how = continual_settings(study).networks[network]
    return -(-how.extension.images_per_class * len(known.classes) // how.batch_size) * how.batch_size
