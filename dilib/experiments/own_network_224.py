"""`make_images` and `prune` as people with a classifier of 224×224 images call them, nothing chosen."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dilib import precision as precisions
from dilib.artifacts import digest, plain
from dilib.calls.images import make_images
from dilib.calls.plans import plan_for
from dilib.calls.prune import prune, rate
from dilib.data import Split, imagenet_validation
from dilib.evaluation import split_accuracy
from dilib.networks import imagenet_classifier
from dilib.study.cells import Cell, Study, read_cell
from dilib.study.workers import CORES
from dilib.timing import threads

NAME = "own-network-224"
CLASSES, SIZE = 1000, 224
CHOSEN_ON = "efficientnet_lite0"  # by whose agreement with itself `prune` got its rate
METHOD = "deepinversion"  # by which `make_images` makes them
WORDS = (
    "One call each gives images and a network with fewer filters at 224×224, too. `prune` tuned for its usual five "
    "minutes, at a rate chosen on this network: the one at which the tuned network most often agreed with the whole "
    "one on photographs of flowers. Top-1 is in percent on a thousand real images, one of each class, while the images "
    "that were made are of the first classes alone; with so few, tuning changes next to nothing. Minutes are those of "
    "both calls and of testing."
)
ASKED = {"images": 64, "filters": 0.1, "minutes": 5.0}


def cells(study: Study, seed: int = 0) -> list[Cell]:
    """The cell, for ImageNet, if it is there or can be made: real images, one of each class, are at hand."""
    if study.dataset != "imagenet" or study.scale.imagenet.teacher != CHOSEN_ON:
        return []
    found = compressed_cell(study, seed)
    return [found] if study.has(found) or real_middles(study.data_folder, range(CLASSES)) is not None else []


def compressed_cell(study: Study, seed: int = 0) -> Cell:
    """Top-1 of the scale's ImageNet classifier, whole and with filters removed, and tuned on images made from it."""
    how = {"plan": plan_for(SIZE, METHOD).settings(), "rate": rate(SIZE)}
    settings = {"teacher": study.scale.imagenet.teacher, **ASKED, **how}
    work = partial(_metrics, study, digest(plain(settings)), seed)
    return Cell(f"{NAME}--{study.scale.imagenet.teacher}", plain(settings), work, seed)


def real_middles(folder: Path, classes: Sequence[int]) -> Split | None:
    """The middle of one image of each class, 224×224, by ImageNet's indices; None where they are not there."""
    real = imagenet_validation(folder, classes)
    if real is None:
        return None
    edge = (real.pixels.shape[-1] - SIZE) // 2
    return Split(real.pixels[..., edge : edge + SIZE, edge : edge + SIZE].contiguous(), real.labels)


def _metrics(study: Study, name: str, seed: int) -> dict:
    teacher = imagenet_classifier(study.scale.imagenet.teacher, study.device)
    real = real_middles(study.data_folder, range(CLASSES))
    folder = study.artifacts / NAME / f"{name}-seed{seed}"
    precision = precisions.name(study.precision)  # that which is faster, as by default
    how = {"filters": ASKED["filters"], "minutes": ASKED["minutes"], "precision": precision, "seed": seed}
    with threads(CORES):
        pool = make_images(teacher, folder / "images", ASKED["images"], method=METHOD, precision=precision, seed=seed)
        started = time.perf_counter()
        small = prune(teacher, pool, folder / "pruned", test=(real.pixels, real.labels), **how)
        seconds = time.perf_counter() - started
    return {
        "top1": split_accuracy(teacher, real),
        "images": len(pool),
        "before": small.before,
        "after": small.after,
        "threads": CORES,
        "seconds": pool.split().seconds + seconds,  # images that were there, too, took their time
    }


def rows(results: Path) -> list[dict]:
    """What there is of it in a folder of results, as a table has it: top-1 in percent, and minutes."""
    found = [read_cell(path) for path in sorted(results.glob(f"*/*/cells/{NAME}--*.json"))]
    made = ({"minutes": cell["seconds"] / 60, "seed": cell["seed"], "precision": cell["precision"]} for cell in found)
    return [_row(cell["settings"], cell["metrics"]) | how for cell, how in zip(found, made, strict=True)]


def _row(asked: dict, measured: dict) -> dict:
    fewer = f"{100 * asked['filters']:g} % of the filters removed"
    return {
        "network": asked["teacher"],
        "whole": measured["top1"],
        fewer: measured["before"],
        f"{fewer}, tuned": measured["after"],
        "images": measured["images"],
        "cores": measured["threads"],
    }
