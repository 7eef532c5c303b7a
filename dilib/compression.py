"""Sec. 4.3 as cells: filters removed from a teacher, accuracy regained on each source's images (Tables 4, 5, 9, 10)."""

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
from dilib.artifacts import digest, fingerprint, load_tensors, save_tensors
from dilib.classifiers import Classifier
from dilib.data import Split
from dilib.distillation import PoolSettings, distill_on_pool
from dilib.evaluation import split_accuracy
from dilib.inversion import invert
from dilib.latency import Clock, LookupTable, Operator
from dilib.pool import ImagePool
from dilib.progress import bar
from dilib.pruning import Coupled, Kept, Pruned, PruningSettings, Target, counts, coupled, prune, removed
from dilib.recipe import BATCH_SEEDS
from dilib.scales import Compression
from dilib.statistics import FeatureStatistics
from dilib.study import Study, plain
from dilib.subject import Subject
from dilib.subject import subject as subject_of
from dilib.workers import cells_side_by_side

ROUNDS = 2  # of adaptive images, as in the paper
SOURCES = {**sources.SOURCES, "adaptive": "Adaptive DeepInversion"}  # to tune by
DATA_FREE = ("deepinversion", "adaptive")


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


Task = tuple[Cut, str, bool, int]  # a pruned network, the source of its tuning, whether that is brief, the seed


def subject(study: Study) -> Subject:
    """The network that is pruned."""
    return subject_of(study, study.scale.compression.network)


def has_real_images(study: Study) -> bool:
    """Whether there are training images, to rank and to tune by."""
    return "real" in sources.available(study)


def table4_cuts(study: Study) -> list[Cut]:
    """Shares of the filters removed, ranked without data."""
    return [Cut("filters", share) for share in study.scale.compression.shares]


def table9_cuts(study: Study, hardware_aware: bool) -> list[Cut]:
    """Latency budgets, as shares of the whole network's, ranked on real images."""
    return [Cut("latency", share, "real", hardware_aware) for share in study.scale.compression.budgets]


def table5_cuts(study: Study) -> dict[str, Cut]:
    """Taylor and hardware-aware ranking with data and without, all at Table 9's middle budget."""
    place = len(study.scale.compression.budgets) // 2
    taylor, aware = (table9_cuts(study, hardware_aware)[place] for hardware_aware in (False, True))
    return {
        "Taylor": taylor,
        "Hardware-Aware (HA)": aware,
        "ADI (data-free)": replace(taylor, source="deepinversion"),
        "ADI + HA": replace(aware, source="deepinversion"),
    }


def tuned_by(cut: Cut) -> str:
    """The source that a cut of Table 5 is tuned by: what ranked it, or adaptive images where that is data-free."""
    return "adaptive" if cut.source == "deepinversion" else cut.source


def table10_cuts(study: Study, loss: str) -> list[Cut]:
    """Shares of the filters removed, ranked on real images by one loss."""
    return [Cut("filters", share, "real", loss=loss) for share in study.scale.compression.fractions]


