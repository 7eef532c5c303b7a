"""Teaching a student from scratch on images that only the teacher has dreamt. Sec. 4.1 and A.1."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dilib import losses, parallel
from dilib.data import Split
from dilib.evaluation import accuracy, glimpse, split_accuracy
from dilib.inversion import compute_dtype
from dilib.models import Preprocessing
from dilib.statistics import frozen_copy
from dilib.training import (
    augment,
    half_precision_forward,
    moved,
    moves,
    restore,
    save_checkpoint,
    set_lr,
    sgd,
    triangle,
)

RECORDED = ("teacher_on_fresh", "student_on_fresh", "student_on_test", "seconds")


@dataclass(frozen=True)
class DistillationSettings:
    """How a student is taught: `rounds` times one new batch of images and `updates` steps of `batch_size` images.

    `decay` is "step" (times 0.1 at the fractions `decay_at` of the run, as the paper's after 100 and 200 of its 250
    epochs) or "linear" (a rise over the first tenth, then down to zero). `shift` and `flip` augment the pool's images;
    fresh ones are used as they are.
    """

    rounds: int = 975
    updates: int = 50
    batch_size: int = 256
    lr: float = 0.1
    decay: str = "step"
    decay_at: tuple[float, ...] = (0.4, 0.8)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    temperature: float = 3.0
    shift: int = 2
    flip: bool = True

    def __post_init__(self):
        if self.decay not in ("step", "linear"):
            raise ValueError(f"decay {self.decay!r} is unknown; choose step or linear")

    def lr_at(self, update: int) -> float:
        """The learning rate of an update, counted from 0 over the whole run."""
        progress = update / (self.rounds * self.updates)
        if self.decay == "linear":
            return self.lr * triangle(progress, warm_up=0.1)
        return self.lr * 0.1 ** sum(progress >= fraction for fraction in self.decay_at)


@dataclass(frozen=True)
class PoolSettings(DistillationSettings):
    """How a student is taught on a fixed pool: as above, but no batch is fresh, and a round is only a pause to measure.

    With `mixup` α above 0 each batch is mixed with another in the proportion λ ~ Beta(α, α) (Zhang et al., 2018).
    """

    mixup: float = 0.0


def distill(
    teacher: nn.Module,
    student: nn.Module,
    fresh_batch: Callable[[int, nn.Module], tuple[Tensor, Tensor]],
    test: tuple[Tensor, Tensor],
    settings: DistillationSettings,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    card: dict | None = None,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, list[float]]:
    """Teach `student` in place; per round, accuracies in percent and seconds, under the names in RECORDED (Fig. 4).

    `fresh_batch(round, student)` gives the round's new images (N, C, H, W) and labels (N,): it may load or make them.
    They are used for an update at once and join the pool, from which the round's other batches are drawn at random.
    The student is watched on some of the `test` images, (images, labels), and judged on all of them at the end.
    Goes on from `checkpoint` if there is one with the same `card`. Raises FloatingPointError on a loss not finite.
    """
    dtype = compute_dtype(test[0].device)
    frozen_teacher = frozen_copy(teacher, dtype)
    optimizer = sgd(student, settings.lr, settings.momentum, settings.weight_decay)
    extra: dict[str, Tensor] = {}
    first = restore(checkpoint, card, student, optimizer, extra)
    history = {name: extra[name].tolist() if first else [] for name in RECORDED}
    pool = [fresh_batch(index, student) for index in range(first)]

    for index in range(first, settings.rounds):
        started = time.perf_counter()
        images, labels = fresh_batch(index, student)
        pool.append((images, labels))
        history["teacher_on_fresh"].append(accuracy(teacher, images, labels))
        history["student_on_fresh"].append(accuracy(student, images, labels))
        loss = _teach_round(frozen_teacher, student, optimizer, pool, settings, index, seed)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"distillation loss {loss.item()} in round {index + 1}; lower lr ({settings.lr})")
        history["student_on_test"].append(accuracy(student, *(test if index + 1 == settings.rounds else glimpse(test))))
        history["seconds"].append(time.perf_counter() - started)
        if checkpoint:
            extra = {name: torch.tensor(values, dtype=torch.float64) for name, values in history.items()}
            save_checkpoint(checkpoint, card, index + 1, student, optimizer, extra)
        if on_round:
            on_round(index + 1)
    student.eval()
    return history


def _teach_round(teacher, student, optimizer, pool, settings, index, seed) -> Tensor:
    """One round's updates: the fresh batch first, then batches drawn from the pool. Eq. 1."""
    generator = torch.Generator().manual_seed(seed * 100_003 + index)
    student.train()
    fresh = pool[-1][0].split(settings.batch_size)
    for update in range(settings.updates):
        set_lr(optimizer, settings.lr_at(index * settings.updates + update))
        if update < len(fresh):
            images = fresh[update]
        else:
            drawn = pool[int(torch.randint(len(pool), (), generator=generator))][0]
            chosen = torch.randperm(len(drawn), generator=generator)[: settings.batch_size].to(drawn.device)
            images = augment(drawn[chosen], settings.shift, settings.flip, generator)
        loss = _teach(teacher, student, optimizer, images, settings.temperature)
    return loss


