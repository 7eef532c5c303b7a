"""Sec. 4.5 as cells: data sets added one after another to a trained network, by five methods (Tables 7 and 11)."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from dilib import data, sources, transfer
from dilib.artifacts import digest, has_tensors, load_tensors, save_tensors
from dilib.classifiers import Classifier
from dilib.data import Data, Split
from dilib.evaluation import predict, split_accuracy
from dilib.extension import METHODS, binary_cross_entropy, extend, learn_new_classes
from dilib.models import Preprocessing
from dilib.progress import bar
from dilib.recipe import Recipe
from dilib.study import Study, plain
from dilib.training import train
from dilib.workers import cells_side_by_side

WATCHED = 1000  # test images of a data set that are looked at along the way
HALF = "half"  # the base data set's classes, split into old ones and new ones that resemble them
Task = tuple[tuple[str, ...], str, int]  # the data sets added, the method, the seed


@dataclass(frozen=True)
class Known:
    """A network as extended so far: its classes' names in order, and for each data set its first class."""

    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    starts: tuple[int, ...]


def check_addition(known: Sequence[str], channels: int, added: Data) -> None:
    """Raise ValueError unless the data set can be added to a network with these classes and input channels."""
    clash = sorted(set(known) & set(added.classes))
    if clash:
        raise ValueError(f"{added.title} has classes that are known already ({', '.join(clash[:3])}); rename them")
    if added.preprocessing.channels != channels:
        raise ValueError(
            f"{added.title} has {added.preprocessing.channels} channel(s), the network takes {channels}; convert it"
        )
    for label, name in enumerate(added.classes):
        if not (added.train.labels == label).any():
            raise ValueError(f"{added.title} has no training image of class {name!r}; remove the class or add images")


def chains(study: Study) -> dict[str, tuple[str, ...]]:
    """Which data sets are added one after another, by the paper's task: the first, the second, or both."""
    added = study.scale.continual.added
    alone = {word: (name,) for word, name in zip(("first", "second"), added, strict=False)}
    return alone | ({"both": added} if len(added) > 1 else {})


def tasks(study: Study, seeds: Sequence[int]) -> list[Task]:
    """Every method on every chain, and on halves of the base; the oracles for the first seed alone."""
    return [
        (chain, method, seed)
        for chain in (*chains(study).values(), (HALF,))
        for seed in seeds
        for method in METHODS
        if seed == seeds[0] or not method.startswith("oracle")
    ]


def run(study: Study, tasks: Sequence[Task]) -> None:
    """The cells of these tasks, side by side, where they are not there yet."""
    for added in dict.fromkeys(added for added, _, _ in tasks):
        _check(study, added)
    cells_side_by_side(cell, _key, study, tasks)


def _check(study: Study, added: tuple[str, ...]) -> None:
    first, *others = _data_sets(study, added)
    classes = first.classes
    for other in others:
        check_addition(classes, first.preprocessing.channels, other)
        classes += other.classes


def cell(study: Study, added: tuple[str, ...], method: str, seed: int) -> dict:
    """Top-1 on each data set over all classes, after adding data sets one by one, and along the last addition."""
    name, settings, _ = _key(study, added, method, seed)
    return study.cell(name, settings, lambda: _metrics(study, added, method, seed), seed)


def finished(study: Study, added: tuple[str, ...], method: str) -> list[dict]:
    """The cells there are, one a seed."""
    name, settings, _ = _key(study, added, method, 0)
    return study.cells(name, settings)


def trained(study: Study, added: tuple[str, ...], method: str, seed: int) -> Known | None:
    """The extended network of a cell, or None where its weights are not in artifacts."""
    there = has_tensors(*_weights(study, added, method, seed))
    return _after(study, added, len(added), method, seed)[0] if there else None


def _weights(study: Study, added: tuple[str, ...], method: str, seed: int) -> tuple[Path, dict]:
    """Where the weights of an extended network are, and their card."""
    card = {"settings": _key(study, added, method, seed)[1], "seed": seed}
    return study.artifacts / "continual" / f"{digest(card)}.safetensors", card


