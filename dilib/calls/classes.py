"""New classes for a trained network whose own data are gone. Sec. 4.5."""

import torch
from torch import Tensor, nn

from dilib.calls import budget
from dilib.calls.given import as_fast_as_it_goes, classes_of, pixels_of, split_of
from dilib.checks import check_seed
from dilib.classifier import Classifier, sides
from dilib.continual.extension import ExtensionSettings, Lesson, extend, learn_new_classes
from dilib.data import Split
from dilib.evaluation import predict
from dilib.inversion import SMALL
from dilib.pool import PoolDataset
from dilib.precision import in_safe_format
from dilib.progress import counted


def add_classes(
    teacher: Classifier,
    new: tuple[Tensor, Tensor],
    images: PoolDataset | Tensor,
    *,
    updates: int = 500,
    seed: int = 0,
) -> nn.Module:
    """A copy of the teacher that knows further classes, taught on real images of these and dreamt ones of the old.

    `new` are uint8 (N, C, H, W) with labels (N,) from 0, which follow the old ones in the result; `images` a pool, or
    uint8 pixels, from the teacher. BatchNorm stays as it is. Raises ValueError for bad input and for a network that
    does not end in a linear layer.

    Example:
        >>> network = add_classes(teacher, (pixels, labels), make_images(teacher, "my-images", 1024))
    """
    check_seed(seed)
    budget.check_budget(updates=updates)
    old, memories, new = classes_of(teacher), pixels_of(images, teacher), split_of(new, teacher)
    teacher, count = as_fast_as_it_goes(teacher), int(new.labels.max()) + 1
    arriving, remembered = Split(new.pixels, new.labels + old), Split(memories, _named(teacher, memories))
    extended = in_safe_format(extend(teacher, count, seed))
    side = min(sides(teacher.preprocessing.size))
    size, shift = 128 if side <= SMALL else 32, max(1, side // 16)
    settings = ExtensionSettings(updates, size, lr=0.5, decay_at=(0.6, 0.8), shift=shift)
    lesson = Lesson("deepinversion", arriving, remembered)
    with counted(updates, f"learning {count} classes") as on_update:
        learn_new_classes(teacher, extended, lesson, settings, seed=seed, on_update=on_update)
    return extended


def _named(teacher: Classifier, pixels: Tensor) -> Tensor:
    """The classes that the teacher sees in images."""
    parts = (teacher.preprocessing.normalise(part).to(teacher.device) for part in pixels.split(1000))
    return torch.cat([predict(teacher, part).argmax(1).cpu() for part in parts])
