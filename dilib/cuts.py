"""Pruned networks as cells: what a cut leaves of a teacher, and how well its latency is foretold. Sec. 4.3."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dilib import latency, sources
from dilib.artifacts import digest, load_tensors, save_tensors
from dilib.classifiers import Classifier
from dilib.data import Split
from dilib.evaluation import split_accuracy
from dilib.latency import Clock, LookupTable, Operator
from dilib.pruning import Coupled, Kept, Pruned, PruningSettings, Target, counts, coupled, prune, removed
from dilib.scales import Compression
from dilib.study import Study, plain
from dilib.subject import Subject, teacher_top1
from dilib.subject import subject as subject_of


@dataclass(frozen=True)
class Cut:
    """A pruned network: where pruning stops, and by which images, loss and score its filters are ranked.

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


def subject(study: Study) -> Subject:
    """The network that is pruned."""
    return subject_of(study, study.scale.compression.network)


def example(teacher: Classifier) -> Tensor:
    """One black image, to trace a network with."""
    device = next(teacher.network.parameters()).device
    return torch.zeros(1, teacher.preprocessing.channels, *[teacher.preprocessing.size] * 2, device=device)


def lookup(study: Study) -> tuple[list[Operator], LookupTable, float]:
    """The teacher's operators, this device's table for them, measured first if need be, and the teacher's latency."""
    teacher, settings = subject(study).load(), study.scale.compression
    image = example(teacher)
    operators = latency.operators(teacher.network, coupled(teacher.network, image), image)
    path = study.artifacts / "latency" / f"{digest(_latency_key(study)[1])}.json"
    with study.lock(f"latency-{path.stem}"):
        if not path.exists():
            with _one_thread():
                clock = Clock(settings.batch, study.device)
                latency.save(path, latency.measure(operators, clock, settings.steps), study.device)
    table = latency.load(path)
    whole = {operator.outputs: operator.outputs.channels for operator in operators}
    return operators, table, table.milliseconds(operators, whole)


def latency_cell(study: Study) -> dict:
    """How well looked-up latencies, on one thread, tell those of networks pruned at random: R² and both, in ms."""
    return study.cell(*_latency_key(study)[:2], lambda: _latency_metrics(study))


def _latency_key(study: Study) -> tuple[str, dict, int]:
    settings, teacher = study.scale.compression, subject(study)
    measured = {"batch": settings.batch, "steps": settings.steps, "checked": settings.checked}
    return "latency", plain({"teacher": teacher.settings, **measured}), 0


def _latency_metrics(study: Study) -> dict:
    settings, teacher = study.scale.compression, subject(study).load()
    operators, table, whole = lookup(study)
    groups = list(dict.fromkeys(operator.outputs for operator in operators))
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
    """Measured milliseconds of the whole network and of these cut ones, which take turns on one thread."""
    networks = [teacher.network, *(removed(teacher.network, kept, example(teacher)) for kept in every)]
    with _one_thread():
        clock = Clock(study.scale.compression.batch, study.device)
        return clock.networks(networks, teacher.preprocessing.size, teacher.preprocessing.channels)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cut_cell(study: Study, cut: Cut, seed: int) -> dict:
    """A pruned network before any tuning: top-1, filters, and GFLOPs (multiply-adds) and looked-up ms of a batch."""
    name, settings, _ = cut_key(study, cut, seed)
    return study.cell(name, settings, lambda: _cut_metrics(study, cut, seed), seed)


def finished_cuts(study: Study, cut: Cut) -> list[dict]:
    """The cells there are, one a seed."""
    return study.cells(*cut_key(study, cut, 0)[:2])


def cut_key(study: Study, cut: Cut, seed: int) -> tuple[str, dict, int]:
    settings, teacher = study.scale.compression, subject(study)
    card = {
        "teacher": teacher.settings,
        "cut": cut,
        "ranking": _ranking(settings, cut),
        "images": [sources.settings(study, cut.source, settings.network), settings.images],
        "batch": settings.batch,
    }
    return f"pruned--{cut.name}", plain(card), seed


def _ranking(settings: Compression, cut: Cut) -> PruningSettings:
    return replace(settings.ranking, loss=cut.loss, eta=settings.eta if cut.hardware_aware else 0.0)


