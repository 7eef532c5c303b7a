"""What is tried before images are made, so that a network that can't be inverted is refused in one line."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dilib.classifier import Classifier, Size, frozen_copy, sides
from dilib.downloads import reason
from dilib.feature_statistics import FeatureStatistics, Observed
from dilib.structure import logits_of, undisturbed

TOLERANCES = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
    torch.float16: 0.05,
    torch.bfloat16: 0.2,
}  # of the largest logit


@dataclass(frozen=True)
class Trial:
    """How many classes a network tells apart, and whether it draws random numbers in evaluation mode."""

    classes: int
    random: bool


def tried(teacher: Classifier, sizes: Iterable[Size], statistics: FeatureStatistics | None) -> Trial:
    """Try a teacher on two images of noise at the smallest of these sizes, and the copy of it that is inverted.

    With `statistics` that copy is an observed one, all of whose layers they must have. The network itself is left as it
    was. Raises ValueError for a network in training mode, that does not take such images or changes them, that gives no
    logits (N, K), or whose copy gives other logits.
    """
    _check_evaluation_mode(teacher.network)
    size = min(sizes, key=sides)
    images = _noise(teacher, teacher.preprocessing.channels, size)
    with undisturbed():
        before = _random_states()
        logits = _logits(teacher, images, size)
        random = not all(map(torch.equal, before, _random_states()))
    _try_copy(teacher, images, None if random else logits, statistics)
    return Trial(logits.shape[1], random)


def _check_evaluation_mode(network: nn.Module) -> None:
    training = next((name for name, layer in network.named_modules() if layer.training), None)
    if training is not None:
        place = f"its layer {training}" if training else "it"
        raise ValueError(f"the teacher can't be inverted while {place} is in training mode; call teacher.eval() first")


def _noise(teacher: Classifier, channels: int, size: Size) -> Tensor:
    noise = torch.randn(2, channels, *sides(size), generator=torch.Generator().manual_seed(0))
    return noise.to(teacher.device, teacher.dtype)


def _random_states() -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]


@torch.no_grad()
def _logits(teacher: Classifier, images: Tensor, size: Size) -> Tensor:
    """What the network itself makes of the images."""
    given = images.clone()
    try:
        output = teacher.network(images)
    except Exception as error:  # a network of somebody else's may raise anything
        raise ValueError(_why_not(teacher, size, error)) from error
    if not torch.equal(given, images):
        raise ValueError(f"{type(teacher.network).__name__} changes its input in place; have it change a copy")
    return logits_of(output, teacher.network)


@torch.no_grad()
def _why_not(teacher: Classifier, size: Size, error: Exception) -> str:
    """Why these images can't be taken, from what can be."""
    kind, channels = type(teacher.network).__name__, teacher.preprocessing.channels

    def takes(channels: int, size: Size) -> bool:
        try:
            return bool(logits_of(teacher.network(_noise(teacher, channels, size)), teacher.network).numel())
        except Exception:
            return False

    for other in (1, 3, 4):
        if other != channels and takes(other, size):
            said = f"the teacher takes {other} channels but its preprocessing has {channels}"
            return f"{said}; give one mean and std a channel"
    height, width = sides(size)
    found = next((factor for factor in (2, 4, 8, 1 / 2, 1 / 4) if takes(channels, _scaled(size, factor))), None)
    said = f"{kind} can't take {height}×{width} images ({reason(error)})"
    if found is None:
        return f"{said}; check its preprocessing, and try it on a batch of images first"
    other = "×".join(str(side) for side in _scaled(size, found))
    return f"{said}; use {'larger' if found > 1 else 'smaller'} ones, such as {other}"


def _scaled(size: Size, factor: float) -> tuple[int, int]:
    return tuple(max(1, round(side * factor)) for side in sides(size))


@torch.no_grad()
def _try_copy(teacher: Classifier, images: Tensor, logits: Tensor | None, statistics: FeatureStatistics | None) -> None:
    """Run the copy in the teacher's precision, and, in the network's own, compare its logits if they can be."""
    kind, exact = type(teacher.network).__name__, torch.promote_types(teacher.dtype, torch.float32)
    for dtype in dict.fromkeys((exact, teacher.precision)):
        try:
            copy = (Observed if statistics else frozen_copy)(teacher.network, dtype)
            with undisturbed():
                found = copy(images)
        except RuntimeError as error:
            name = str(dtype).removeprefix("torch.")
            said = f"a copy of {kind} does not run in {name} ({reason(error)})"
            raise ValueError(f"{said}; choose another precision") from error
        if dtype == exact and logits is not None:
            _check_same(kind, found, logits.to(found.dtype), TOLERANCES[teacher.dtype])
    if statistics:
        _check_layers(copy.moments, statistics)


def _check_same(kind: str, found: Tensor, logits: Tensor, tolerance: float) -> None:
    if not torch.allclose(found, logits, rtol=0, atol=tolerance * _largest(logits), equal_nan=True):
        off = (found - logits).abs().max().item()
        raise ValueError(
            f"a copy of {kind} gives logits that are off by {off:.3g} of {_largest(logits):.3g}; "
            "have its forward depend on its input, parameters and buffers alone"
        )


def _largest(logits: Tensor) -> float:
    return logits.nan_to_num().abs().max().item()


def _check_layers(seen: FeatureStatistics, statistics: FeatureStatistics) -> None:
    if not seen.means:
        raise ValueError("no BatchNorm layer runs in a forward pass; DeepInversion needs one that does")
    for name, mean in seen.means.items():
        if name not in statistics.means or statistics.means[name].shape != mean.shape:
            raise ValueError(
                f"statistics do not fit layer {name} of {len(mean)} channels; measure them on this network"
            )


def checked_student(teacher: Classifier, student: nn.Module, classes: int | None = None) -> Trial:
    """Try a student on two images of the teacher's; `classes` are the teacher's, looked up where they are not known.

    Raises ValueError where the student tells another number of classes apart.
    """
    copy = frozen_copy(student, torch.float32).network
    found, classes = _tried_at_own_size(replace(teacher, network=copy)), classes or teacher.structure().classes
    if found.classes != classes:
        raise ValueError(
            f"the student has {found.classes} outputs and the teacher {classes}; give one with as many as the teacher"
        )
    return found


def _tried_at_own_size(classifier: Classifier) -> Trial:
    return tried(replace(classifier, precision=torch.float32), [classifier.preprocessing.size], None)


def targets(labels, classes: int) -> Tensor:
    """Labels as cross-entropy takes them: classes (N,), int64, or distributions over all of them (N, K), fp32.

    `labels` may be a tensor, an array or a list. Raises ValueError for any that do not fit the number of classes.
    """
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"labels {type(labels).__name__} can't be read ({reason(error)})") from error
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if found.ndim == 2 and found.shape[1] == classes and len(found):
        shares = found.float()
        if (shares < 0).any() or not torch.allclose(
            shares.sum(1), torch.ones(len(shares), device=shares.device), atol=1e-3
        ):
            raise ValueError("soft labels are no distributions; give shares of at least 0 that sum to 1 for each image")
        return shares
    if found.ndim != 1 or (len(found) and not whole):
        raise ValueError(
            f"labels of shape {tuple(found.shape)} and {found.dtype} do not fit the teacher's {classes} classes; "
            f"give whole numbers (N,), or distributions (N, {classes})"
        )
    if not len(found) or found.min() < 0 or found.max() >= classes:
        span = f"{found.min()}..{found.max()}" if len(found) else "none"
        raise ValueError(f"labels {span} do not fit the teacher's {classes} classes; use 0..{classes - 1}")
    return found.long()