def _key(study: Study, added: tuple[str, ...], method: str, seed: int) -> tuple[str, dict, int]:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    continual = study.scale.continual
    settings = {
        "teacher": transfer.teacher_settings(study, continual.network),
        "added": [f"half of {continual.old}" if name == HALF else data.slug(name) for name in added],
        "method": method,
        "extension": continual.extension,
    }
    if method == "lwf_mc":
        settings["binary"] = continual.binary
    elif method in ("deepdream", "deepinversion"):
        settings["objective"] = transfer.objective_of(study, continual.network, method)
        settings["schedule"] = continual.schedule
        settings["batch_size"] = study.scale.batch_size
    chain = "--".join(name if name == HALF else data.slug(name) for name in added)
    return f"continual--{chain}--{method}", plain(settings), seed


def _data_sets(study: Study, added: tuple[str, ...]) -> list[Data]:
    """The base and the data sets added to it, in order."""
    if added == (HALF,):
        return list(halves(study.data, study.scale.continual.old))
    size = study.data.preprocessing.size
    return [study.data, *(_loaded(name, study.data_folder, size) for name in added)]


_loaded = lru_cache(data.load)


def halves(whole: Data, old: Sequence[int]) -> tuple[Data, Data]:
    """A data set's old classes, and its others, each counted from 0."""
    new = [label for label in range(len(whole.classes)) if label not in old]
    return tuple(
        replace(
            whole,
            title=f"{whole.title}, {word} classes",
            train=_of_classes(whole.train, labels),
            test=_of_classes(whole.test, labels),
            classes=tuple(whole.classes[label] for label in labels),
        )
        for word, labels in (("old", sorted(old)), ("new", new))
    )


def _of_classes(split: Split, labels: list[int]) -> Split:
    chosen = torch.isin(split.labels, torch.tensor(labels))
    return Split(split.pixels[chosen], torch.searchsorted(torch.tensor(labels), split.labels[chosen]))


def base(study: Study, added: tuple[str, ...], method: str) -> Known:
    """The network before anything is added; for LwF.MC fine-tuned with binary cross-entropy, as it asks for."""
    varied, network = study, study.scale.continual.network
    if added == (HALF,):
        varied = copy.copy(study)
        varied.data = _data_sets(study, added)[0]
        varied.place = study.place.with_name(f"{study.place.name}-{HALF}")
        varied.artifacts = study.artifacts / HALF
    teacher, classes = transfer.load_teacher(varied, network), varied.data.classes
    if method == "lwf_mc":
        teacher = _binary(varied, teacher)
    return Known(teacher, study.data.preprocessing, classes, (0,))


def _binary(study: Study, teacher: nn.Module) -> nn.Module:
    """The teacher fine-tuned on its own data with binary cross-entropy."""
    settings, network = study.scale.continual.binary, study.scale.continual.network
    card = plain({"teacher": transfer.teacher_settings(study, network), "binary": settings})
    path, split = study.artifacts / "teachers" / f"{network}-binary.safetensors", study.data.train
    with study.lock("teacher-binary"):
        if not has_tensors(path, card):
            images = study.data.preprocessing.normalise(split.pixels).to(study.device)
            with bar(settings.epochs, "binary cross-entropy for LwF.MC") as progress:
                train(
                    teacher,
                    images,
                    split.labels.to(study.device),
                    settings,
                    loss_of=binary_cross_entropy,
                    on_epoch=lambda epoch, _: progress.update(epoch - progress.n),
                )
            save_tensors(path, teacher.state_dict(), card)
    teacher.load_state_dict(load_tensors(path, card)[0])
    return teacher.eval()


def _metrics(study: Study, added: tuple[str, ...], method: str, seed: int) -> dict:
    known, progress = _after(study, added, len(added), method, seed)
    top1s = [_top1(known, each.test, start) for each, start in zip(_data_sets(study, added), known.starts, strict=True)]
    return {
        "combined": sum(top1s) / len(top1s),
        **dict(zip(("base", *added), top1s, strict=True)),
        "classes": known.classes,
        "seconds": progress["seconds"].item(),
        "along": progress["along"].tolist(),  # updates done, then top-1 on each data set
        "guessed": progress["guessed"].tolist(),  # see `_guessed`; before and after
    }


