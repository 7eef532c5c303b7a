"""How few updates will do: schedules, and steps, compared by the students that their images teach. Sec. 5."""

import time
from dataclasses import replace
from functools import partial

import torch

from dilib.baselines.textbook import textbook
from dilib.classifier import Classifier
from dilib.distillation import distill
from dilib.evaluation import accuracy
from dilib.experiments.table1_transfer import objective_of, student_settings, taught_by_inversion
from dilib.experiments.teachers import fresh_network, load_teacher, teacher_settings
from dilib.feature_statistics import FeatureStatistics
from dilib.inversion import Schedule, balanced_labels, invert
from dilib.pool import Batch
from dilib.progress import bar
from dilib.recipe import BATCH_SEEDS
from dilib.rounds import Run
from dilib.study.cells import Cell, Study
from dilib.study.scales.settings import PAIRS

PAIR = PAIRS[0]
WARM_START, FIRST = 0.9, 5  # share kept of an earlier batch; updates of the first batch, as a multiple of a later one's
FAMILIES = {  # each with the changes of the one before it
    "paper": "small, constant steps",
    "decay": "large, decaying steps",
    "warm": "large steps, warm starts",
}
STEPS = ("textbook", "ours")


def family(schedule: Schedule, name: str, updates: int, batches: int) -> Schedule:
    """`schedule`, changed as FAMILIES says, such that `batches` batches take `updates` each on average.

    Raises ValueError for another name.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; choose from {', '.join(FAMILIES)}")
    size, first, later = schedule.stages[-1][0], updates, 0
    if name == "warm":
        later = max(1, round(updates * batches / (batches + FIRST - 1)))
        first = updates * batches - later * (batches - 1)
    schedule = replace(schedule, stages=((size, first),), warm_start=WARM_START if later else 0.0, warm_updates=later)
    return replace(schedule, lr=0.05, decay="constant", clip=False) if name == "paper" else schedule


def schedule_cell(study: Study, name: str, updates: int, seed: int = 0) -> Cell:
    """A student taught as in Table 1 on DeepInversion's images, by a family's schedule of `updates` a batch."""
    student, schedule = study.scale.frontier.student, study.scale.schedule[PAIR[0]]
    varied = study.with_scale(
        schedule={PAIR[0]: family(schedule, name, updates, student.rounds)}, distillation={PAIR: student}
    )
    settings = student_settings(varied, PAIR, "deepinversion")
    how = {"method": "deepinversion", "settings": settings, "seed": seed}
    return Cell(f"frontier--{name}--{updates}", settings, partial(taught_by_inversion, varied, PAIR, **how), seed)


def step_cell(study: Study, step: str, seed: int = 0) -> Cell:
    """The same updates from the same noise by the textbook's step or by ours, and a student taught on the images."""
    settings = {
        "teacher": teacher_settings(study, PAIR[0]),
        "step": step,
        "objective": objective_of(study, PAIR[0], "deepinversion"),
        "schedule": _from_noise(study),
        "batch_size": study.scale.batch_size,
        "distillation": study.scale.frontier.student,
    }
    return Cell(f"step--{step}", settings, partial(_step_metrics, study, step, seed), seed)


def _step_metrics(study: Study, step: str, seed: int) -> dict:
    teacher, student = load_teacher(study, PAIR[0], seed), fresh_network(study, PAIR[1], seed + 1)
    distillation = study.scale.frontier.student
    batches = []
    with bar(distillation.rounds, f"images by the step: {step}, seed {seed}") as progress:
        for index in range(distillation.rounds):
            batches.append(_batch(study, teacher, step, seed * BATCH_SEEDS + index))
            progress.update()
    history = distill(teacher, student, batches.__getitem__, study.test, distillation, Run(seed))
    stored = FeatureStatistics.from_batchnorm(teacher.network)
    seen = [FeatureStatistics.from_images(teacher.network, batch.images) for batch in batches]
    images, labels = (torch.cat([getattr(batch, part) for batch in batches]) for part in ("images", "labels"))
    return {
        "top1": history["student_on_test"][-1],
        "teacher_on_images": accuracy(teacher, images, labels),
        "feature_distance": sum(stored.distance(each).item() for each in seen) / len(seen),
        "seconds_per_batch": sum(batch.seconds for batch in batches) / len(batches),
    }


def _batch(study: Study, teacher: Classifier, step: str, seed: int) -> Batch:
    labels = balanced_labels(study.scale.batch_size, len(study.data.classes), seed).to(study.device)
    problem = (teacher, labels, objective_of(study, PAIR[0], "deepinversion"), _from_noise(study))
    started = time.perf_counter()
    if step == "ours":
        images = invert(*problem, seed=seed).images
    else:
        *_, images = textbook(*problem, seed=seed)
    return Batch(images, labels, time.perf_counter() - started)


def _from_noise(study: Study) -> Schedule:
    """The scale's schedule without warm starts."""
    return family(study.scale.schedule[PAIR[0]], "decay", study.scale.frontier.updates[-1], batches=1)
