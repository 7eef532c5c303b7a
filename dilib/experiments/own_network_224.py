"""`make_images`, `quantize` and `prune` as people with a classifier of 224×224 images call them, nothing chosen."""

import time
from functools import partial
from pathlib import Path

from dilib.artifacts import digest
from dilib.calls.images import make_images
from dilib.calls.prune import prune
from dilib.calls.quantize import quantize
from dilib.calls.tuning import Compressed
from dilib.data import Split, imagenet_validation
from dilib.evaluation import split_accuracy
from dilib.networks import imagenet_classifier
from dilib.study.cells import Cell, Study, read_cell
from dilib.study.workers import CORES
from dilib.timing import threads

NAME = "own-network-224"
CLASSES = 1000
ASKED = {"images": 64, "bits": 4, "filters": 0.1}


def cells(study: Study, seed: int = 0) -> list[Cell]:
    """The cell, where the study is ImageNet's and real images to test on, one of each class, are there, or the cell."""
    if study.dataset != "imagenet":
        return []
    found = compressed_cell(study, seed)
    return [found] if study.has(found) or _real(study) is not None else []


def compressed_cell(study: Study, seed: int = 0) -> Cell:
    """Top-1 of the scale's ImageNet classifier: whole, on few bits, and with filters removed, on images made of it."""
    settings = {"teacher": study.scale.imagenet.teacher, **ASKED}
    return Cell(f"{NAME}--{study.scale.imagenet.teacher}", settings, partial(_metrics, study, settings, seed), seed)


def _real(study: Study) -> Split | None:
    """One image of each class, their middles at 224×224."""
    real = imagenet_validation(study.data_folder, range(CLASSES))
    edge = 0 if real is None else (real.pixels.shape[-1] - 224) // 2
    return real and Split(real.pixels[..., edge : edge + 224, edge : edge + 224].contiguous(), real.labels)


def _metrics(study: Study, settings: dict, seed: int) -> dict:
    teacher, real = imagenet_classifier(settings["teacher"], study.device), _real(study)
    folder = study.artifacts / NAME / f"{digest(settings)}-seed{seed}"
    started = time.perf_counter()
    with threads(CORES):
        pool = make_images(teacher, folder / "images", ASKED["images"], seed=seed)
        made = time.perf_counter() - started
        test = real.pixels, real.labels
        coarse = quantize(teacher, pool, folder / "coarse", bits=ASKED["bits"], test=test, seed=seed)
        small = prune(teacher, pool, folder / "pruned", filters=ASKED["filters"], test=test, seed=seed)
        top1 = split_accuracy(teacher, real)
    return {
        "top1": top1,
        "tested": len(real.labels),
        "images": len(pool),
        "seconds_of_images": made,
        "coarse": _top1(coarse),
        "pruned": _top1(small),
        "threads": CORES,
    }


def _top1(found: Compressed) -> dict:
    return {"before": found.before, "after": found.after}


def rows(results: Path) -> list[dict]:
    """What there is of it in a folder of results, as a table has it: top-1 in percent, and minutes."""
    found = [read_cell(path) for path in sorted(results.glob(f"*/*/cells/{NAME}--*.json"))]
    return [_row(cell["settings"], cell["metrics"]) | {"minutes": cell["seconds"] / 60} for cell in found]


def _row(asked: dict, measured: dict) -> dict:
    bits, filters = f"on {asked['bits']} bits", f"{asked['filters']:.0%} of the filters removed"
    return {
        "network": asked["teacher"],
        "whole": measured["top1"],
        bits: measured["coarse"]["before"],
        f"{bits}, tuned": measured["coarse"]["after"],
        filters: measured["pruned"]["before"],
        f"{filters}, tuned": measured["pruned"]["after"],
        "images": measured["images"],
        "cores": measured["threads"],
    }
