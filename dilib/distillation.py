"""Teaching a student from scratch on images that only the teacher has dreamt. Sec. 4.1 and A.1."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from dilib import distributed, losses
from dilib.checks import check_not_negative, check_positive, check_whole
from dilib.classifier import Classifier, Frozen, Preprocessing
from dilib.data import Split
from dilib.evaluation import accuracy, glimpse, split_accuracy
from dilib.feature_statistics import has_statistics
from dilib.pool import Batch
from dilib.precision import autocast_logits
from dilib.rounds import Run, in_rounds
from dilib.training import augment, descend, moved, moves, muon, sgd, triangle
from dilib.trial import checked_student


@dataclass(frozen=True)
class DistillationSettings:
    """How a student is taught: `rounds` times one new batch of images and `updates` steps of `batch_size` images.

    `decay` is "step" (times 0.1 at the fractions `decay_at` of the run, as the paper's after 100 and 200 of its 250
    epochs) or "linear" (a rise over the first tenth, then down to zero). `shift` and `flip` augment the pool's images;
    fresh ones are used as they are.
    """

    # What only StreamSettings has as fields:
    batches = 1  # new ones a round
    mixed = False
    optimizer = "sgd"
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
        check_whole(self, "rounds", "updates", "batch_size")
        check_positive(self, "lr", "temperature")
        check_not_negative(self, "momentum", "weight_decay", "shift")

    def lr_factor(self, update: int) -> float:
        """What the learning rate is multiplied by at an update, counted from 0 over the whole run."""
        progress = update / (self.rounds * self.updates)
        if self.decay == "linear":
            return triangle(progress, warm_up=0.1)
        return 0.1 ** sum(progress >= fraction for fraction in self.decay_at)


@dataclass(frozen=True)
class StreamSettings(DistillationSettings):
    """How a student is taught where images are cheap: as above, but a round has `batches` new ones.

    Each is followed by its share of the round's `updates`. `mixed` steps take images from all batches, others from one
    batch each. The `optimizer` is "sgd", or "muon", to which `lr`, `momentum` and `weight_decay` are those of all
    weights but convolutions'; these have `filter_lr`, `filter_momentum` and `filter_decay`.
    """

    batches: int = 10
    mixed: bool = True
    optimizer: str = "muon"
    filter_lr: float = 0.05
    filter_momentum: float = 0.6
    filter_decay: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_whole(self, "batches")
        check_positive(self, "filter_lr")
        check_not_negative(self, "filter_momentum", "filter_decay")
        if self.optimizer not in ("muon", "sgd"):
            raise ValueError(f"optimizer {self.optimizer!r} is unknown; choose muon or sgd")
        if self.updates % self.batches:
            raise ValueError(
                f"{self.updates} updates a round can't be shared by {self.batches} batches; give a multiple"
            )


@dataclass(frozen=True)
class PoolSettings(DistillationSettings):
    """How a student is taught on a fixed pool: as above, but no batch is fresh, and a round is only a pause to measure.

    With `mixup` α above 0 each batch is mixed with another in the proportion λ ~ Beta(α, α) (Zhang et al., 2018).
    """

    mixup: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_not_negative(self, "mixup")


def distill(
    teacher: Classifier,
    student: nn.Module,
    fresh_batch: Callable[[int], Batch],
    test: tuple[Tensor, Tensor] | None,
    settings: DistillationSettings,
    run: Run = Run(),
) -> dict[str, list[float]]:
    """Teach `student` in place while its images are made; accuracies in percent and seconds of each round. Fig. 4.

    `fresh_batch(number)` loads or makes the next new images. They are used for an update at once and join the pool,
    from which the round's other batches are drawn at random. The seconds that making them took count as the round's,
    even if another process made them.
    The history has "teacher_on_fresh" and "student_on_fresh", measured before the student learns from the round's last
    new images, and, where there are `test` images, "student_on_test", on some of them (normalised images (N, C, H, W),
    labels (N,)) and at the end on all.
    Raises ValueError for a student with another number of classes, and FloatingPointError when the loss stops being
    finite.
    """
    checked_student(teacher, student)
    frozen, learner = teacher.frozen(), teacher.with_network(student)
    if settings.optimizer == "muon":
        schedule = muon(student, settings, settings.lr_factor, teacher.precision)
    else:
        schedule = sgd(student, settings, settings.lr_factor)
    pool: list[Tensor] = []

    def teach(index: int, random: torch.Generator) -> dict[str, float]:
        first, following = index * settings.batches, (index + 1) * settings.batches
        pool.extend(fresh_batch(earlier).images for earlier in range(len(pool), first))  # where a checkpoint went on
        seconds = 0.0
        for number in range(first, following):
            batch = fresh_batch(number)
            started = time.perf_counter()
            pool.append(batch.images)
            if number + 1 == following:
                on_fresh = {
                    "teacher_on_fresh": accuracy(teacher, batch.images, batch.labels),
                    "student_on_fresh": accuracy(learner, batch.images, batch.labels),
                }
            loss = _teach_on_batch(frozen, student, schedule, pool, settings, random)
            seconds += batch.seconds + time.perf_counter() - started
        measured = {**on_fresh, "loss": loss}
        if test is not None:
            started = time.perf_counter()
            measured["student_on_test"] = accuracy(learner, *(test if index + 1 == settings.rounds else glimpse(test)))
            seconds += time.perf_counter() - started
        return {**measured, "seconds": seconds}

    parts = {"network": student, "optimizer": schedule.optimizer, "schedule": schedule}
    history = in_rounds(teach, settings.rounds, parts, run.of(teacher.precision), "distillation")
    student.eval()
    return history


def _teach_on_batch(frozen, student, schedule, pool: list[Tensor], settings, random: torch.Generator) -> float:
    """The updates that follow a fresh batch: itself first, then batches drawn from the pool; the last loss.

    A single image that is left over waits in the pool: BatchNorm takes no batch of one.
    """
    student.train()
    fresh = [part for part in pool[-1].split(settings.batch_size) if len(part) > 1 or settings.batch_size == 1]
    for update in range(settings.updates // settings.batches):
        if update < len(fresh):
            images = fresh[update]
        else:
            images = augment(_earlier(pool, settings, random), settings.shift, settings.flip, random)
        loss = _teach(frozen, student, schedule, images, settings.temperature)
    return loss.item()


def _earlier(pool: list[Tensor], settings: DistillationSettings, random: torch.Generator) -> Tensor:
    """Images drawn at random from all batches, or from one of them, which is drawn, too."""
    if settings.mixed:
        places = (torch.rand(settings.batch_size, generator=random) * len(pool)).tolist()
        return torch.stack([pool[int(place)][int(place % 1 * len(pool[int(place)]))] for place in places])
    drawn = pool[int(torch.randint(len(pool), (), generator=random))]
    return drawn[torch.randperm(len(drawn), generator=random)[: settings.batch_size].to(drawn.device)]


def _teach(frozen: Frozen, student: nn.Module, schedule: LRScheduler, images: Tensor, temperature: float) -> Tensor:
    """One update on a batch (N, C, H, W). Eq. 1."""
    with torch.no_grad():
        teacher_logits = frozen(images)
    loss = scaled_distillation(teacher_logits, autocast_logits(student, images, frozen.dtype), temperature)
    descend(schedule, loss)
    return loss.detach()


def distill_on_pool(
    teacher: Classifier,
    student: nn.Module,
    pool: Tensor,
    test: Split | None,
    settings: PoolSettings,
    run: Run = Run(),
    *,
    keep_statistics: bool = False,
) -> dict[str, list[float]]:
    """Teach `student` in place on fixed images, uint8 (N, C, H, W); seconds a round. Sec. 4.4.

    Where there are `test` images, the history has "student_on_test", too. With `keep_statistics` BatchNorm
    computes with those that it has, where the images are too few to tell better ones.
    Processes that torchrun started teach one student together, and it ends as a single process would have taught it.
    Raises ValueError for a student with another number of classes, and FloatingPointError when the loss stops being
    finite.
    """
    checked_student(teacher, student)
    frozen, learner = teacher.frozen(), distributed.shared(student)
    schedule = sgd(student, settings, settings.lr_factor)

    def teach(index: int, random: torch.Generator) -> dict[str, float]:
        student.train()
        if keep_statistics:
            for layer in filter(has_statistics, student.modules()):
                layer.eval()
        for _ in range(settings.updates):
            images = _drawn(pool, teacher.preprocessing, settings, random).to(teacher.device)
            loss = _teach(frozen, learner, schedule, images, settings.temperature)
        measured = {"loss": loss.item()}
        if test is not None:
            measured["student_on_test"] = split_accuracy(teacher.with_network(student), test)
        return measured

    parts = {"network": student, "optimizer": schedule.optimizer, "schedule": schedule}
    run = run.of(teacher.precision, saves=distributed.rank() == 0)
    history = in_rounds(teach, settings.rounds, parts, run, "distillation")
    student.eval()
    return history


def _drawn(pool: Tensor, preprocessing: Preprocessing, settings: PoolSettings, random: torch.Generator) -> Tensor:
    """This process's share of a batch, drawn at random from the pool, augmented, and mixed with another (mixup)."""
    part = distributed.share(settings.batch_size)

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
