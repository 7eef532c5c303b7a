"""How few updates will do: schedules, and steps, compared by the students that their images teach, as cells."""

import copy
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dilib import transfer
from dilib.benchmark import textbook
from dilib.distillation import distill
from dilib.evaluation import accuracy
from dilib.inversion import Schedule, balanced_labels, invert
from dilib.progress import bar
from dilib.scales import PAIRS
from dilib.statistics import FeatureStatistics
from dilib.study import Study, plain
from dilib.workers import side_by_side

TEACHER, STUDENT = PAIRS[0]
WARM_START = 0.85
FAMILIES = {  # each with the changes of the one before it
    "paper": "small, constant steps from noise",
    "decay": "large, decaying, clipped steps",
    "warm": "and warm starts",
}
STEPS = ("textbook", "ours")


def family(schedule: Schedule, name: str, updates: int) -> Schedule:
    """`schedule` with `updates`, in the paper's manner, as it is, or with warm starts, by the names in FAMILIES.

    Raises ValueError for another name.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; choose from {', '.join(FAMILIES)}")
    schedule = replace(schedule, stages=((schedule.stages[-1][0], updates),))
    if name == "paper":
        return replace(schedule, lr=0.05, decay="constant", clip=False, warm_start=0.0)
    return replace(schedule, warm_start=WARM_START if name == "warm" else 0.0)


def run_schedules(study: Study, seeds: Sequence[int]) -> dict[tuple[str, int], list[dict]]:
    """The cells of every family and number of updates, one a seed, made side by side where they are not there yet."""
    keys = [(name, updates) for updates in study.scale.frontier.updates for name in FAMILIES]
    found = side_by_side(schedule_cell, study, [(*key, seed) for seed in seeds for key in keys])
    return {key: found[index :: len(keys)] for index, key in enumerate(keys)}


def schedule_cell(study: Study, name: str, updates: int, seed: int) -> dict:
    """Plain DeepInversion by one schedule, and a student taught on it as in Table 1."""
    varied = copy.copy(study)
    varied.scale = replace(
        study.scale,
        schedule=family(study.scale.schedule, name, updates),
        distillation={PAIRS[0]: study.scale.frontier.student},
    )
    settings = transfer.transfer_settings(varied, TEACHER, STUDENT, "deepinversion")
    task = (varied, TEACHER, STUDENT, "deepinversion", transfer.BATCHNORM, seed, settings)
    return study.cell(f"frontier--{name}--{updates}", settings, lambda: transfer.taught_by_inversion(*task), seed)


def run_steps(study: Study, seeds: Sequence[int]) -> dict[str, list[dict]]:
    """The cells of the textbook's step and of ours, one a seed, made side by side where they are not there yet."""
    found = side_by_side(step_cell, study, [(step, seed) for seed in seeds for step in STEPS])
    return {step: found[index :: len(STEPS)] for index, step in enumerate(STEPS)}


def step_cell(study: Study, step: str, seed: int) -> dict:
    """The same updates from the same noise by the textbook's step or by ours, and a student taught on the images."""
    settings = {
        "teacher": transfer.teacher_settings(study, TEACHER),
        "step": step,
        "objective": transfer.objective_of(study, TEACHER, "deepinversion"),
        "schedule": replace(study.scale.schedule, warm_start=0.0),
        "batch_size": study.scale.batch_size,
        "distillation": study.scale.frontier.student,
    }
    return study.cell(f"step--{step}", plain(settings), lambda: _step_metrics(study, settings, seed), seed)


def _step_metrics(study: Study, settings: dict, seed: int) -> dict:
    teacher, student = transfer.load_teacher(study, TEACHER), transfer.fresh_network(study, STUDENT, seed + 1)
    rounds = settings["distillation"].rounds
    batches, started = [], time.perf_counter()
    with bar(rounds, f"images by the step: {settings['step']}, seed {seed}") as progress:
        for index in range(rounds):
            batches.append(_batch(study, teacher, settings, seed * transfer.BATCH_SEEDS + index))
            progress.update()
    seconds = time.perf_counter() - started
    history = distill(
        teacher, student, lambda index, _: batches[index], study.test, settings["distillation"], seed=seed
    )
    stored = FeatureStatistics.from_batchnorm(teacher)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    distances = [stored.distance(FeatureStatistics.from_images(teacher, batch)).item() for batch, _ in batches]
    return {
        "top1": history["student_on_test"][-1],
        "teacher_on_images": accuracy(teacher, images, labels),
        "feature_distance": sum(distances) / rounds,
        "seconds_per_batch": seconds / rounds,
    }


def _batch(study: Study, teacher: torch.nn.Module, settings: dict, seed: int) -> tuple[Tensor, Tensor]:
    labels = balanced_labels(settings["batch_size"], len(study.data.classes), seed).to(study.device)
    arguments = (teacher, study.data.preprocessing, labels, settings["objective"], settings["schedule"])
    if settings["step"] == "ours":
        return invert(*arguments, seed=seed).images, labels
    *_, images = textbook(*arguments, seed=seed)
    return images, labels
