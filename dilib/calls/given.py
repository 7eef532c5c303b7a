"""What somebody gives, a network, images and labels, checked before work starts."""

from dataclasses import replace

import torch
from torch import Tensor

from dilib import precision as precisions
from dilib.calls.plans import Plan
from dilib.classifier import Classifier
from dilib.data import Split
from dilib.feature_statistics import FeatureStatistics
from dilib.pool import PoolDataset
from dilib.trial import tried


def classes_of(teacher: Classifier) -> int:
    """How many classes a teacher tells apart. Raises ValueError for one that nothing here can be made of."""
    if teacher.dtype != torch.float32:
        raise ValueError(f"the teacher's weights are {precisions.name(teacher.dtype)}; call .float() on it first")
    precisions.named(precisions.name(teacher.precision))
    return tried(teacher, [teacher.preprocessing.size], None).classes


def suited(plan: Plan, teacher: Classifier) -> Plan:
    """The plan without resolutions that the network does not take, whose updates go to its own.

    Raises ValueError for a network that images can't be made of.
    """
    statistics, size = FeatureStatistics.from_batchnorm(teacher.network), teacher.preprocessing.size
    *stages, (_, last) = plan.schedule.sized(size).stages
    tried(teacher, [size], statistics)
    taken = [stage for stage in stages if _takes(teacher, stage[0])]
    refused = sum(updates for _, updates in stages) - sum(updates for _, updates in taken)
    return replace(plan, schedule=replace(plan.schedule, stages=(*taken, (size, last + refused))))


def _takes(teacher: Classifier, size) -> bool:
    try:
        tried(teacher, [size], None)
    except ValueError:
        return False
    return True


def check_precision(precision: str | None) -> None:
    """Raise ValueError for anything but a precision's name, or None for whichever is faster."""
    if precision is not None:
        precisions.named(precision)


def computing_in(teacher: Classifier, precision: str | None) -> Classifier:
    """The teacher in this precision, or in that which is fastest here and which its network computes in.

    One that was given in another than fp32 stays in that. Raises ValueError where its network can't compute so.
    """
    if precision is not None:
        asked = replace(teacher, precision=precisions.named(precision))
        tried(asked, [teacher.preprocessing.size], None)
        return asked
    fast = replace(teacher, precision=precisions.fastest(teacher.device))
    if teacher.precision != torch.float32:
        return teacher
    try:
        tried(fast, [teacher.preprocessing.size], None)
    except ValueError:
        return teacher
    return fast


def pixels_of(images: PoolDataset | Tensor, teacher: Classifier) -> Tensor:
    """A pool's images, or images as they are, uint8 (N, C, H, W). Raises ValueError where the teacher takes others."""
    pixels = images.split().pixels if isinstance(images, PoolDataset) else images
    if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != teacher.preprocessing.shape or not len(pixels):
        shape, wanted = "×".join(map(str, pixels.shape)), "×".join(map(str, teacher.preprocessing.shape))
        raise ValueError(f"images are {pixels.dtype}, {shape}; give uint8 pixels, N×{wanted}, not normalised")
    return pixels


def split_of(images: tuple[Tensor, Tensor] | None, teacher: Classifier, classes: int | None = None) -> Split | None:
    """Images and labels (N,), checked. Raises ValueError for pixels or labels that do not fit."""
    if images is None:
        return None
    pixels, labels = pixels_of(images[0], teacher), torch.as_tensor(images[1])
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != (len(pixels),):
        raise ValueError(f"labels are {labels.dtype}, {tuple(labels.shape)}; give {len(pixels)} whole numbers")
    labels = labels.long().cpu()
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        most = "" if classes is None else f" to {classes - 1}"
        raise ValueError(f"labels reach from {labels.min()} to {labels.max()}; give whole numbers from 0{most}")
    return Split(pixels.cpu(), labels)
