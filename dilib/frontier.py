"""How few updates will do: schedules, and steps, compared by the students that their images teach, as cells."""

import copy
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dilib import teachers, transfer
from dilib.benchmark import textbook
from dilib.distillation import distill
from dilib.evaluation import accuracy
from dilib.inversion import Schedule, balanced_labels, invert
from dilib.progress import bar
from dilib.recipe import BATCH_SEEDS
from dilib.scales import PAIRS
from dilib.statistics import FeatureStatistics
from dilib.study import Study, plain
from dilib.workers import cells_side_by_side

TEACHER, STUDENT = PAIRS[0]
WARM_START, FIRST = 0.9, 5  # share kept of an earlier batch; updates of the first batch, as a multiple of a later one's
FAMILIES = {  # each with the changes of the one before it
    "paper": "small, constant steps from noise",
    "decay": "large, decaying, clipped steps",
    "warm": "and warm starts",
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


def run_schedules(study: Study, seeds: Sequence[int]) -> dict[tuple[str, int], list[dict]]:
    """The cells of every family and number of updates, one a seed, made side by side, the longest first."""
    frontier = study.scale.frontier
    keys = [(name, updates) for updates in frontier.updates for name in FAMILIES]
    keys += [("paper", updates) for updates in frontier.more_updates]
    longest_first = sorted(keys, key=lambda key: -key[1])
    tasks = [(*key, seed) for seed in seeds for key in longest_first]
    found = cells_side_by_side(schedule_cell, _schedule_key, study, tasks)
    return {key: found[longest_first.index(key) :: len(keys)] for key in keys}


def schedule_cell(study: Study, name: str, updates: int, seed: int) -> dict:
    """Plain DeepInversion by one schedule, and a student taught on it as in Table 1."""
    name_of_cell, settings, _ = _schedule_key(study, name, updates, seed)
    task = (_varied(study, name, updates), TEACHER, STUDENT, "deepinversion", transfer.BATCHNORM, seed, settings)
    return study.cell(name_of_cell, settings, lambda: transfer.taught_by_inversion(*task), seed)


def _schedule_key(study: Study, name: str, updates: int, seed: int) -> tuple[str, dict, int]:
    settings = transfer.transfer_settings(_varied(study, name, updates), TEACHER, STUDENT, "deepinversion")
    return f"frontier--{name}--{updates}", settings, seed


def _varied(study: Study, name: str, updates: int) -> Study:
    """The study with another schedule, and the frontier's student."""
    varied = copy.copy(study)
    varied.pools = study.artifacts / "frontier"  # of their own: a schedule's time has the making of all its images
    student = study.scale.frontier.student
    varied.scale = replace(
        study.scale,
        schedule={TEACHER: family(study.scale.schedule[TEACHER], name, updates, student.rounds)},
        distillation={PAIRS[0]: student},
    )
    return varied


def run_steps(study: Study, seeds: Sequence[int]) -> dict[str, list[dict]]:
    """The cells of the textbook's step and of ours, one a seed, made side by side where they are not there yet."""
    found = cells_side_by_side(step_cell, _step_key, study, [(step, seed) for seed in seeds for step in STEPS])
    return {step: found[index :: len(STEPS)] for index, step in enumerate(STEPS)}


def step_cell(study: Study, step: str, seed: int) -> dict:
    """The same updates from the same noise by the textbook's step or by ours, and a student taught on the images."""
    name, settings, _ = _step_key(study, step, seed)
    return study.cell(name, settings, lambda: _step_metrics(study, step, seed), seed)


def _step_key(study: Study, step: str, seed: int) -> tuple[str, dict, int]:
    settings = {
        "teacher": teachers.teacher_settings(study, TEACHER),
        "step": step,
        "objective": transfer.objective_of(study, TEACHER, "deepinversion"),
        "schedule": _from_noise(study),
        "batch_size": study.scale.batch_size,
        "distillation": study.scale.frontier.student,
    }
    return f"step--{step}", plain(settings), seed


def _step_metrics(study: Study, step: str, seed: int) -> dict:
    teacher, student = teachers.load_teacher(study, TEACHER), teachers.fresh_network(study, STUDENT, seed + 1)
    distillation = study.scale.frontier.student
    batches, started = [], time.perf_counter()
    with bar(distillation.rounds, f"images by the step: {step}, seed {seed}") as progress:
        for index in range(distillation.rounds):
            batches.append(_batch(study, teacher, step, seed * BATCH_SEEDS + index))
            progress.update()
    seconds = time.perf_counter() - started
    history = distill(teacher, student, lambda index, _: batches[index], study.test, distillation, seed=seed)
    stored = FeatureStatistics.from_batchnorm(teacher)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    distances = [stored.distance(FeatureStatistics.from_images(teacher, batch)).item() for batch, _ in batches]
    return {
        "top1": history["student_on_test"][-1],
        "teacher_on_images": accuracy(teacher, images, labels),
        "feature_distance": sum(distances) / len(distances),
        "seconds_per_batch": seconds / len(batches),
    }


def _batch(study: Study, teacher: torch.nn.Module, step: str, seed: int) -> tuple[Tensor, Tensor]:
    labels = balanced_labels(study.scale.batch_size, len(study.data.classes), seed).to(study.device)
    arguments = (
        teacher,
        study.data.preprocessing,
        labels,
        transfer.objective_of(study, TEACHER, "deepinversion"),
        _from_noise(study),
    )
    if step == "ours":
        return invert(*arguments, seed=seed).images, labels
    *_, images = textbook(*arguments, seed=seed)
    return images, labels


def _from_noise(study: Study) -> Schedule:
    """The scale's schedule without warm starts."""
    return family(study.scale.schedule[TEACHER], "decay", study.scale.frontier.updates[-1], batches=1)
