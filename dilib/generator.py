"""DAFL, the baseline that trains a generator against a fixed teacher while the student learns from its images.

Chen et al., "Data-Free Learning of Student Networks", ICCV 2019.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dilib.distillation import DistillationSettings, scaled_distillation
from dilib.evaluation import accuracy, glimpse
from dilib.inversion import compute_dtype
from dilib.models import Preprocessing
from dilib.statistics import frozen_copy
from dilib.training import adam_state, half_precision_forward, load_adam, restore, save_checkpoint, set_lr, sgd


@dataclass(frozen=True)
class GeneratorSettings:
    """The generator's size and learning rate, and the weights of its three losses, by default as in the DAFL paper.

    How the student is taught, and for how many joint steps, is in `student`; its images are not augmented.
    """

    student: DistillationSettings = field(default_factory=lambda: DistillationSettings(rounds=200, updates=120))
    latents: int = 100
    width: int = 128
    lr: float = 1e-3
    one_hot: float = 1.0
    activation: float = 0.1
    entropy: float = 5.0


class Generator(nn.Module):
    """Latents (N, Z) → images (N, C, size, size), per-channel zero mean and unit variance by a last BatchNorm."""

    def __init__(self, preprocessing: Preprocessing, latents: int, width: int):
        super().__init__()
        self.width, self.size = width, preprocessing.size // 4
        self.project = nn.Linear(latents, width * self.size**2)
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.BatchNorm2d(width // 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width // 2, preprocessing.channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(preprocessing.channels, affine=False),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.body(self.project(latents).view(-1, self.width, self.size, self.size))


def one_hot_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of the teacher's logits (N, K) to their own arg max: be sure of some class. DAFL Eq. 3."""
    return F.cross_entropy(logits, logits.argmax(1))


def activation_loss(features: Tensor) -> Tensor:
    """Minus the mean absolute feature (N, D): excite the teacher as real images do. DAFL Eq. 4."""
    return -features.abs().mean()


def information_entropy_loss(logits: Tensor) -> Tensor:
    """Minus the entropy, in nats, of the batch's mean prediction: use all classes alike. DAFL Eq. 5."""
    mean = logits.softmax(1).mean(0)
    return (mean * torch.log(mean.clamp_min(1e-12))).sum()


def distill_with_generator(
    teacher: nn.Module,
    student: nn.Module,
    preprocessing: Preprocessing,
    test: tuple[Tensor, Tensor],
    settings: GeneratorSettings,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    card: dict | None = None,
    on_round: Callable[[int], None] | None = None,
) -> tuple[Generator, dict[str, list[float]]]:
    """Train a generator and, in place, the student; the generator, and per round test top-1 in percent and seconds.

    Goes on from `checkpoint` if there is one with the same `card`.
    """
    teaching, device = settings.student, test[0].device
    frozen = frozen_copy(teacher, compute_dtype(device))
    torch.manual_seed(seed)
    generator = Generator(preprocessing, settings.latents, settings.width).to(device, memory_format=torch.channels_last)
    both = nn.ModuleDict({"student": student, "generator": generator})
    optimizer = sgd(student, teaching.lr, teaching.momentum, teaching.weight_decay)
    generator_optimizer = torch.optim.Adam(generator.parameters(), lr=settings.lr, fused=True)
    extra: dict[str, Tensor] = {}
    first = restore(checkpoint, card, both, optimizer, extra)
    history = {name: extra[name].tolist() if first else [] for name in ("student_on_test", "seconds")}
    if first:
        load_adam(generator_optimizer, generator, extra)

    for index in range(first, teaching.rounds):
        started = time.perf_counter()
        random = torch.Generator().manual_seed(seed * 100_003 + index)
        both.train()
        for update in range(teaching.updates):
            set_lr(optimizer, teaching.lr_at(index * teaching.updates + update))
            latents = torch.randn(teaching.batch_size, settings.latents, generator=random).to(device)
            loss = _joint_step(frozen, student, generator, latents, optimizer, generator_optimizer, settings)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"DAFL loss {loss.item()} in round {index + 1}; lower one of the learning rates")
        history["student_on_test"].append(accuracy(student, *(test if index + 1 == teaching.rounds else glimpse(test))))
        history["seconds"].append(time.perf_counter() - started)
        if checkpoint:
            extra = {name: torch.tensor(values, dtype=torch.float64) for name, values in history.items()}
            save_checkpoint(
                checkpoint,
                card,
                index + 1,
                both,
                optimizer,
                extra | adam_state(generator_optimizer, generator),
            )
        if on_round:
            on_round(index + 1)
    both.eval()
    return generator, history


def _joint_step(teacher, student, generator, latents, optimizer, generator_optimizer, settings) -> Tensor:
    images = generator(latents)
    logits, features = _logits_and_features(teacher, images)
    generator_loss = (
        settings.one_hot * one_hot_loss(logits)
        + settings.activation * activation_loss(features)
        + settings.entropy * information_entropy_loss(logits)
    )
    student_logits = half_precision_forward(student, images.detach())
    loss = scaled_distillation(logits.detach(), student_logits, settings.student.temperature)
    generator_optimizer.zero_grad()
    optimizer.zero_grad()
    (generator_loss + loss).backward()
    generator_optimizer.step()
    optimizer.step()
    return loss.detach()


def _logits_and_features(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and the input (N, D) of the network's last linear layer."""
    captured = {}
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    handle = head.register_forward_pre_hook(lambda _, inputs: captured.update(features=inputs[0]))
    try:
        logits = network(images.to(next(network.parameters()).dtype, memory_format=torch.channels_last))
    finally:
        handle.remove()
    return logits.float(), captured["features"].float()