def _after(study: Study, added: tuple[str, ...], steps: int, method: str, seed: int) -> tuple[Known, dict[str, Tensor]]:
    """The network after the first `steps` additions, made first if it is not there yet, and how the last one went."""
    if steps == 0:
        return base(study, added, method), {}
    path, card = _weights(study, added[:steps], method, seed)
    before, _ = _after(study, added, steps - 1, method, seed)
    new = _data_sets(study, added)[steps]
    extended = extend(before.network, len(new.classes), seed)
    known = Known(extended, before.preprocessing, before.classes + new.classes, (*before.starts, len(before.classes)))
    with study.lock(f"continual-{path.stem}"):
        if not has_tensors(path, card):
            progress = _learn(study, added, before, known, method, seed)
            weights = {f"network.{name}": value for name, value in extended.state_dict().items()}
            save_tensors(path, weights | progress, card)
    tensors, _ = load_tensors(path, card)
    extended.load_state_dict({name[8:]: value for name, value in tensors.items() if name.startswith("network.")})
    return replace(known, network=extended.eval()), tensors


def _learn(study: Study, added, before: Known, known: Known, method: str, seed: int) -> dict[str, Tensor]:
    """Train the extended network in place; the course of its accuracies, what was taken for what, and seconds."""
    started, settings = time.perf_counter(), study.scale.continual.extension
    data_sets = _data_sets(study, added)[: len(known.starts)]
    tests = [_some(each.test, WATCHED) for each in data_sets]
    label = f"{data_sets[-1].title} by {METHODS[method]}, seed {seed}"
    along, guessed = [], [_guessed(known, tests)]
    with bar(settings.updates, label) as progress:

        def watch(done: int) -> None:
            progress.update()
            if done % max(1, settings.updates // 10) == 0:
                along.append([done, *(_top1(known, *each) for each in zip(tests, known.starts, strict=True))])

        learn_new_classes(
            before.network,
            known.network,
            _memories(study, data_sets[:-1], before, method, seed),
            Split(data_sets[-1].train.pixels, data_sets[-1].train.labels + len(before.classes)),
            study.data.preprocessing,
            settings,
            method,
            seed=seed,
            on_update=watch,
        )
    guessed.append(_guessed(known, tests))
    return {
        "along": torch.tensor(along),
        "guessed": torch.stack(guessed),
        "seconds": torch.tensor(time.perf_counter() - started, dtype=torch.float64),
    }


def _memories(study: Study, known_data: list[Data], before: Known, method: str, seed: int) -> Split | None:
    """Old classes' images as the method has them, with labels: none, real ones, or dreamt by the network so far."""
    per_class = study.scale.continual.extension.images_per_class
    if method == "lwf_mc":
        return None
    if method.startswith("oracle"):
        parts = [_first_of_each(each, per_class, start) for each, start in zip(known_data, before.starts, strict=True)]
        return Split(*(torch.cat(columns) for columns in zip(*((p.pixels, p.labels) for p in parts), strict=True)))
    network = study.scale.continual.network
    recipe = Recipe(
        Classifier(network, before.network, study.data.preprocessing),
        tuple(range(len(before.classes))),
        study.scale.batch_size,
        transfer.objective_of(study, network, method),
        (study.scale.continual.schedule,),
        seed=seed,
    )
    batches = -(-per_class * len(before.classes) // recipe.batch_size)
    return sources.dreamt(study, recipe, batches * recipe.batch_size)


def _first_of_each(each: Data, count: int, start: int) -> Split:
    """The first `count` training images of every class, labels counted from `start`."""
    chosen = torch.cat([(each.train.labels == label).nonzero()[:count, 0] for label in range(len(each.classes))])
    return Split(each.train.pixels[chosen], each.train.labels[chosen] + start)


def _some(split: Split, count: int) -> Split:
    """Every so many-th image, at most `count`."""
    step = -(-len(split.labels) // count)
    return Split(split.pixels[::step], split.labels[::step])


def _top1(known: Known, test: Split, start: int) -> float:
    """Top-1 in percent over all classes on a data set whose first class is `start`."""
    return split_accuracy(known.network, Split(test.pixels, test.labels + start), known.preprocessing)


def _guessed(known: Known, tests: Sequence[Split]) -> Tensor:
    """(D, D): how many percent of each data set's images (rows) are taken for a class of each data set (columns)."""
    boundaries = torch.tensor([*known.starts[1:], len(known.classes)])
    rows = []
    for test in tests:
        taken_for = torch.bucketize(_logits(known, test).argmax(1).cpu(), boundaries, right=True)
        rows.append(100 * taken_for.bincount(minlength=len(tests)) / len(test.labels))
    return torch.stack(rows)


def _logits(known: Known, test: Split) -> Tensor:
    device = next(known.network.parameters()).device
    batches = [known.preprocessing.normalise(pixels).to(device) for pixels in test.pixels.split(1000)]
    return torch.cat([predict(known.network, batch) for batch in batches])
