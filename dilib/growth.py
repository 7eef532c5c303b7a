"""What images cost: how an update's time grows with their number and resolution, and what several resolutions save."""

import statistics
import time
from dataclasses import replace

import torch
import torchvision

from dilib import benchmark, transfer
from dilib.evaluation import accuracy
from dilib.inversion import balanced_labels, invert
from dilib.progress import bar
from dilib.statistics import FeatureStatistics
from dilib.study import Study, plain

OBJECTIVE = benchmark.OBJECTIVE.deepinversion()
TEACHER, JUDGE = "resnet34", "vgg11_bn"


def update_seconds(network: torch.nn.Module, count: int, size: int, turns: int = 5) -> float:
    """Median seconds, over `turns`, of a DeepInversion update of `count` images (count, 3, size, size)."""
    device = next(network.parameters()).device
    steps = benchmark.ours(OBJECTIVE, network, torch.arange(count, device=device), size)
    for _ in range(2):
        next(steps)
    return statistics.median(benchmark.timed(steps, device) for _ in range(turns))


def growth_cell(study: Study) -> dict:
    """Seconds of an update by number of images, at half the full resolution, and by resolution, with the fewest images.

    The network has random weights; an update takes as long as with trained ones.
    """
    growth = study.scale.growth
    return study.cell("growth", plain({"growth": growth, "objective": OBJECTIVE}), lambda: _growth_metrics(study))


def _growth_metrics(study: Study) -> dict:
    growth = study.scale.growth
    torch.manual_seed(0)
    network = torchvision.models.get_model(growth.network, weights=None).to(study.device).eval()
    half = growth.sizes[-1] // 2
    with bar(len(growth.images) + len(growth.sizes), f"timing {growth.network}") as progress:

        def seconds(count: int, size: int) -> float:
            progress.update()
            return update_seconds(network, count, size)

        return {
            "images": [[count, seconds(count, half)] for count in growth.images],
            "sizes": [[size, seconds(growth.images[0], size)] for size in growth.sizes],
        }


def resolution_cell(study: Study, stages: tuple[tuple[int, int], ...], seed: int) -> dict:
    """A batch of images through these (resolution, updates) stages: its seconds, and what networks make of it.

    The judge is a network that had no part in making them.
    """
    schedule = replace(study.scale.schedule[TEACHER], stages=stages)
    settings = {
        "teacher": transfer.teacher_settings(study, TEACHER),
        "judge": transfer.teacher_settings(study, JUDGE),
        "objective": transfer.objective_of(study, TEACHER, "deepinversion"),
        "schedule": schedule,
        "batch_size": study.scale.batch_size,
    }
    name = "resolution--" + "-".join(str(size) for size, _ in stages)
    return study.cell(name, plain(settings), lambda: _resolution_metrics(study, settings, seed), seed)


def _resolution_metrics(study: Study, settings: dict, seed: int) -> dict:
    teacher, judge = (transfer.load_teacher(study, name) for name in (TEACHER, JUDGE))
    classes = study.data.classes
    labels = balanced_labels(settings["batch_size"], len(classes), seed).to(study.device)
    started = time.perf_counter()
    made = invert(
        teacher, study.data.preprocessing, labels, settings["objective"], settings["schedule"], seed=seed
    ).images
    seconds = time.perf_counter() - started
    distance = FeatureStatistics.from_batchnorm(teacher).distance(FeatureStatistics.from_images(teacher, made))
    return {
        "teacher_top1": accuracy(teacher, made, labels),
        "judge_top1": accuracy(judge, made, labels),
        "feature_distance": distance.item(),
        "seconds": seconds,
        "samples": study.data.preprocessing.to_pixels(transfer.by_class(made, labels, len(classes), rows=1)),
    }