def _teach(teacher, student, optimizer, images: Tensor, temperature: float) -> Tensor:
    """One update on a batch (N, C, H, W). Eq. 1."""
    with torch.no_grad():
        teacher_logits = teacher(images.to(next(teacher.parameters()).dtype, memory_format=torch.channels_last))
    loss = scaled_distillation(teacher_logits.float(), half_precision_forward(student, images), temperature)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def distill_on_pool(
    teacher: nn.Module,
    student: nn.Module,
    pool: Tensor,
    preprocessing: Preprocessing,
    test: Split,
    settings: PoolSettings,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    card: dict | None = None,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, list[float]]:
    """Teach `student` in place on fixed images, uint8 (N, C, H, W); per round, test top-1 and seconds. Sec. 4.4.

    Processes that torchrun started teach one student together, who ends as one process would have taught it.
    Goes on from `checkpoint` if there is one with the same `card`. Raises FloatingPointError on a loss not finite.
    """
    device = next(teacher.parameters()).device
    frozen = frozen_copy(teacher, compute_dtype(device))
    learner = parallel.shared(student)
    optimizer = sgd(student, settings.lr, settings.momentum, settings.weight_decay)
    extra: dict[str, Tensor] = {}
    first = restore(checkpoint, card, student, optimizer, extra)
    history = {name: extra[name].tolist() if first else [] for name in ("student_on_test", "seconds")}
    for index in range(first, settings.rounds):
        started = time.perf_counter()
        random = torch.Generator().manual_seed(seed * 100_003 + index)
        student.train()
        for update in range(settings.updates):
            set_lr(optimizer, settings.lr_at(index * settings.updates + update))
            images = _drawn(pool, preprocessing, settings, random).to(device)
            loss = _teach(frozen, learner, optimizer, images, settings.temperature)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"distillation loss {loss.item()} in round {index + 1}; lower lr ({settings.lr})")
        history["student_on_test"].append(split_accuracy(student, test, preprocessing))
        history["seconds"].append(time.perf_counter() - started)
        if checkpoint and parallel.rank() == 0:
            extra = {name: torch.tensor(values, dtype=torch.float64) for name, values in history.items()}
            save_checkpoint(checkpoint, card, index + 1, student, optimizer, extra)
        if on_round:
            on_round(index + 1)
    student.eval()
    return history


def _drawn(pool: Tensor, preprocessing: Preprocessing, settings: PoolSettings, random: torch.Generator) -> Tensor:
    """This process's share of a batch, drawn at random from the pool, augmented, and mixed with another (mixup)."""
    part = parallel.share(settings.batch_size)

    def batch() -> Tensor:
        chosen = torch.randint(len(pool), (settings.batch_size,), generator=random)
        rows, columns = moves((settings.batch_size, *pool.shape[1:]), settings.shift, settings.flip, random)
        return moved(preprocessing.normalise(pool[chosen[part]]), settings.shift, rows[part], columns[part])

    if not settings.mixup:
        return batch()
    share = np.random.default_rng(int(torch.randint(2**62, (), generator=random))).beta(*[settings.mixup] * 2)
    return torch.lerp(batch(), batch(), float(share))


def scaled_distillation(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Eq. 1 times τ²: gradients shrink with 1/τ², so one learning rate serves any temperature (Hinton et al., 2015)."""
    return temperature**2 * losses.distillation(teacher_logits, student_logits, temperature)
