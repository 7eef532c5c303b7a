"""Sec. 4.5 as cells: data sets added one after another to a trained network, by five methods (Tables 7 and 11)."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dilib import sources
from dilib.artifacts import digest, has_tensors, load_tensors, save_tensors, weights
from dilib.continual_data import HALF, check, data_sets, first_of_each, metric, sizes, some
from dilib.data import Data, Split
from dilib.extension import METHODS, extend, learn_new_classes
from dilib.learner import (
    DREAMS,
    WATCHED,
    Known,
    base,
    base_settings,
    dreams,
    dreams_cell,
    dreams_of,
    guessed,
    joined,
    recipe,
    top1,
)
from dilib.progress import bar
from dilib.study import Study, plain
from dilib.workers import cells_side_by_side

Task = tuple[str, tuple[str, ...], str, int]  # the network, the data sets added to it, the method, the seed


def chains(study: Study, added: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Which data sets (`added`, or the scale's) are added one after another, by the paper's task."""
    settings = sizes(study)
    names = tuple(added) or settings.added
    alone = {role: (name,) for role, name in zip(settings.roles, names, strict=False)}
    return alone | ({"both": names} if len(names) > 1 else {})


def tasks(study: Study, seeds: Sequence[int], added: Sequence[str] = ()) -> list[Task]:
    """Table 7: every method on every chain and, for the first seed, on halves of the base. Oracles have one seed.

    Table 11, where the scale has a second network: what the paper has of it, for the first seed.
    """
    settings, every = sizes(study), chains(study, added)
    first, *second = settings.networks
    table7 = [
        (first, chain, method, seed)
        for chain in every.values()
        for seed in seeds
        for method in settings.methods
        if seed == seeds[0] or not method.startswith("oracle")
    ]
    halves = [(first, (HALF,), method, seeds[0]) for method in settings.methods if settings.old]
    table11 = [
        (network, chain, method, seeds[0])
        for network in second
        for chain in every.values()
        for method in settings.methods
        if len(chain) == 1 and method != "deepdream"
    ]
    return [*table7, *halves, *table11]


def run(study: Study, tasks: Sequence[Task]) -> None:
    """The cells of these tasks, side by side, where they are not there yet."""
    missing = [task for task in tasks if not study.has(*_key(study, *task))]
    for added in dict.fromkeys(added for _, added, _, _ in missing):
        check(study, added)
    # Images from the base networks are what all chains begin with: every process makes some of them.
    for network, halved, method, seed in dict.fromkeys((n, added == (HALF,), m, s) for n, added, m, s in tasks):
        if method in DREAMS:
            dreams_cell(study, network, halved, method, seed)
    cells_side_by_side(cell, _key, study, tasks)


