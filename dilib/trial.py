"""What is tried before images are made, so that a network that can't be inverted is refused in one line."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dilib.checks import check_gradients
from dilib.classifier import Classifier, Size, frozen_copy, sides
from dilib.downloads import reason
from dilib.feature_statistics import FeatureStatistics, Observed
from dilib.structure import copied, logits_of, undisturbed

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


def tried(
    classifier: Classifier, sizes: Iterable[Size], statistics: FeatureStatistics | None, role: str = "the teacher"
) -> Trial:
    """Try a network on two images of noise at each of these sizes, and at the smallest the copy that is inverted.

    With `statistics` that copy is an observed one, all of whose layers they must have. Weights and buffers stay as they
    are. Raises ValueError for a network in training mode, that does not take such images or changes them, that gives no
    logits (N, K) with a gradient, or whose copy gives other logits; it speaks of the network by its `role`.
    """
    check_gradients()
    _check_evaluation_mode(classifier.network, role)
    for size in sorted(set(map(sides, sizes)), reverse=True):
        images = _noise(classifier, classifier.preprocessing.channels, size)
        with undisturbed(), _buffers_kept(classifier.network):
            before = _random_states()
            logits = _logits(classifier, images, size, role)
            random = not all(map(torch.equal, before, _random_states()))
    # Random numbers are drawn in the order of memory, and the copy's is another one: there is nothing to compare.
    _try_copy(classifier, images, None if random else logits, statistics)
    return Trial(logits.shape[1], random)


def _check_evaluation_mode(network: nn.Module, role: str) -> None:
    training = next((name for name, layer in network.named_modules() if layer.training), None)
    if training is not None:
        place = f"its layer {training}" if training else "it"
        raise ValueError(
            f"{role} can't be used while {place} is in training mode; call {role.split()[-1]}.eval() first"
        )


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    """Afterwards the network's buffers are as before, whatever its forward does to them."""
    before = [
        (layer._buffers, name, buffer, None if buffer is None else buffer.clone())
        for layer in network.modules()
        for name, buffer in layer._buffers.items()  # the unset ones, too
    ]
    try:
        yield
    finally:
        for buffers, name, buffer, value in before:
            if buffer is not None and not torch.equal(buffer, value):
                buffer.copy_(value)
            buffers[name] = buffer


def _noise(classifier: Classifier, channels: int, size: Size) -> Tensor:
    noise = torch.randn(2, channels, *sides(size), generator=torch.Generator().manual_seed(0))
    return noise.to(classifier.device, classifier.dtype)


def _random_states() -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]


@torch.no_grad()
def _logits(classifier: Classifier, images: Tensor, size: Size, role: str) -> Tensor:
    """What the network itself makes of the images."""
    given = images.clone()
    try:
        output = classifier.network(images)
    except Exception as error:  # a network of somebody else's may raise anything
        raise ValueError(_why_not(classifier, size, error, role)) from error
    if not torch.equal(given, images):
        raise ValueError(f"{type(classifier.network).__name__} changes its input in place; have it change a copy")
    logits = logits_of(output, classifier.network)
    if logits.min() >= 0 and ((logits.float().sum(1) - 1).abs() < 1e-3).all():
        raise ValueError(
            f"{type(classifier.network).__name__} returns probabilities; have it return logits, before softmax"
        )
    return logits


@torch.no_grad()
def _why_not(classifier: Classifier, size: Size, error: Exception, role: str) -> str:
    """Why these images can't be taken, from what can be."""
    kind, channels = type(classifier.network).__name__, classifier.preprocessing.channels

    def takes(channels: int, size: Size) -> bool:
        try:
            return bool(logits_of(classifier.network(_noise(classifier, channels, size)), classifier.network).numel())
        except Exception:
            return False

    for other in (1, 3, 4):
        if other != channels and takes(other, size):
            if "student" in role:
                return f"{role} takes images with {other} channel(s) and the teacher {channels}; give one for the same"
            said = f"{role} takes images with {other} channel(s) but its preprocessing has {channels}"
            return f"{said}; give one mean and std per channel"
    height, width = sides(size)
    found = next((factor for factor in (2, 4, 8, 1 / 2, 1 / 4) if takes(channels, _scaled(size, factor))), None)
    said = f"{kind} can't take {height}×{width} images ({reason(error)})"
    if found is None:
        return f"{said}; check its preprocessing, and try it on a batch of images first"
    other = "×".join(str(side) for side in _scaled(size, found))
    return f"{said}; use {'larger' if found > 1 else 'smaller'} ones, such as {other}"


