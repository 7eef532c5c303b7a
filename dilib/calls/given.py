"""What somebody gives, a network, images and labels, checked before work starts."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dilib import precision as precisions
from dilib.artifacts import digest, fingerprint, plain
from dilib.calls.plans import Plan
from dilib.checks import check_seed
from dilib.classifier import Classifier
from dilib.data import Split
from dilib.feature_statistics import FeatureStatistics
from dilib.pool import CARD, PoolDataset
from dilib.structure import logits_of, undisturbed
from dilib.trial import checked_student, tried


def classes_of(teacher: Classifier, trained: bool = True) -> int:
    """How many classes a teacher tells apart. Raises ValueError for one that nothing here can be made of.

    That is one with random weights, too, where they should be `trained`.
    """
    if not isinstance(teacher, Classifier):
        said = "give dilib.Classifier(network, dilib.Preprocessing(mean, std, size))"
        raise ValueError(f"the teacher is a {type(teacher).__name__}; {said}")
    _check_float32("the teacher", teacher.network)
    precisions.named(precisions.name(teacher.precision))
    classes = tried(teacher, [teacher.preprocessing.size], None).classes
    if trained:
        _check_learnt(teacher.network)
        _check_logits(teacher, classes)
    return classes


def _check_float32(role: str, network: nn.Module) -> None:
    kinds = {weight.dtype for weight in network.parameters() if weight.is_floating_point()} - {torch.float32}
    if kinds:
        raise ValueError(f"{role}'s weights are {precisions.name(min(kinds, key=str))}; call .float() on it first")


def _check_learnt(network: nn.Module) -> None:
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"the teacher's {name} is not finite everywhere; load weights that are")
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    if norms and all((layer.running_mean == 0).all() and (layer.running_var == 1).all() for layer in norms):
        raise ValueError("the teacher's BatchNorm layers have seen no image; load its trained weights first")


@torch.no_grad()
def _check_logits(teacher: Classifier, classes: int) -> None:
    """Logits of loud noise go beyond 0 and 1 somewhere, as no probabilities do."""
    kind = type(teacher.network).__name__
    if classes < 2:
        raise ValueError(f"{kind} has a single output; give a network with one for each class")
    with undisturbed():
        loud = 100 * torch.randn(8, *teacher.preprocessing.shape, device=teacher.device)
        logits = logits_of(teacher.network(loud), teacher.network)
    if ((logits >= 0) & (logits <= 1)).all():
        raise ValueError(f"{kind} returns probabilities; have it return logits, before softmax or sigmoid")


def checked_learner(teacher: Classifier, student: nn.Module, classes: int) -> nn.Module:
    """The student. Raises ValueError for one that can't be taught what the teacher knows."""
    if not isinstance(student, nn.Module):
        raise ValueError(f"the student is a {type(student).__name__}; give a torch.nn.Module")
    _check_float32("the student", student)
    if {id(weight) for weight in student.parameters()} & {id(weight) for weight in teacher.network.parameters()}:
        raise ValueError("the student shares weights with the teacher; give a network of its own")
    if not any(weight.requires_grad for weight in student.parameters()):
        raise ValueError("none of the student's weights takes gradients; call .requires_grad_(True) on it first")
    checked_student(teacher, student, classes)
    return student


def identity(teacher: Classifier, settings: object) -> dict:
    """What tells a teacher, and the settings that nobody had to choose, apart from others in a folder."""
    return {
        "teacher": fingerprint(teacher.network),
        "preprocessing": plain(teacher.preprocessing),
        "plan": digest(plain(settings)),
    }


def suited(plan: Plan, teacher: Classifier) -> Plan:
    """The plan without resolutions that the network does not take, whose updates go to its own.

    Raises ValueError for a network that images can't be made of.
    """
    statistics, size = FeatureStatistics.from_batchnorm(teacher.network), teacher.preprocessing.size
    *stages, (_, last) = plan.schedule.sized(size).stages
    tried(teacher, [size], statistics)
    taken = [stage for stage in stages if _takes(teacher, stage[0])]
    refused = sum(updates for _, updates in stages) - sum(updates for _, updates in taken)
    schedule = replace(plan.schedule, stages=(*taken, (size, last + refused)))
    return replace(plan, schedule=schedule, spectrum=plan.spectrum if taken else None)  # waves only lay pictures out


def _takes(teacher: Classifier, size) -> bool:
    try:
        tried(teacher, [size], None)
    except ValueError:
        return False
    return True


def seed_of(seed: int) -> int:
    """The seed, as Python's own number. Raises ValueError for one that is out of range."""
    check_seed(seed)
    return int(seed)


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


def pool_at(folder: Path | str) -> PoolDataset:
    """The images that `make_images` or `distill` wrote into a folder. Raises ValueError where some are missing."""
    inner = Path(folder) / "images"
    pool = PoolDataset(inner if (inner / CARD).exists() else folder)
    if pool.card.get("wanted", 0) > len(pool):
        raise ValueError(f"{folder} has {len(pool)} of {pool.card['wanted']} images; repeat the call that began it")
    return pool


def pixels_of(images, teacher: Classifier) -> Tensor:
    """Pixels, uint8 (N, C, H, W), of a pool, of its folder, or as they are, in a tensor or an array.

    Raises ValueError where the teacher takes others.
    """
    shape = "×".join(map(str, teacher.preprocessing.shape))
    wanted = f"give a pool, its folder, or uint8 pixels, N×{shape}, not normalised"
    if isinstance(images, str | Path):
        images = pool_at(images)
    if isinstance(images, PoolDataset):
        _check_made_for(images, teacher)
        images = images.split().pixels
    try:
        pixels = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"images are a {type(images).__name__}; {wanted}") from error
    if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != teacher.preprocessing.shape or not len(pixels):
        found = "×".join(map(str, pixels.shape))
        raise ValueError(f"images are {precisions.name(pixels.dtype)}, {found}; {wanted}")
    return pixels


def _check_made_for(pool: PoolDataset, teacher: Classifier) -> None:
    """Raise ValueError where the pool is this network's under another preprocessing."""
    same = pool.card.get("weights") == fingerprint(teacher.network)
    if same and pool.card["preprocessing"] != plain(teacher.preprocessing):
        raise ValueError("the pool was made for another preprocessing of this network; make one for the present")


def split_of(images, teacher: Classifier, classes: int | None = None) -> Split:
    """Images and labels (N,), checked. Raises ValueError for what is no such pair, or does not fit."""
    try:
        pixels, labels = images
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"images with labels are a {type(images).__name__}; give (pixels, labels)") from error
    pixels = pixels_of(pixels, teacher)
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != (len(pixels),):
        found = f"{precisions.name(labels.dtype)}, {tuple(labels.shape)}"
        raise ValueError(f"labels are {found}; give {len(pixels)} whole numbers")
    labels = labels.long().cpu()
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        most = "" if classes is None else f" to {classes - 1}"
        raise ValueError(f"labels reach from {labels.min()} to {labels.max()}; give whole numbers from 0{most}")
    return Split(pixels.cpu(), labels)


def split_or_none(test, teacher: Classifier, classes: int) -> Split | None:
    """Test images with their labels, if there are any."""
    return None if test is None else split_of(test, teacher, classes)