def _cut_metrics(study: Study, cut: Cut, seed: int) -> dict:
    teacher, (kept, stopped) = subject(study).load(), kept_filters(study, cut, seed)
    smaller = removed(teacher.network, kept, example(teacher))
    operators, table, _ = lookup(study)
    return {
        "top1": split_accuracy(smaller.eval(), study.data.test, teacher.preprocessing),
        "teacher_top1": teacher_top1(study, study.scale.compression.network),
        "filters": 100 * sum(len(g.convolutions) * n for g, n in counts(kept).items()) / sum(g.filters for g in kept),
        "gflops": study.scale.compression.batch * gflops(smaller, example(teacher)),
        "gflops_before": study.scale.compression.batch * gflops(teacher.network, example(teacher)),
        "looked_up": table.milliseconds(operators, counts(kept)),
        "layers": {group.convolutions[0]: count for group, count in counts(kept).items()},
        "stopped": stopped,
    }


@torch.no_grad()
def gflops(network: nn.Module, image: Tensor) -> float:
    """Billions of multiply-adds for one image (1, C, H, W)."""
    with FlopCounterMode(display=False) as counter:
        network.eval()(image)
    return counter.get_total_flops() / 2e9


def kept_filters(study: Study, cut: Cut, seed: int) -> tuple[Kept, str]:
    """Which filters stay, ranked first if that is not in artifacts, and why ranking stopped short, if it did."""
    _, card, _ = cut_key(study, cut, seed)
    path = study.artifacts / "pruned" / f"{digest([card, seed])}.safetensors"
    teacher = subject(study).load()
    groups = coupled(teacher.network, example(teacher))
    with study.lock(f"pruned-{path.stem}"):
        if load_tensors(path, card) is None:
            found = _rank(study, teacher, cut, seed)
            masks = {group.convolutions[0]: stays for group, stays in found.kept.items()}
            save_tensors(path, masks, {**card, "stopped": found.stopped})
    masks, saved = load_tensors(path, card)
    return {group: masks[group.convolutions[0]] for group in groups}, saved["stopped"]


def _rank(study: Study, teacher: Classifier, cut: Cut, seed: int) -> Pruned:
    settings = study.scale.compression
    operators, table, whole = lookup(study)
    return prune(
        teacher.network,
        example(teacher),
        _batches(teacher, _ranked_on(study, cut, seed), settings.ranking.batch_size, seed),
        _ranking(settings, cut),
        Target(cut.kind, cut.share * whole if cut.kind == "latency" else cut.share),
        milliseconds=partial(table.milliseconds, operators),
    )


def _ranked_on(study: Study, cut: Cut, seed: int) -> Split:
    settings = study.scale.compression
    if cut.source == "deepinversion":
        return sources.dreamt(study, subject(study).recipe(seed), settings.images)
    train = study.data.train
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(seed))[: settings.images]
    return Split(train.pixels[order], train.labels[order])


def _batches(teacher: Classifier, split: Split, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches drawn at random, without end."""
    device, random = next(teacher.network.parameters()).device, torch.Generator().manual_seed(seed)
    for _ in itertools.count():
        chosen = torch.randint(len(split.labels), (size,), generator=random)
        yield teacher.preprocessing.normalise(split.pixels[chosen]).to(device), split.labels[chosen]


def speeds_cell(study: Study, cuts: Sequence[Cut], seed: int) -> dict:
    """Milliseconds that pruned networks really take for a batch on one thread, by name, and the "whole" one's."""
    name, card, _ = _speeds_key(study, cuts, seed)
    return study.cell(name, card, lambda: _speeds_metrics(study, cuts, seed), seed)


def finished_speeds(study: Study, cuts: Sequence[Cut]) -> list[dict]:
    """The cells there are, one a seed."""
    return study.cells(*_speeds_key(study, cuts, 0)[:2])


def _speeds_key(study: Study, cuts: Sequence[Cut], seed: int) -> tuple[str, dict, int]:
    return "speeds", {"cuts": [cut_key(study, cut, seed)[1] for cut in cuts]}, seed


def _speeds_metrics(study: Study, cuts: Sequence[Cut], seed: int) -> dict:
    every = [kept_filters(study, cut, seed)[0] for cut in cuts]
    return dict(zip(("whole", *(cut.name for cut in cuts)), _timed(study, subject(study).load(), every), strict=True))
