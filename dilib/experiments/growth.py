"""What images cost: how an update's time grows with their number and resolution, and what several resolutions save.

Sec. 5.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import median

import torch
import torchvision

from dilib.classifier import Classifier
from dilib.evaluation import accuracy
from dilib.experiments.step_times import OBJECTIVE, RGB, our_steps
from dilib.experiments.table1_transfer import by_class, objective_of
from dilib.experiments.teachers import load_teacher, teacher_settings
from dilib.feature_statistics import FeatureStatistics
from dilib.inversion import balanced_labels, invert
from dilib.progress import bar
from dilib.study.cells import Cell, Study
from dilib.timing import wall_seconds

TEACHER, JUDGE = "resnet34", "vgg11_bn"
SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of a scheme's updates, to see how its images get better
Stages = tuple[tuple[int, int], ...]  # (resolution, updates)


def growth_cell(study: Study) -> Cell:
    """Seconds of an update by number of images, at half the full resolution, and by resolution for half the most.

    The network has random weights; an update takes as long as with trained ones.
    """
    settings = {"growth": study.scale.growth, "objective": OBJECTIVE.deepinversion()}
    return Cell("growth", settings, partial(_growth_metrics, study))


def _growth_metrics(study: Study) -> dict:
    growth = study.scale.growth
    torch.manual_seed(0)
    network = torchvision.models.get_model(growth.network, weights=None).to(study.device).eval()
    by_images = [(count, growth.sizes[-1] // 2) for count in growth.images]
    by_size = [(growth.images[-1] // 2, size) for size in growth.sizes]
    seconds = update_seconds(Classifier(network, RGB, precision=study.precision), [*by_images, *by_size])
    return {
        "images": list(zip(growth.images, seconds[: len(by_images)], strict=True)),
        "sizes": list(zip(growth.sizes, seconds[len(by_images) :], strict=True)),
    }


def update_seconds(teacher: Classifier, shapes: Sequence[tuple[int, int]], turns: int = 9) -> list[float]:
    """Median seconds, over `turns`, of a DeepInversion update for each (images, resolution); the shapes take turns."""
    device, objective = teacher.device, OBJECTIVE.deepinversion()
    running = [our_steps(objective, teacher, torch.arange(count, device=device), size) for count, size in shapes]
    seconds: list[list[float]] = [[] for _ in shapes]
    with bar(turns, "timing updates") as progress:
        for _ in range(turns):
            for steps, found in zip(running, seconds, strict=True):
                # The quicker of two: the first update of all also sets things up.
                found.append(min(wall_seconds(steps.__next__, device) for _ in range(2)))
            progress.update()
    return [median(found) for found in seconds]


def shortened(stages: Stages, share: float) -> Stages:
    """The stages with a share of their updates."""
    return tuple((size, max(1, round(share * updates))) for size, updates in stages)


def seconds_to(quality: float, curve: Sequence[tuple[float, float]]) -> float:
    """When a curve of (seconds, quality), its points joined by straight lines, first reaches a quality.

    Raises ValueError where it never does.
    """
    before = None
    for seconds, reached in sorted(curve):
        if reached >= quality:
            if before is None:
                return seconds
            share = (quality - before[1]) / (reached - before[1])
            return before[0] + share * (seconds - before[0])
        before = seconds, reached
    raise ValueError(f"a quality of {quality} is never reached; the best is {max(reached for _, reached in curve)}")


def resolution_cell(study: Study, stages: Stages, seed: int = 0) -> Cell:
    """A batch of images through these stages: its seconds, and what networks make of it.

    The judge is a network that had no part in making them.
    """
    settings = {
        "teacher": teacher_settings(study, TEACHER),
        "judge": teacher_settings(study, JUDGE),
        "objective": objective_of(study, TEACHER, "deepinversion"),
        "schedule": replace(study.scale.schedule[TEACHER], stages=stages),
        "batch_size": study.scale.batch_size,
    }
    name = "resolution--" + "-".join(f"{size}x{updates}" for size, updates in stages)
    return Cell(name, settings, partial(_resolution_metrics, study, settings, seed), seed)


def _resolution_metrics(study: Study, settings: dict, seed: int) -> dict:
    teacher, judge = (load_teacher(study, name, seed) for name in (TEACHER, JUDGE))
    classes = study.data.classes
    labels = balanced_labels(settings["batch_size"], len(classes), seed).to(study.device)
    objective, schedule = settings["objective"], settings["schedule"]
    briefly = replace(schedule, stages=shortened(schedule.stages, 0.0))
    invert(teacher, labels, objective, briefly)  # what is set up once is not timed
    started = time.perf_counter()
    made = invert(teacher, labels, objective, schedule, seed=seed).images
    seconds = time.perf_counter() - started
    stored = FeatureStatistics.from_batchnorm(teacher.network)
    return {
        "teacher_top1": accuracy(teacher, made, labels),
        "judge_top1": accuracy(judge, made, labels),
        "feature_distance": stored.distance(FeatureStatistics.from_images(teacher.network, made)).item(),
        "batch_seconds": seconds,
        "samples": by_class(teacher.preprocessing.to_pixels(made), labels, len(classes), rows=1),
    }


def device_hours(images: int, stages: Stages, seconds: float, size: int) -> float:
    """Hours for `images` through (resolution, updates) stages, if an image's update takes `seconds` at `size` pixels.

    An update's time is taken to grow with the number of pixels, as measured above.
    """
    updates = sum(count * (resolution / size) ** 2 for resolution, count in stages)
    return images * updates * seconds / 3600
