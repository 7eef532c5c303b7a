"""Supervised training of teachers, and the augmentation and optimiser that students share with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from dilib.checks import check_not_negative, check_positive, check_whole
from dilib.classifier import Classifier
from dilib.data import Split
from dilib.muon import Muon
from dilib.precision import autocast_logits
from dilib.rounds import Run, in_rounds


@dataclass(frozen=True)
class TrainingSettings:
    """SGD with Nesterov momentum, a linear warm-up over the first fifth and a linear decay to zero."""

    epochs: int = 30
    batch_size: int = 256
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: int = 2
    flip: bool = True

    def __post_init__(self):
        check_whole(self, "epochs", "batch_size")
        check_positive(self, "lr")
        check_not_negative(self, "momentum", "weight_decay", "shift")


def train(
    classifier: Classifier,
    split: Split,
    settings: TrainingSettings,
    run: Run = Run(),
    *,
    loss_of: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> dict[str, list[float]]:
    """Train the classifier's network in place on labelled images; the seconds of each epoch.

    `loss_of(logits, labels)` is minimised. Raises ValueError where the images do not fill a batch, and
    FloatingPointError when the loss stops being finite.

    Example:
        >>> train(classifier, data.load("digits").train, TrainingSettings(epochs=6, batch_size=100, flip=False))
    """
    network, device, steps = classifier.network, classifier.device, len(split.labels) // settings.batch_size
    if steps == 0:
        raise ValueError(f"{len(split.labels)} images do not fill a batch of {settings.batch_size}; use a smaller one")
    pixels, labels = split.pixels.to(device), split.labels.to(device)
    schedule = sgd(network, settings, lambda update: triangle(update / (steps * settings.epochs)))

    def epoch(index: int, random: torch.Generator) -> dict[str, float]:
        order = torch.randperm(len(labels), generator=random)
        network.train()
        running = torch.zeros((), device=device)
        for chosen in order[: steps * settings.batch_size].to(device).split(settings.batch_size):
            images = augment(classifier.preprocessing.normalise(pixels[chosen]), settings.shift, settings.flip, random)
            loss = loss_of(autocast_logits(network, images, classifier.precision), labels[chosen])
            descend(schedule, loss)
            running += loss.detach()
        return {"loss": running.item() / steps}

    parts = {"network": network, "optimizer": schedule.optimizer, "schedule": schedule}
    history = in_rounds(epoch, settings.epochs, parts, run.of(classifier.precision), "training")
    network.eval()
    return history


def triangle(progress: float, warm_up: float = 0.2) -> float:
    """Learning-rate factor in [0, 1] at `progress` in [0, 1]: up to 1 over the warm-up, then down to 0."""
    return progress / warm_up if progress < warm_up else (1 - progress) / (1 - warm_up)


def sgd(network: nn.Module, settings, factor: Callable[[int], float]) -> LRScheduler:
    """SGD with Nesterov momentum by `settings` (lr, momentum, weight_decay), its rate times `factor(update)`.

    Returns the scheduler, whose `optimizer` it is.
    """
    return LambdaLR(torch.optim.SGD(network.parameters(), **_rates(settings), nesterov=True), factor)


def muon(network: nn.Module, settings, factor: Callable[[int], float], precision: torch.dtype) -> LRScheduler:
    """As `sgd`, but Muon for the weights of convolutions, by `settings` (filter_lr, filter_momentum, filter_decay).

    It orthogonalises large matrices in `precision`.
    """
    filters = settings.filter_lr, settings.filter_momentum, settings.filter_decay
    return LambdaLR(Muon(network, *filters, precision, **_rates(settings)), factor)


def _rates(settings) -> dict[str, float]:
    return {"lr": settings.lr, "momentum": settings.momentum, "weight_decay": settings.weight_decay}


def descend(schedule: LRScheduler, loss: Tensor, clip: float | None = None) -> None:
    """One update of a scheduler's optimiser down the gradient of `loss`, whose norm is at most `clip`."""
    schedule.optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_([each for group in schedule.optimizer.param_groups for each in group["params"]], clip)
    schedule.optimizer.step()
    schedule.step()


def augment(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) moved by up to `shift` pixels, its border reflected, and flipped half the time."""
    return moved(images, shift, *moves(images.shape, shift, flip, generator))


def moves(shape: Sequence[int], shift: int, flip: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where the rows (N, H) and columns (N, W) of moved images (N, C, H, W) come from in padded ones."""
    count, _, height, width = shape
    rows = torch.randint(0, 2 * shift + 1, (count, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(0, 2 * shift + 1, (count, 1), generator=generator) + torch.arange(width)
    if flip:
        flipped = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    return rows, columns


def moved(images: Tensor, shift: int, rows: Tensor, columns: Tensor) -> Tensor:
    """The images (N, C, H, W), their border reflected, moved as `moves` says."""
    device = images.device
    padded = F.pad(images, (shift,) * 4, mode="reflect") if shift else images
    picture = torch.arange(len(images), device=device).view(-1, 1, 1)
    found = padded.permute(0, 2, 3, 1)[picture, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]
    return found.permute(0, 3, 1, 2)