def _scaled(size: Size, factor: float) -> tuple[int, int]:
    return tuple(max(1, round(side * factor)) for side in sides(size))


def _try_copy(
    classifier: Classifier, images: Tensor, logits: Tensor | None, statistics: FeatureStatistics | None
) -> None:
    """Run the copy in the classifier's precision, and, in the network's own, compare its logits if they can be."""
    kind, exact = type(classifier.network).__name__, torch.promote_types(classifier.dtype, torch.float32)
    for dtype in dict.fromkeys((exact, classifier.precision)):
        try:
            copy = (Observed if statistics else frozen_copy)(classifier.network, dtype)
            with undisturbed(), torch.enable_grad():
                found = copy(images.detach().requires_grad_().clone())
        except ValueError:
            raise
        except Exception as error:
            name = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"a copy of {kind} does not run in {name} ({reason(error)}); "
                f"have it compute in {'any floating-point type' if dtype == exact else 'that type, or choose another'}"
            ) from error
        if not found.requires_grad:
            raise ValueError(f"{kind} gives logits without a gradient; take no_grad or detach out of its forward")
        if dtype == exact and logits is not None:
            _check_same(kind, found.detach(), logits.to(found.dtype), TOLERANCES[classifier.dtype])
    if statistics:
        _check_layers(copy.moments, statistics)


def _check_same(kind: str, found: Tensor, logits: Tensor, tolerance: float) -> None:
    largest = logits.nan_to_num().abs().max().item()
    if not torch.allclose(found, logits, rtol=0, atol=tolerance * largest, equal_nan=True):
        off = (found - logits).abs().max().item()
        raise ValueError(
            f"a copy of {kind} gives logits that are off by {off:.3g} of {largest:.3g}; "
            "have its forward depend on its input, parameters and buffers alone"
        )


def _check_layers(seen: FeatureStatistics, statistics: FeatureStatistics) -> None:
    if not seen.means:
        raise ValueError("no BatchNorm layer runs in a forward pass; DeepInversion needs one that does")
    for name, mean in seen.means.items():
        if not mean.requires_grad:
            said = f"layer {name} reads features without a gradient"
            raise ValueError(f"{said}; take no_grad, detach or reentrant checkpoints out of the forward pass")
        if name not in statistics.means or statistics.means[name].shape != mean.shape:
            raise ValueError(
                f"statistics do not fit layer {name} of {len(mean)} channels; measure them on this network"
            )


def checked_student(teacher: Classifier, student: nn.Module, classes: int | None = None) -> Trial:
    """Try a student on two images of the teacher's; `classes` are the teacher's, looked up where they are not known.

    Raises ValueError where the student tells another number of classes apart.
    """
    copy = replace(teacher, network=copied(student).eval(), precision=torch.float32)
    found = tried(copy, [teacher.preprocessing.size], None, role="the student")
    classes = classes or teacher.structure().classes
    if found.classes != classes:
        raise ValueError(
            f"the student has {found.classes} outputs and the teacher {classes}; give one with as many as the teacher"
        )
    return found


def targets(labels) -> Tensor:
    """Labels as cross-entropy takes them: classes (N,), int64, or distributions over all of them (N, K), fp32.

    `labels` may be a tensor, an array or a list. Raises ValueError for what is neither.
    """
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"labels {str(labels)[:60]!r} can't be read; give whole numbers (N,)") from error
    if found.ndim == 2 and len(found):
        return found.float()
    if found.ndim != 1 or (
        len(found) and (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    ):
        raise ValueError(
            f"labels of shape {tuple(found.shape)} and {found.dtype} are neither whole numbers (N,) nor shares of all "
            "classes (N, K); give one or the other"
        )
    return found.long()


def checked_targets(labels, classes: int) -> Tensor:
    """The labels as `targets`. Raises ValueError where they do not fit the number of classes."""
    found = targets(labels)
    if found.ndim == 2:
        if found.shape[1] != classes:
            raise ValueError(
                f"soft labels have {found.shape[1]} shares each, and the teacher {classes} classes; give as many"
            )
        if (found < 0).any() or not torch.allclose(found.sum(1), torch.ones_like(found[:, 0]), atol=1e-3):
            raise ValueError(
                "soft labels are not distributions; give shares of at least 0 that sum to 1 for each image"
            )
    elif not len(found) or found.min() < 0 or found.max() >= classes:
        span = f"{found.min()}..{found.max()}" if len(found) else "none"
        raise ValueError(f"labels {span} do not fit the teacher's {classes} classes; use 0..{classes - 1}")
    return found
