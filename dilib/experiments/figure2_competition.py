"""What competition does, on a plane (Fig. 2): points are 1×1 images with two channels, so the real loop makes them."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dilib import losses
from dilib.classifier import Classifier, Preprocessing
from dilib.inversion import Objective, Schedule, balanced_labels, invert
from dilib.study.cells import Cell, Study

CLASSES = 3
PREPROCESSING = Preprocessing(mean=(0.0, 0.0), std=(1.0, 1.0), size=1)
OBJECTIVE = Objective(alpha_tv=0.0, alpha_l2=0.0, alpha_f=0.1, alpha_c=1.0, temperature=1.0)
SCHEDULE = Schedule(stages=((1, 100),), lr=0.05, decay="cosine", jitter=0, flip=False)
BATCH_SIZE, KNOWN = 90, 12  # points a batch; the student learns from every (BATCH_SIZE // KNOWN)-th
SETTINGS = {"objective": OBJECTIVE, "schedule": SCHEDULE, "batch_size": BATCH_SIZE, "known": KNOWN}


@dataclass(frozen=True)
class ToyRun:
    """Points (N, 2) and labels (N,): the first batch, which the student learnt from, and what came after it."""

    teacher: nn.Module
    student: nn.Module
    real: tuple[Tensor, Tensor]
    first: tuple[Tensor, Tensor]
    plain: tuple[Tensor, Tensor]
    adaptive: tuple[Tensor, Tensor]


def arms(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Real data: three curved arms around the origin; points (N, 2), labels (N,)."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    radius = np.sqrt(random.uniform(0.05, 1.0, count))
    angle = labels * 2 * np.pi / CLASSES + 1.6 * radius + random.normal(0, 0.16, count)
    points = 2 * radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return torch.tensor(points, dtype=torch.float32), torch.tensor(labels)


def network(seed: int) -> nn.Module:
    """A small classifier of points (N, 2, 1, 1), with BatchNorm."""
    torch.manual_seed(seed)
    hidden = [layer for i in (2, 64) for layer in (nn.Conv2d(i, 64, 1), nn.BatchNorm2d(64), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Flatten(), nn.Linear(64, CLASSES))


def as_images(points: Tensor) -> Tensor:
    """Points (N, 2) as images (N, 2, 1, 1)."""
    return points.view(len(points), 2, 1, 1)


def fit(model: nn.Module, points: Tensor, targets: Tensor, steps: int, seed: int) -> nn.Module:
    """Train on points (N, 2) with Adam; `targets` are labels (N,) or a teacher's logits (N, K), then by Eq. 1."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    random = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        index = torch.randint(len(points), (min(128, len(points)),), generator=random)
        logits, target = model(as_images(points[index])), targets[index]
        loss = F.cross_entropy(logits, target) if target.ndim == 1 else losses.distillation(target, logits, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def logits_at(model: nn.Module, points: Tensor) -> Tensor:
    """Logits (N, K) of points (N, 2)."""
    return model(as_images(points))


def compete(seed: int, precision: torch.dtype = torch.float32) -> ToyRun:
    """Teach a student on one batch of DeepInversion points, then make the next batch without and with competition."""
    real = arms(3000, seed)
    teacher = fit(network(seed), *real, steps=800, seed=seed)
    maker = Classifier(teacher, PREPROCESSING, precision=precision)

    def dreamt(objective: Objective, batch: int, student: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        labels = balanced_labels(BATCH_SIZE, CLASSES, seed + batch)
        made = invert(maker, labels, objective, SCHEDULE, student=student, seed=seed * 1000 + batch)
        return made.images.flatten(1), made.labels

    first = dreamt(OBJECTIVE.deepinversion(), 0)
    # Few points and few steps: an intermediate student, which knows a part of the distribution.
    known = first[0][:: BATCH_SIZE // KNOWN]
    student = fit(network(seed + 1), known, logits_at(teacher, known), steps=60, seed=seed)
    plain = dreamt(OBJECTIVE.deepinversion(), 1)
    return ToyRun(
        teacher,
        student,
        real,
        (known, first[1][:: BATCH_SIZE // KNOWN]),
        plain,
        dreamt(OBJECTIVE, 1, student),
    )


def competition_cell(study: Study, seed: int) -> Cell:
    """By method, of one run's next batch: its share of points that only the teacher names, and its distance to data."""
    return Cell("competition-toy", SETTINGS, partial(_metrics, study.precision, seed), seed)


def _metrics(precision: torch.dtype, seed: int) -> dict:
    run = compete(seed, precision)
    return {
        name: {
            "teacher right, student wrong, %": teacher_right_student_wrong(run, *batch),
            "distance to real points": distance_to_real(run, batch[0]),
        }
        for name, batch in (("DeepInversion", run.plain), ("Adaptive DeepInversion", run.adaptive))
    }


def teacher_right_student_wrong(run: ToyRun, points: Tensor, labels: Tensor) -> float:
    """Share of points (N, 2), in percent, that the teacher names as wanted and the student does not."""
    right = logits_at(run.teacher, points).argmax(1) == labels
    wrong = logits_at(run.student, points).argmax(1) != labels
    return 100 * (right & wrong).float().mean().item()


def distance_to_real(run: ToyRun, points: Tensor) -> float:
    """Mean distance from each point (N, 2) to the nearest real one."""
    return torch.cdist(points, run.real[0]).min(1).values.mean().item()
