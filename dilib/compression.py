"""Sec. 4.3 as cells: accuracy that pruned networks regain on each source's images (Tables 4, 5, 9, 10)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dilib import sources
from dilib.cuts import Cut, cut_cell, cut_key, example, kept_filters, latency_cell, speeds_cell, subject
from dilib.data import Split
from dilib.distillation import PoolSettings, distill_on_pool
from dilib.progress import counted
from dilib.pruning import removed
from dilib.recipe import Rival
from dilib.study import Study, plain
from dilib.workers import cells_side_by_side

ROUNDS = 2  # of adaptive images, as in the paper
SOURCES = {**sources.SOURCES, "adaptive": "Adaptive DeepInversion"}  # to tune by
DATA_FREE = ("deepinversion", "adaptive")
Task = tuple[Cut, str, bool, int]  # a pruned network, the source of its tuning, whether that is brief, the seed


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


def compared_cuts(study: Study) -> list[Cut]:
    """All cuts of Tables 5 and 9, whose real latencies are compared."""
    rankings = [cut for aware in (False, True) for cut in table9_cuts(study, aware)]
    return list(dict.fromkeys([*table5_cuts(study).values(), *rankings]))


def table10_cuts(study: Study, loss: str) -> list[Cut]:
    """Shares of the filters removed, ranked on real images by one loss."""
    return [Cut("filters", share, "real", loss=loss) for share in study.scale.compression.fractions]


def run(study: Study, seeds: Sequence[int]) -> None:
    """Every cell of the four tables, where it is not there yet; data-free rows for each seed, the others for one.

    Raises ValueError where there are no real images to compare with.
    """
    there = sources.available(study)
    if "real" not in there:
        raise ValueError(f"{study.data.title} has no training images here to rank and tune by; put some in its train/")
    first, *_ = seeds
    latency_cell(study)
    shares = [(cut, seed) for seed in seeds for cut in table4_cuts(study)]
    rankings = [cut for aware in (False, True) for cut in table9_cuts(study, aware)]
    compared = compared_cuts(study)
    losses = [cut for loss in ("ce", "kl") for cut in table10_cuts(study, loss)]
    cuts = [*shares, *((cut, first) for cut in (*compared, *losses))]
    cells_side_by_side(cut_cell, cut_key, study, dict.fromkeys(cuts))
    tuned: list[Task] = [(cut, source, False, seed) for cut, seed in shares for source in DATA_FREE]
    tuned += [(cut, source, False, first) for cut in table4_cuts(study) for source in there if source not in DATA_FREE]
    tuned += [(cut, tuned_by(cut), False, first) for cut in table5_cuts(study).values()]
    tuned += [(cut, "real", True, first) for cut in rankings]
    cells_side_by_side(tuned_cell, _tuned_key, study, dict.fromkeys(tuned))
    speeds_cell(study, compared, first)


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
        **cut_key(study, cut, seed)[1],
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
    with counted(tuning.rounds, f"tuning {words}, seed {seed}") as on_round:
        history = distill_on_pool(
            teacher.network,
            student,
            pool,
            teacher.preprocessing,
            study.data.test,
            tuning,
            seed=seed,
            on_round=on_round,
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
    settings, recipe = study.scale.compression, subject(study).recipe(seed)

    def student() -> nn.Module:
        words = f"{cut.name}, round {number + 1}"
        return _tuned(study, cut, torch.cat(pools), settings.brief, words, seed)[0].eval()

    competing = replace(
        recipe,
        objective=replace(recipe.objective, alpha_c=settings.alpha_c),
        rival=Rival({"cut": _tuned_key(study, cut, "adaptive", False, seed)[1], "round": number}, student),
        # Neither the plain images' noise nor another round's.
        seed=seed + 1000 * (number + 1),
    )
    return sources.dreamt(study, competing, settings.adaptive)