def cell(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> dict:
    """Top-1 on each data set over all classes, after adding data sets one by one, and along the last addition."""
    name, settings, _ = _key(study, network, added, method, seed)
    return study.cell(name, settings, lambda: _metrics(study, network, added, method, seed), seed)


def finished(study: Study, network: str, added: tuple[str, ...], method: str) -> list[dict]:
    """The cells there are, one a seed."""
    name, settings, _ = _key(study, network, added, method, 0)
    return study.cells(name, settings)


def trained(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> Known | None:
    """The extended network of a cell, or None where its weights are not in artifacts."""
    there = has_tensors(*_weights(study, network, added, method, seed))
    return _after(study, network, added, method, seed)[0] if there else None


def _weights(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> tuple[Path, dict]:
    """Where the weights of an extended network are, and their card."""
    card = {"settings": _key(study, network, added, method, seed)[1], "seed": seed}
    return study.artifacts / "continual" / f"{digest(card)}.safetensors", card


def _key(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> tuple[str, dict, int]:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    of_scale, words = sizes(study), [metric(name) for name in added]
    settings = {
        "base": base_settings(study, network, added == (HALF,)),
        "added": words,
        "method": method,
        "extension": of_scale.extension,
    }
    if method == "lwf_mc":
        settings["binary"] = of_scale.binary
    elif method in DREAMS:
        settings["dreams"] = dreams(study, network, method)
    return f"continual--{network}--{'--'.join(words)}--{method}", plain(settings), seed


def _metrics(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> dict:
    known, progress = _after(study, network, added, method, seed)
    top1s = [top1(known, each.test, start) for each, start in zip(data_sets(study, added), known.starts, strict=True)]
    return {
        "combined": sum(top1s) / len(top1s),
        **dict(zip(("base", *map(metric, added)), top1s, strict=True)),
        "classes": known.classes,
        "seconds": progress["seconds"].item(),
        "along": progress["along"].tolist(),  # updates done, then top-1 on each data set
        "guessed": progress["guessed"].tolist(),  # see `guessed`; before and after
    }


def _after(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> tuple[Known, dict]:
    """The network after these additions, made first if it is not there yet, and how the last one went, as tensors."""
    if not added:
        return base(study, network, False, method), {}
    path, card = _weights(study, network, added, method, seed)
    halved = added == (HALF,)
    before = base(study, network, True, method) if halved else _after(study, network, added[:-1], method, seed)[0]
    new = data_sets(study, added)[-1]
    known = replace(
        before,
        network=extend(before.network, len(new.classes), seed),
        classes=before.classes + new.classes,
        starts=(*before.starts, len(before.classes)),
    )
    with study.lock(f"continual-{path.stem}"):
        if not has_tensors(path, card):
            progress = _learn(study, network, added, before, known, method, seed)
            learnt = {f"network.{name}": value for name, value in weights(known.network).items()}
            save_tensors(path, learnt | progress | joined(before, known, new).tensors(), card)
    tensors, _ = load_tensors(path, card)
    known.network.load_state_dict({name[8:]: value for name, value in tensors.items() if name.startswith("network.")})
    known.network.eval()
    return replace(known, statistics=before.statistics.like(tensors)), tensors


def _learn(
    study: Study, network: str, added: tuple[str, ...], before: Known, known: Known, method: str, seed: int
) -> dict[str, Tensor]:
    """Train the extended network in place; the course of its accuracies, what was taken for what, and seconds."""
    started, settings = time.perf_counter(), sizes(study).extension
    sets = data_sets(study, added)
    tests = [some(each.test, WATCHED) for each in sets]
    label = f"{sets[-1].title} by {METHODS[method]}, seed {seed}"
    along, taken_for = [], [guessed(known, tests)]
    with bar(settings.updates, label) as progress:

        def watch(done: int) -> None:
            progress.update()
            if done % max(1, settings.updates // 10) == 0:
                along.append([done, *(top1(known, *each) for each in zip(tests, known.starts, strict=True))])

        learn_new_classes(
            before.network,
            known.network,
            _memories(study, network, sets[:-1], before, method, seed),
            Split(sets[-1].train.pixels, sets[-1].train.labels + len(before.classes)),
            known.preprocessing,
            settings,
            method,
            seed=seed,
            on_update=watch,
        )
    taken_for.append(guessed(known, tests))
    return {
        "along": torch.tensor(along),
        "guessed": torch.stack(taken_for),
        "seconds": torch.tensor(time.perf_counter() - started, dtype=torch.float64),
    }


def _memories(
    study: Study, network: str, known_data: list[Data], before: Known, method: str, seed: int
) -> Split | None:
    """Old classes' images as the method has them, with labels: none, real ones, or dreamt by the network so far."""
    if method == "lwf_mc":
        return None
    if method in DREAMS:
        return sources.dreamt(study, recipe(study, network, before, method, seed), dreams_of(study, before))
    count = sizes(study).extension.images_per_class
    parts = [first_of_each(each, count, start) for each, start in zip(known_data, before.starts, strict=True)]
    return Split(*(torch.cat(columns) for columns in zip(*((p.pixels, p.labels) for p in parts), strict=True)))
