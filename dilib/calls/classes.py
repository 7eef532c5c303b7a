"""New classes for a trained network whose own data are gone. Sec. 4.5."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dilib import precision as precisions
from dilib.artifacts import fingerprint_of
from dilib.calls import budget, folders
from dilib.calls.given import check_precision, classes_of, computing_in, identity, pixels_of, seed_of, split_of
from dilib.calls.tuning import NETWORK
from dilib.classifier import Classifier, sides
from dilib.continual.extension import ExtensionSettings, Lesson, extend, learn_new_classes
from dilib.data import Split
from dilib.evaluation import predict
from dilib.inversion import SMALL
from dilib.pool import PoolDataset
from dilib.progress import counted
from dilib.weights import load_weights, save_weights


def add_classes(
    teacher: Classifier,
    new: tuple[Tensor, Tensor],
    images: PoolDataset | Tensor | Path | str,
    folder: Path | str,
    *,
    updates: int = 500,
    precision: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """A copy of the teacher that knows further classes, taught on real images of these and dreamt ones of the old.

    `new` are uint8 (N, C, H, W) with labels (N,) from 0, which follow the old ones in the result; `images` a pool, its
    folder, or uint8 pixels, from the teacher. BatchNorm stays as it is. `precision` is "float32" or "bfloat16", or
    whichever is faster here. The network goes into `folder`, for `load_network`; if it is stopped, the same call begins
    anew.
    Raises ValueError for bad input and for a network that does not end in a linear layer.

    Example:
        >>> network = add_classes(teacher, (pixels, labels), make_images(teacher, "my-images", 1024), "my-more")
    """
    folder = folders.place(folder)
    seed = seed_of(seed)
    check_precision(precision)
    budget.check_budget(updates=updates)
    old, memories, new = classes_of(teacher), pixels_of(images, teacher), split_of(new, teacher)
    count = _count_of(new)
    extended, settings = with_classes(teacher, count, seed), _settings(teacher, updates)
    asked = {
        "call": "add_classes",
        "classes": count,
        "updates": updates,
        "precision": precision,
        "seed": seed,
        **identity(teacher, settings),
        "images": fingerprint_of({"old": memories, "new": new.pixels, "labels": new.labels}),
    }
    decided = folders.begun(
        folder, asked, lambda: {"precision": precisions.name(computing_in(teacher, precision).precision)}
    )
    if (folder / NETWORK).exists():
        return load_weights(extended, folder / NETWORK)
    teacher = replace(teacher, precision=precisions.named(decided["precision"]))
    arriving, remembered = Split(new.pixels, new.labels + old), Split(memories, _named(teacher, memories))
    with counted(updates, f"learning {count} classes") as on_update:
        lesson = Lesson("deepinversion", arriving, remembered)
        learn_new_classes(teacher, extended, lesson, settings, seed=seed, on_update=on_update)
    save_weights(folder / NETWORK, extended)
    return extended


def with_classes(teacher: Classifier, count: int, seed: int) -> nn.Module:
    """A copy of the teacher's network with so many more outputs, which have learnt nothing yet."""
    return precisions.in_safe_format(extend(teacher, count, seed)).eval()


def _count_of(new: Split) -> int:
    """How many classes there are. Raises ValueError where one of them has no image."""
    found = new.labels.unique().tolist()
    if found != list(range(len(found))):
        raise ValueError(f"labels of new classes are {found}; number them from 0 to {len(found) - 1}")
    return len(found)


def _settings(teacher: Classifier, updates: int) -> ExtensionSettings:
    side = min(sides(teacher.preprocessing.size))
    size, shift = 128 if side <= SMALL else 32, max(1, side // 16)
    return ExtensionSettings(updates, size, lr=0.5, decay_at=(0.6, 0.8), shift=shift)


def _named(teacher: Classifier, pixels: Tensor) -> Tensor:
    """The classes that the teacher sees in images."""
    parts = (teacher.preprocessing.normalise(part).to(teacher.device) for part in pixels.split(1000))
    return torch.cat([predict(teacher, part).argmax(1).cpu() for part in parts])
