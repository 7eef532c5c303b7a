"""Seconds of a transfer with a shared start, beside those of the bare steps that it is made of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import nn

from dilib import networks
from dilib.amortised import generator_of
from dilib.classifier import Classifier, frozen_copy
from dilib.distillation import distill, scaled_distillation
from dilib.experiments.step_times import RGB
from dilib.pool import ImagePool
from dilib.precision import autocast, autocast_logits
from dilib.recipe import Recipe, Rival
from dilib.study.scales import laptop
from dilib.study.scales.settings import PAIRS, Amortised
from dilib.timing import wall_seconds

PAIR = PAIRS[0]
TURNS = 5
CLASSES = 10


@dataclass(frozen=True)
class Transfer:
    """One line of results/bench/DEVICE.json: a round of images and of the student that learns from them.

    `bare_seconds` are those of its forward and backward passes alone: generator, teacher and student for the images,
    teacher (forward) and student for each of the student's updates. Medians over turns; the ratio is of times within
    one turn.
    """

    part = "transfers"
    teacher: str
    batches: int
    updates: int
    seconds: float
    bare_seconds: float
    ratio_to_bare: float


def transfer(
    device: torch.device,
    precision: torch.dtype,
    how: Amortised = laptop.SCALE.amortised,
    width: float = laptop.SCALE.widths[PAIR[0]],
    turns: int = TURNS,
) -> Transfer:
    """Time a round of the first pair, with random weights, which take as long as trained ones."""
    torch.manual_seed(0)
    teacher, student = (networks.create(name, CLASSES, width=width).to(device) for name in PAIR)
    teacher = Classifier(teacher.eval(), RGB, PAIR[0], precision)
    teaching = replace(how.student[PAIR], rounds=1)
    bare = _bare_steps(teacher, student, how)
    whole_seconds, bare_seconds = [], []
    for turn in range(-1, turns):  # the first turn, not counted, is for what is set up once
        found = wall_seconds(lambda: _round(teacher, student, how), device), wall_seconds(lambda: next(bare), device)
        if turn >= 0:
            whole_seconds.append(found[0])
            bare_seconds.append(found[1])
    return Transfer(
        networks.title(PAIR[0]),
        teaching.batches,
        teaching.updates,
        median(whole_seconds),
        median(bare_seconds),
        median(whole / least for whole, least in zip(whole_seconds, bare_seconds, strict=True)),
    )


def _round(teacher: Classifier, student: nn.Module, how: Amortised) -> None:
    """As the study does it: a pool on disk, whose images compete with the student, and the student's updates."""
    recipe = Recipe(
        teacher,
        tuple(range(CLASSES)),
        how.batch_size,
        how.objective[PAIR[0]],
        (how.schedule,),
        shuffled=True,
        rival=Rival({}, lambda: student),
        shared_start=how.settings,
    )
    test = torch.zeros((10, *RGB.shape), device=teacher.device), torch.arange(10, device=teacher.device)
    with TemporaryDirectory() as folder:
        distill(teacher, student, ImagePool(folder, recipe).batch, test, replace(how.student[PAIR], rounds=1))


def _bare_steps(teacher: Classifier, student: nn.Module, how: Amortised) -> Iterator[None]:
    """The passes of a round, and nothing else."""
    teaching, device = how.student[PAIR], teacher.device
    frozen, rival = teacher.frozen(), frozen_copy(student, teacher.precision)
    generator = generator_of(RGB, how.settings).to(device, memory_format=torch.channels_last)
    latents = torch.randn(how.batch_size, how.settings.latents, device=device)
    labels = torch.arange(how.batch_size, device=device) % CLASSES
    images = torch.randn((teaching.batch_size, *RGB.shape), device=device).contiguous(memory_format=torch.channels_last)

    def of_images() -> None:
        made = autocast(generator, latents, teacher.precision)
        (F.cross_entropy(frozen(made), labels) + F.cross_entropy(rival(made), labels)).backward()

    def of_the_student() -> None:
        with torch.no_grad():
            logits = frozen(images)
        scaled_distillation(logits, autocast_logits(student, images, teacher.precision), 1.0).backward()

    while True:
        student.train()
        for _ in range(teaching.batches):
            _repeat(of_images, how.schedule.updates())
            _repeat(of_the_student, teaching.updates // teaching.batches)
        yield


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()
