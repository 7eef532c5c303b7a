"""A smaller network from a trained one and images that stand in for its data. Sec. 4.3."""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dilib import precision as precisions
from dilib.artifacts import damaged, write_atomically
from dilib.calls import budget, folders
from dilib.calls.given import check_precision, classes_of, computing_in, pixels_of, seed_of, split_or_none
from dilib.calls.tuning import Compressed, Tuning, batch_size, large
from dilib.classifier import Classifier, Size
from dilib.compression import pruning
from dilib.compression.pruning import Coupled, Kept, PruningSettings, Target
from dilib.pool import PoolDataset
from dilib.progress import bar

KEPT = "kept.safetensors"
STEPS = 40  # of removal, about


def prune(
    teacher: Classifier,
    images: PoolDataset | Tensor | Path | str,
    folder: Path | str,
    *,
    filters: float = 0.5,
    minutes: float = 5.0,
    updates: int | None = None,
    precision: str | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> Compressed:
    """Remove this share of the teacher's `filters`, ranked on `images`, and tune what is left on them. Eqs. 10, 12.

    `images` are a pool, its folder, or uint8 (N, C, H, W). Tuning takes about so many `minutes`, or as many `updates`,
    in tens; ranking comes before it. `precision` is "float32" or "bfloat16", or whichever is faster here. The network
    goes into `folder`, for `load_network`; if tuning is stopped, the same call goes on from there.
    Raises ValueError for bad input and for a network whose filters can't be removed.

    Example:
        >>> smaller = prune(teacher, make_images(teacher, "my-images", 1024), "my-pruned", filters=0.5)
    """
    folder, target = folders.place(folder), Target("filters", filters)
    seed = seed_of(seed)
    check_precision(precision)
    budget.check_budget("updates", minutes=minutes, updates=updates)
    classes, pixels = classes_of(teacher), pixels_of(images, teacher)
    test, groups = split_or_none(test, teacher, classes), pruning.coupled(teacher)
    size, ranking = teacher.preprocessing.size, _ranking(groups, target, min(batch_size(teacher), len(pixels)))
    tuning = Tuning(pixels, rate(size), minutes, updates, precision, seed, keep_statistics=large(size))

    def decide() -> dict:
        fast = computing_in(teacher, precision)
        kept = _ranked(fast, groups, pixels, ranking, target, seed)
        masks = {group.convolutions[0]: stays for group, stays in kept.items()}
        write_atomically(folder / KEPT, save(masks, {"format": "pt"}))
        return tuning.decided(fast, without_filters(fast, folder))

    asked = {"call": "prune", "filters": filters, **tuning.asked(teacher, ranking)}
    decided = folders.begun(folder, asked, decide)
    teacher = replace(teacher, precision=precisions.named(decided["precision"]))
    return tuning.tuned(teacher, without_filters(teacher, folder), decided, test, folder)


def rate(size: Size) -> float:
    """The rate at which a network for images of this size is tuned: low, where a few images might pull it far."""
    return 0.005 if large(size) else 0.05


def without_filters(teacher: Classifier, folder: Path) -> nn.Module:
    """A copy of the teacher's network, in evaluation mode, without the filters that the folder says go."""
    try:
        masks = load_file(folder / KEPT)
    except (OSError, SafetensorError) as error:
        raise damaged(folder / KEPT, error) from error
    groups = pruning.coupled(teacher)
    shapes = {group.convolutions[0]: (group.channels,) for group in groups}
    if shapes != {name: tuple(stays.shape) for name, stays in masks.items()}:
        raise ValueError(f"{folder} holds another network than {type(teacher.network).__name__}; give its own teacher")
    kept: Kept = {group: masks[group.convolutions[0]] for group in groups}
    return precisions.in_safe_format(pruning.removed(teacher, kept)).eval()


def _ranking(groups: list[Coupled], target: Target, size: int) -> PruningSettings:
    """In about STEPS steps, on mini-batches of `size` images."""
    step = max(1, _to_go(groups, target) // STEPS)
    return PruningSettings(filters=step, group=max(1, min(8, step // 8)), batches=4, batch_size=size)


def _to_go(groups: list[Coupled], target: Target) -> int:
    """How many filters are removed."""
    return int(target.value * sum(group.filters for group in groups))


def _ranked(
    teacher: Classifier, groups: list[Coupled], pixels: Tensor, settings: PruningSettings, target: Target, seed: int
) -> Kept:
    """What stays."""
    with bar(-(-_to_go(groups, target) // settings.filters), "ranking filters") as shown:
        found = pruning.prune(teacher, _batches(teacher, pixels, settings, seed, shown), settings, target)
    if found.stopped:
        warnings.warn(found.stopped, stacklevel=5)
    return found.kept


def _batches(teacher: Classifier, pixels: Tensor, settings: PruningSettings, seed: int, shown) -> Iterator:
    """Mini-batches drawn at random, without end, and labels that the ranking without labels does not read."""
    random = torch.Generator().manual_seed(seed)
    for drawn in itertools.count(1):
        chosen = torch.randint(len(pixels), (settings.batch_size,), generator=random)
        images = teacher.preprocessing.normalise(pixels[chosen]).to(teacher.device)
        yield images, torch.zeros(len(chosen), dtype=torch.long)
        if drawn % settings.batches == 0:
            shown.update()