def run(study: Study, seeds: Sequence[int]) -> None:
    """Every cell of the four tables, where it is not there yet; data-free rows for each seed, the others for one."""
    latency_cell(study)
    first, *_ = seeds
    data_free = [(cut, source, False, seed) for seed in seeds for cut in table4_cuts(study) for source in DATA_FREE]
    others = [s for s in sources.available(study) if s not in DATA_FREE]
    tuned = data_free + [(cut, source, False, first) for cut in table4_cuts(study) for source in others]
    cuts = [(cut, seed) for seed in seeds for cut in table4_cuts(study)]
    if has_real_images(study):
        for cut in table5_cuts(study).values():
            tuned.append((cut, tuned_by(cut), False, first))
            cuts.append((cut, first))
        for aware in (False, True):
            tuned += [(cut, "real", True, first) for cut in table9_cuts(study, aware)]
        cuts += [(cut, first) for loss in ("ce", "kl") for cut in table10_cuts(study, loss)]
        cuts += [(cut, first) for aware in (False, True) for cut in table9_cuts(study, aware)]
    cells_side_by_side(cut_cell, _cut_key, study, dict.fromkeys(cuts))
    cells_side_by_side(tuned_cell, _tuned_key, study, dict.fromkeys(tuned))
    # What is timed wants the machine for itself.
    for cut, seed in dict.fromkeys(cuts):
        if cut.kind == "latency":
            speed_cell(study, cut, seed)


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
    looked_up, measured = [], []
    random = torch.Generator().manual_seed(0)
    with _one_thread(), bar(settings.checked, "timing pruned networks") as progress:
        clock = Clock(settings.batch, study.device)
        for _ in range(settings.checked):
            kept = _at_random(groups, settings.ranking.group, random)
            looked_up.append(table.milliseconds(operators, counts(kept)))
            measured.append(_network_milliseconds(clock, removed(teacher.network, kept, example(teacher)), teacher))
            progress.update()
        real = _network_milliseconds(clock, teacher.network, teacher)
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
        wanted = (share + torch.rand((), generator=random).item()) / 2 * most
        kept[group] = torch.arange(group.channels) < max(1, round(wanted)) * step
    return kept


def _network_milliseconds(clock: Clock, network: nn.Module, teacher: Classifier) -> float:
    return clock.network(network, teacher.preprocessing.size, teacher.preprocessing.channels)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def cut_cell(study: Study, cut: Cut, seed: int) -> dict:
    """A pruned network before any tuning: top-1, filters, and GFLOPs (multiply-adds) and looked-up ms of a batch."""
    name, settings, _ = _cut_key(study, cut, seed)
    return study.cell(name, settings, lambda: _cut_metrics(study, cut, seed), seed)


def finished_cuts(study: Study, cut: Cut) -> list[dict]:
    """The cells there are, one a seed."""
    return study.cells(*_cut_key(study, cut, 0)[:2])


def _cut_key(study: Study, cut: Cut, seed: int) -> tuple[str, dict, int]:
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
        "teacher_top1": split_accuracy(teacher.network, study.data.test, teacher.preprocessing),
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
    _, card, _ = _cut_key(study, cut, seed)
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


def tuned_cell(study: Study, cut: Cut, source: str, brief: bool, seed: int) -> dict:
    """Top-1 on real test images of a pruned network after distillation from the whole one on a source's images."""
    name, settings, _ = _tuned_key(study, cut, source, brief, seed)
    return study.cell(name, settings, lambda: _tuned_metrics(study, cut, source, brief, seed), seed)


def finished(study: Study, cut: Cut, source: str, brief: bool = False) -> list[dict]:
    """The cells there are, one a seed."""
    return study.cells(*_tuned_key(study, cut, source, brief, 0)[:2])


def _tuned_key(study: Study, cut: Cut, source: str, brief: bool, seed: int) -> tuple[str, dict, int]:
    if source not in SOURCES:
        raise ValueError(f"unknown image source {source!r}; choose from {', '.join(SOURCES)}")
    settings = study.scale.compression
    dreams = "deepinversion" if source == "adaptive" else source
    card = {
        **_cut_key(study, cut, seed)[1],
        "tuned_on": [sources.settings(study, dreams, settings.network), settings.images],
        "tuning": settings.brief if brief else settings.tuning,
    }
    if source == "adaptive":
        card["adaptive"] = {"images": settings.adaptive, "alpha_c": settings.alpha_c, "between": settings.brief}
    return f"tuned--{cut.name}--{source}{'--brief' if brief else ''}", plain(card), seed


def _tuned_metrics(study: Study, cut: Cut, source: str, brief: bool, seed: int) -> dict:
    settings = study.scale.compression
    pools = adaptive_pools(study, cut, seed) if source == "adaptive" else [_images(study, source, seed)]
    tuning = settings.brief if brief else settings.tuning
    _, history = _tuned(study, cut, torch.cat(pools), tuning, f"{cut.name}, {source}", seed)
    return {
        "top1": history["student_on_test"][-1],
        "images": sum(map(len, pools)),
        "history": history["student_on_test"],
    }


