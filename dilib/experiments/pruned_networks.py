"""What pruning leaves of a teacher, and how well its latency is foretold. Sec. 4.3."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dilib.artifacts import digest, load_tensors, plain, save_tensors
from dilib.classifier import Classifier
from dilib.compression import latency
from dilib.compression.latency import Clock, LookupTable, Operator
from dilib.compression.pruning import (
    Coupled,
    Kept,
    PruningSettings,
    Target,
    counts,
    coupled,
    gflops,
    prune,
    removed,
)
from dilib.data import Split
from dilib.evaluation import split_accuracy
from dilib.experiments.image_sources import images, source_settings
from dilib.experiments.teachers import Maker, maker_of
from dilib.study.cells import Cell, Study
from dilib.study.scales.settings import Compression
from dilib.timing import threads


@dataclass(frozen=True)
class Pruning:
    """Where pruning stops, and by which images, loss and score filters are ranked.

    A `share` of the "filters" goes, or one of the "latency" stays. `source` is "deepinversion" or "real".
    `hardware_aware` counts latency in.
    """

    kind: str
    share: float
    source: str = "deepinversion"
    hardware_aware: bool = False
    loss: str = "kl"

    @property
    def name(self) -> str:
        """As part of a cell's name."""
        score = "hardware-aware" if self.hardware_aware else "taylor"
        return f"{self.kind}-{self.share:g}--{score}-{self.loss}-{self.source}"


def whole_network(study: Study, seed: int = 0) -> Maker:
    """The network that is pruned."""
    return maker_of(study, study.scale.compression.network, seed)


def pruned_cell(study: Study, pruning: Pruning, seed: int = 0) -> Cell:
    """A pruned network before any tuning: top-1, filters, and GFLOPs (multiply-adds) and looked-up ms of a batch."""
    name, settings = f"pruned--{pruning.name}", pruned_settings(study, pruning)
    return Cell(name, settings, partial(_pruned_metrics, study, pruning, seed), seed)


def pruned_settings(study: Study, pruning: Pruning) -> dict:
    """Everything but the seed that decides which filters stay."""
    settings = study.scale.compression
    return plain(
        {
            "teacher": whole_network(study).settings,
            "cut": pruning,
            "ranking": _ranking(settings, pruning),
            "images": [source_settings(study, pruning.source, settings.network), settings.images],
            "batch": settings.batch,
        }
    )


def _ranking(settings: Compression, pruning: Pruning) -> PruningSettings:
    return replace(settings.ranking, loss=pruning.loss, eta=settings.eta if pruning.hardware_aware else 0.0)


def _pruned_metrics(study: Study, pruning: Pruning, seed: int) -> dict:
    teacher, (kept, stopped) = whole_network(study, seed).load(), kept_filters(study, pruning, seed)
    smaller = teacher.with_network(removed(teacher, kept).eval())
    operators, table, _ = lookup(study, seed)
    left, batch = counts(kept), study.scale.compression.batch
    return {
        "top1": split_accuracy(smaller, study.data.test),
        "teacher_top1": split_accuracy(teacher, study.data.test),
        "filters": 100 * sum(len(group.convolutions) * n for group, n in left.items()) / sum(g.filters for g in kept),
        "gflops": batch * gflops(smaller),
        "gflops_before": batch * gflops(teacher),
        "looked_up": table.milliseconds(operators, left),
        "layers": {group.convolutions[0]: count for group, count in left.items()},
        "stopped": stopped,
    }


def kept_filters(study: Study, pruning: Pruning, seed: int) -> tuple[Kept, str]:
    """Which filters stay, ranked first if that is not in artifacts, and why ranking stopped short, if it did."""
    card = pruned_settings(study, pruning)
    path = study.artifacts / "pruned" / f"{digest([card, seed])}.safetensors"
    teacher = whole_network(study, seed).load()
    groups = coupled(teacher)
    with study.lock(f"pruned-{path.stem}"):
        if load_tensors(path, card) is None:
            kept, stopped = _rank(study, teacher, pruning, seed)
            save_tensors(
                path, {group.convolutions[0]: stays for group, stays in kept.items()}, {**card, "stopped": stopped}
            )
    masks, saved = load_tensors(path, card)
    return {group: masks[group.convolutions[0]] for group in groups}, saved["stopped"]


