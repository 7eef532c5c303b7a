"""How large a study is. One name picks all sizes; nothing else differs between scales. One file a scale."""

from dilib.study.scales import laptop, overnight, paper, smoke
from dilib.study.scales.settings import Scale

SCALES = {scale.name: scale for scale in (smoke.SCALE, laptop.SCALE, overnight.SCALE, paper.SCALE)}


def scale_for(name: str, dataset: str) -> Scale:
    """The sizes of a scale for a data set. Raises ValueError unless `name` is a scale."""
    check_scale(name)
    if name != "laptop":
        return SCALES[name]
    return laptop.DIGITS if dataset == "digits" else SCALES[name] if dataset in laptop.EASY else laptop.NATURAL


def check_scale(name: str) -> None:
    """Raise ValueError unless `name` is a scale."""
    if name not in SCALES:
        raise ValueError(f"unknown scale {name!r}; choose from {', '.join(SCALES)}")