def _images(study: Study, source: str, seed: int) -> Tensor:
    settings = study.scale.compression
    return sources.images(study, source, settings.network, settings.images, seed)


def _tuned(
    study: Study, cut: Cut, pool: Tensor, tuning: PoolSettings, words: str, seed: int
) -> tuple[nn.Module, dict[str, list[float]]]:
    """The pruned network taught by the whole one on images, uint8 (N, C, H, W), and its course."""
    teacher = subject(study).load()
    kept, _ = kept_filters(study, cut, seed)
    student = removed(teacher.network, kept, example(teacher)).to(memory_format=torch.channels_last)
    with bar(tuning.rounds, f"tuning {words}, seed {seed}") as progress:
        history = distill_on_pool(
            teacher.network,
            student,
            pool,
            teacher.preprocessing,
            study.data.test,
            tuning,
            seed=seed,
            on_round=lambda done: progress.update(done - progress.n),
        )
    return student, history


def adaptive_pools(study: Study, cut: Cut, seed: int) -> list[Tensor]:
    """DeepInversion's images, then two rounds of images that compete with the pruned network so far. App. C."""
    pools = [_images(study, "deepinversion", seed)]
    for number in range(ROUNDS):
        pools.append(adaptive_images(study, cut, pools, number, seed).pixels)
    return pools


def adaptive_images(study: Study, cut: Cut, pools: list[Tensor], number: int, seed: int) -> Split:
    """The images of one adaptive round, made first if they are not there yet, against a student tuned on `pools`."""
    settings, teacher = study.scale.compression, subject(study)
    recipe = teacher.recipe(seed)
    card = plain({"cut": _tuned_key(study, cut, "adaptive", False, seed)[1], "round": number, "seed": seed})
    card["weights"] = fingerprint(recipe.teacher.network)
    pool = ImagePool(study.artifacts / "pools" / digest(card), card)
    student: list[nn.Module] = []

    def make(index: int):
        if not student:
            words = f"{cut.name}, round {number + 1}"
            student.append(_tuned(study, cut, torch.cat(pools), settings.brief, words, seed)[0].eval())
        return invert(
            recipe.teacher.network,
            recipe.teacher.preprocessing,
            recipe.labels(index),
            replace(recipe.objective, alpha_c=settings.alpha_c),
            recipe.schedule(index),
            statistics=FeatureStatistics.from_batchnorm(recipe.teacher.network, first=recipe.first_layer),
            student=student[0],
            # Neither the plain images' noise nor another round's.
            seed=(seed * ROUNDS + number + 1) * BATCH_SEEDS - 1 - index,
        )

    batches = -(-settings.adaptive // recipe.batch_size)
    pixels = []
    with bar(batches, f"adaptive images, round {number + 1}, seed {seed}") as progress:
        for index in pool.fill(batches, make):
            pixels.append((index, recipe.teacher.preprocessing.to_pixels(pool.load(index)[0])))
            progress.update()
    ordered = torch.cat([images for _, images in sorted(pixels, key=lambda pair: pair[0])])
    labels = torch.cat([recipe.labels(index) for index in range(batches)])
    return Split(ordered[: settings.adaptive], labels[: settings.adaptive])


def speed_cell(study: Study, cut: Cut, seed: int) -> dict:
    """Milliseconds that a pruned network really takes for a batch on one thread; for an otherwise idle machine."""
    _, card, _ = _cut_key(study, cut, seed)
    return study.cell(f"speed--{cut.name}", card, lambda: _speed_metrics(study, cut, seed), seed)


def finished_speeds(study: Study, cut: Cut) -> list[dict]:
    """The cells there are, one a seed."""
    return study.cells(f"speed--{cut.name}", _cut_key(study, cut, 0)[1])


def _speed_metrics(study: Study, cut: Cut, seed: int) -> dict:
    teacher, (kept, _) = subject(study).load(), kept_filters(study, cut, seed)
    with _one_thread():
        clock = Clock(study.scale.compression.batch, study.device)
        smaller = removed(teacher.network, kept, example(teacher))
        return {"milliseconds": _network_milliseconds(clock, smaller, teacher)}