def _rank(study: Study, teacher: Classifier, pruning: Pruning, seed: int) -> tuple[Kept, str]:
    settings = study.scale.compression
    operators, table, whole = lookup(study, seed)
    ranked_on = images(study, pruning.source, settings.network, settings.images, seed)
    found = prune(
        teacher,
        _batches(teacher, ranked_on, settings.ranking.batch_size, seed),
        _ranking(settings, pruning),
        Target(pruning.kind, pruning.share * whole if pruning.kind == "latency" else pruning.share),
        partial(table.milliseconds, operators),
    )
    return found.kept, found.stopped


def _batches(teacher: Classifier, split: Split, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches drawn at random, without end."""
    random = torch.Generator().manual_seed(seed)
    for _ in itertools.count():
        chosen = torch.randint(len(split.labels), (size,), generator=random)
        yield teacher.preprocessing.normalise(split.pixels[chosen]).to(teacher.device), split.labels[chosen]


def lookup(study: Study, seed: int = 0) -> tuple[list[Operator], LookupTable, float]:
    """A teacher's operators, this device's table for them, measured first if need be, and the teacher's latency."""
    teacher, settings = whole_network(study, seed).load(), study.scale.compression
    operators = latency.operators(teacher, coupled(teacher))
    path = study.artifacts / "latency" / f"{digest(plain(_latency_settings(study)))}.json"
    with study.lock(f"latency-{path.stem}"):
        if not path.exists():
            with threads(1):
                clock = Clock(settings.batch, study.device)
                latency.save(path, latency.measure(operators, clock, settings.steps), study.device)
    table = latency.load(path)
    whole = {group: group.channels for group in coupled(teacher)}
    return operators, table, table.milliseconds(operators, whole)


def latency_cell(study: Study) -> Cell:
    """How well looked-up latencies, on one thread, tell those of networks pruned at random: R² and both, in ms."""
    return Cell("latency", _latency_settings(study), partial(_latency_metrics, study))


def _latency_settings(study: Study) -> dict:
    settings = study.scale.compression
    measured = {"batch": settings.batch, "steps": settings.steps, "checked": settings.checked}
    return {"teacher": whole_network(study).settings, **measured}


def _latency_metrics(study: Study) -> dict:
    settings, teacher = study.scale.compression, whole_network(study).load()
    operators, table, whole = lookup(study)
    groups = coupled(teacher)
    random = torch.Generator().manual_seed(0)
    every = [_at_random(groups, settings.ranking.group, random) for _ in range(settings.checked)]
    looked_up = [table.milliseconds(operators, counts(kept)) for kept in every]
    real, *measured = _timed(study, teacher, every)
    return {
        "r2": float(np.corrcoef(looked_up, measured)[0, 1] ** 2),
        "looked_up": looked_up,
        "measured": measured,
        "whole_looked_up": whole,
        "whole_measured": real,
    }


def _at_random(groups: list[Coupled], step: int, random: torch.Generator) -> Kept:
    """Some of each set's filters, in whole groups, a share that differs from network to network and set to set."""
    kept, share = {}, torch.rand((), generator=random).item()
    for group in groups:
        most = group.channels // step
        wanted = (2 * share + torch.rand((), generator=random).item()) / 3 * most
        kept[group] = torch.arange(group.channels) < max(1, round(wanted)) * step
    return kept


def _timed(study: Study, teacher: Classifier, every: list[Kept]) -> list[float]:
    """Measured milliseconds of the whole network and of these pruned ones, which take turns on one thread."""
    networks = [teacher.network, *(removed(teacher, kept) for kept in every)]
    with threads(1):
        return Clock(study.scale.compression.batch, study.device).networks(networks, teacher.preprocessing)


def speeds_cell(study: Study, prunings: Sequence[Pruning], seed: int = 0) -> Cell:
    """Milliseconds that pruned networks really take for a batch on one thread, by name, and the "whole" one's."""
    settings = {"cuts": [pruned_settings(study, pruning) for pruning in prunings]}
    return Cell("speeds", settings, partial(_speeds_metrics, study, prunings, seed), seed)


def _speeds_metrics(study: Study, prunings: Sequence[Pruning], seed: int) -> dict:
    every = [kept_filters(study, pruning, seed)[0] for pruning in prunings]
    milliseconds = _timed(study, whole_network(study, seed).load(), every)
    return dict(zip(("whole", *(pruning.name for pruning in prunings)), milliseconds, strict=True))
