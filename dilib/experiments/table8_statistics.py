"""Table 8: where feature statistics come from, BatchNorm layers or a few real images. Sec. A.2."""

from functools import partial

from dilib.experiments.table1_transfer import BATCHNORM, student_settings, taught_by_inversion
from dilib.study.cells import Cell, Study
from dilib.study.scales.settings import PAIRS

PAIR = PAIRS[0]
COLUMNS = {"deepinversion": "DI top-1", "adaptive": "ADI top-1"}


def statistics_cell(study: Study, method: str, source: int | str, seed: int = 0) -> Cell:
    """A student taught as in Table 1, if more briefly, on statistics of `source` real images, or BATCHNORM's."""
    brief = study.with_scale(distillation={PAIR: study.scale.statistics.student})
    name = f"statistics--{source if source == BATCHNORM else f'{source}-images'}--{method}"
    settings = student_settings(brief, PAIR, method, source)
    how = {"method": method, "settings": settings, "seed": seed, "statistics": source}
    return Cell(name, settings, partial(taught_by_inversion, brief, PAIR, **how), seed)
