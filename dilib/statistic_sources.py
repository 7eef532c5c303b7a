"""Where feature statistics come from: BatchNorm layers, or a few real images (Table 8), as cells."""

import copy
from collections.abc import Sequence
from dataclasses import replace

from dilib import transfer
from dilib.scales import PAIRS
from dilib.study import Study
from dilib.transfer import BATCHNORM
from dilib.workers import cells_side_by_side

TEACHER, STUDENT = PAIRS[0]
METHODS = {"adaptive": "ADI top-1", "deepinversion": "DI top-1"}  # the slower first


def sources(study: Study) -> list[int | str]:
    """Numbers of real images, and BATCHNORM."""
    return [*study.scale.statistics.images, BATCHNORM]


def run(study: Study, seeds: Sequence[int]) -> None:
    """The cells of every method, source and seed, side by side, where they are not there yet."""
    tasks = [(method, source, seed) for seed in seeds for method in METHODS for source in sources(study)]
    cells_side_by_side(cell, _key, study, tasks)


def cell(study: Study, method: str, source: int | str, seed: int) -> dict:
    """A student taught as in Table 1, if more briefly, on images whose feature statistics come from `source`."""
    name, settings, _ = _key(study, method, source, seed)
    task = (_brief(study), TEACHER, STUDENT, method, source, seed, settings)
    return study.cell(name, settings, lambda: transfer.taught_by_inversion(*task), seed)


def finished(study: Study, method: str, source: int | str) -> list[dict]:
    """The cells there are, one a seed."""
    name, settings, _ = _key(study, method, source, 0)
    return study.cells(name, settings)


def _key(study: Study, method: str, source: int | str, seed: int) -> tuple[str, dict, int]:
    name = f"statistics--{source if source == BATCHNORM else f'{source}-images'}--{method}"
    return name, transfer.transfer_settings(_brief(study), TEACHER, STUDENT, method, source), seed


def _brief(study: Study) -> Study:
    """The study with Table 8's student."""
    brief = copy.copy(study)
    brief.scale = replace(study.scale, distillation={PAIRS[0]: study.scale.statistics.student})
    return brief
