"""Tables 4, 5, 9 and 10: accuracy that pruned networks regain on each source's images. Sec. 4.3."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from dilib.artifacts import plain
from dilib.compression.pruning import removed
from dilib.data import Split
from dilib.distillation import PoolSettings, distill_on_pool
from dilib.experiments import image_sources
from dilib.experiments.image_sources import dreamt, images, pixels_of, source_settings
from dilib.experiments.pruned_networks import Pruning, kept_filters, pruned_settings, whole_network
from dilib.precision import in_safe_format
from dilib.progress import counted
from dilib.recipe import Rival
from dilib.rounds import Run
from dilib.study.cells import Cell, Study

ADAPTIVE_ROUNDS = 2  # as in the paper
TUNING_SOURCES = {**image_sources.SOURCES, **image_sources.PROXIES, "adaptive": "Adaptive DeepInversion"}  # to tune by
DATA_FREE = ("deepinversion", "adaptive")


def table4(study: Study) -> list[Pruning]:
    """Shares of the filters removed, ranked without data."""
    return [Pruning("filters", share) for share in study.scale.compression.shares]


def table9(study: Study, hardware_aware: bool) -> list[Pruning]:
    """Latency budgets, as shares of the whole network's, ranked on real images."""
    return [Pruning("latency", share, "real", hardware_aware) for share in study.scale.compression.budgets]


def table5(study: Study) -> dict[str, Pruning]:
    """Taylor and hardware-aware ranking with data and without, all at Table 9's middle budget."""
    place = len(study.scale.compression.budgets) // 2
    taylor, aware = (table9(study, hardware_aware)[place] for hardware_aware in (False, True))
    return {
        "Taylor": taylor,
        "Hardware-Aware (HA)": aware,
        "ADI (data-free)": replace(taylor, source="deepinversion"),
        "ADI + HA": replace(aware, source="deepinversion"),
    }


def tuned_by(pruning: Pruning) -> str:
    """The source that a network of Table 5 is tuned by: what ranked it, or adaptive images where that is data-free."""
    return "adaptive" if pruning.source == "deepinversion" else pruning.source


def timed_together(study: Study) -> list[Pruning]:
    """All networks of Tables 5 and 9, whose real latencies are compared."""
    rankings = [pruning for aware in (False, True) for pruning in table9(study, aware)]
    return list(dict.fromkeys([*table5(study).values(), *rankings]))


def table10(study: Study, loss: str) -> list[Pruning]:
    """Shares of the filters removed, ranked on real images by one loss."""
    return [Pruning("filters", share, "real", loss=loss) for share in study.scale.compression.fractions]


def tuned_cell(study: Study, pruning: Pruning, source: str, seed: int = 0, brief: bool = False) -> Cell:
    """Top-1 on real test images of a pruned network after distillation from the whole one on a source's images."""
    name = f"tuned--{pruning.name}--{source}{'--brief' if brief else ''}"
    settings = _tuned_settings(study, pruning, source, brief)
    return Cell(name, settings, partial(_tuned_metrics, study, pruning, source, seed, brief), seed)


def _tuned_settings(study: Study, pruning: Pruning, source: str, brief: bool) -> dict:
    if source not in TUNING_SOURCES:
        raise ValueError(f"unknown image source {source!r}; choose from {', '.join(TUNING_SOURCES)}")
    settings = study.scale.compression
    dreams = "deepinversion" if source == "adaptive" else source
    card = {
        **pruned_settings(study, pruning),
        "tuned_on": [source_settings(study, dreams, settings.network), settings.images],
        "tuning": settings.brief if brief else settings.tuning,
    }
    if source == "adaptive":
        card["adaptive"] = {"images": settings.adaptive, "alpha_c": _alpha_c(study), "between": settings.brief}
    return plain(card)


def _tuned_metrics(study: Study, pruning: Pruning, source: str, seed: int, brief: bool) -> dict:
    settings = study.scale.compression
    pools = adaptive_pools(study, pruning, seed) if source == "adaptive" else [_images(study, source, seed)]
    tuning = settings.brief if brief else settings.tuning
    _, history = _tuned(study, pruning, pools, tuning, f"{pruning.name}, {source}", seed)
    return {
        "top1": history["student_on_test"][-1],
        "images": sum(len(pool.labels) for pool in pools),
        "seconds": sum(pool.seconds for pool in pools) + sum(history["seconds"]),
        "history": history["student_on_test"],
    }


def _images(study: Study, source: str, seed: int) -> Split:
    settings = study.scale.compression
    return images(study, source, settings.network, settings.images, seed)


def _tuned(
    study: Study, pruning: Pruning, pools: Sequence[Split], tuning: PoolSettings, words: str, seed: int
) -> tuple[nn.Module, dict[str, list[float]]]:
    """The pruned network taught by the whole one on these images, and its course."""
    teacher = whole_network(study, seed).load()
    kept, _ = kept_filters(study, pruning, seed)
    student = in_safe_format(removed(teacher, kept).to(memory_format=torch.channels_last))
    with counted(tuning.rounds, f"tuning {words}, seed {seed}") as on_round:
        run = Run(seed, on_round=on_round)
        history = distill_on_pool(teacher, student, pixels_of(pools), study.data.test, tuning, run)
    return student, history


def _alpha_c(study: Study) -> float:
    """How strongly images compete with the pruned network."""
    return study.scale.imagenet.alpha_c if study.dataset == "imagenet" else study.scale.compression.alpha_c


def adaptive_pools(study: Study, pruning: Pruning, seed: int) -> list[Split]:
    """DeepInversion's images, then two rounds of images that compete with the pruned network so far. App. C."""
    pools = [_images(study, "deepinversion", seed)]
    for number in range(ADAPTIVE_ROUNDS):
        pools.append(_adaptive_images(study, pruning, pools, number, seed))
    return pools


def _adaptive_images(study: Study, pruning: Pruning, pools: Sequence[Split], number: int, seed: int) -> Split:
    """The images of one adaptive round, made first if they are not there yet, against a student tuned on `pools`."""
    settings, recipe = study.scale.compression, whole_network(study, seed).recipe(seed)

    def student() -> nn.Module:
        return _tuned(study, pruning, pools, settings.brief, f"{pruning.name}, round {number + 1}", seed)[0].eval()

    competing = replace(
        recipe,
        objective=replace(recipe.objective, alpha_c=_alpha_c(study)),
        rival=Rival({"cut": _tuned_settings(study, pruning, "adaptive", False), "round": number}, student),
        # Neither the plain images' noise nor another round's.
        seed=(seed + 1000 * (number + 1)) % 2**32,
    )
    return dreamt(study, competing, settings.adaptive)
