"""Supervised training of teachers, and the augmentation and optimiser that students share with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dilib.artifacts import load_tensors, save_tensors
from dilib.inversion import compute_dtype


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


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    *,
    loss_of: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    prepare: Callable[[Tensor], Tensor] = nn.Identity(),  # noqa: B008
    seed: int = 0,
    checkpoint: Path | None = None,
    card: dict | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train in place on normalised images (N, C, H, W) and labels (N,), going on from `checkpoint` if there is one.

    Images in another form, such as pixels, are normalised by `prepare`, a batch at a time.
    `card` says whose checkpoint it is; one with another card is ignored. Calls `on_epoch(epochs done, mean loss)`.
    Raises FloatingPointError when the loss stops being finite.
    """
    optimizer = sgd(network, settings.lr, settings.momentum, settings.weight_decay)
    steps = len(images) // settings.batch_size
    total = steps * settings.epochs
    if steps == 0:
        raise ValueError(f"{len(images)} images do not fill one batch of {settings.batch_size}; use a smaller batch")
    first = restore(checkpoint, card, network, optimizer)
    for epoch in range(first, settings.epochs):
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        order = torch.randperm(len(images), generator=generator)
        network.train()
        running = torch.zeros((), device=images.device)
        for step in range(steps):
            set_lr(optimizer, settings.lr * triangle((epoch * steps + step) / total))
            index = order[step * settings.batch_size : (step + 1) * settings.batch_size].to(images.device)
            batch = augment(prepare(images[index]), settings.shift, settings.flip, generator)
            loss = loss_of(half_precision_forward(network, batch), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            running += loss.detach()
        mean_loss = running.item() / steps
        if not torch.isfinite(running):
            raise FloatingPointError(f"training loss {mean_loss} in epoch {epoch + 1}; lower lr ({settings.lr})")
        if checkpoint:
            save_checkpoint(checkpoint, card, epoch + 1, network, optimizer)
        if on_epoch:
            on_epoch(epoch + 1, mean_loss)
    network.eval()


def triangle(progress: float, warm_up: float = 0.2) -> float:
    """Learning-rate factor in [0, 1] at `progress` in [0, 1): up to 1 over the warm-up, then down to 0."""
    return progress / warm_up if progress < warm_up else (1 - progress) / (1 - warm_up)


def sgd(network: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    return torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def half_precision_forward(network: nn.Module, images: Tensor) -> Tensor:
    """Logits in fp32 from a forward pass in the precision that is fastest here, weights kept in fp32."""
    dtype = compute_dtype(images.device)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        return network(images).float()


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
    """The images (N, C, H, W), their border reflected, as `moves` says."""
    device = images.device
    padded = F.pad(images, (shift,) * 4, mode="reflect") if shift else images
    picture = torch.arange(len(images), device=device).view(-1, 1, 1)
    found = padded.permute(0, 2, 3, 1)[picture, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]
    return found.permute(0, 3, 1, 2)


def save_checkpoint(path: Path, card: dict | None, done: int, network: nn.Module, optimizer, extra: dict | None = None):
    """Weights, momentum and `extra` tensors after `done` epochs or rounds, in one file."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for index, parameter in enumerate(network.parameters()):
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{index}"] = buffer
    tensors |= {f"extra.{name}": value for name, value in (extra or {}).items()}
    save_tensors(path, tensors, {**(card or {}), "done": done})


def restore(path: Path | None, card: dict | None, network: nn.Module, optimizer, extra: dict | None = None) -> int:
    """Load what `save_checkpoint` wrote into network, optimizer and `extra`; how many epochs or rounds were done."""
    found = load_tensors(path, card) if path else None
    if found is None:
        return 0
    tensors, saved = found
    network.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("network.")})
    for index, parameter in enumerate(network.parameters()):
        if f"momentum.{index}" in tensors:
            optimizer.state[parameter]["momentum_buffer"] = like(parameter, tensors[f"momentum.{index}"])
    if extra is not None:
        extra |= {k[6:]: v for k, v in tensors.items() if k.startswith("extra.")}
    return saved["done"]


def like(parameter: Tensor, values: Tensor) -> Tensor:
    """`values` on the parameter's device and in its memory format, which fused optimisers take for granted."""
    return torch.empty_like(parameter).detach().copy_(values)


def adam_state(optimizer: torch.optim.Adam, network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """An Adam optimiser's moments and steps as named tensors."""
    return {
        f"{prefix}{index}.{name}": value
        for index, parameter in enumerate(network.parameters())
        for name, value in optimizer.state[parameter].items()
    }


def load_adam(optimizer: torch.optim.Adam, network: nn.Module, tensors: dict[str, Tensor], prefix: str = "") -> None:
    """Put back what `adam_state` gave."""
    for index, parameter in enumerate(network.parameters()):
        optimizer.state[parameter] = {
            "step": tensors[f"{prefix}{index}.step"],
            "exp_avg": like(parameter, tensors[f"{prefix}{index}.exp_avg"]),
            "exp_avg_sq": like(parameter, tensors[f"{prefix}{index}.exp_avg_sq"]),
        }
