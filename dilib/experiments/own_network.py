"""`dilib.distill` as people with a network of their own call it, nothing chosen: how far it gets, how long it takes."""

import textwrap
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dilib import networks
from dilib import precision as precisions
from dilib.artifacts import digest, plain
from dilib.calls.distill import distill
from dilib.calls.plans import plan_for
from dilib.classifier import Classifier
from dilib.evaluation import split_accuracy
from dilib.experiments import resnet20
from dilib.experiments.teachers import fresh_network, load_teacher, teacher_settings
from dilib.study.cells import Cell, Study, read_cell
from dilib.study.scales.settings import OwnNetwork
from dilib.study.workers import CORES
from dilib.timing import threads

PUBLISHED = "resnet20"
NAME = "own-network"
METHOD, SIZE = "amortised", 32  # the call's own choice, and the networks' images
SHOWN = 30  # of the images that taught the student, the last


def cells(study: Study, seed: int = 0) -> list[Cell]:
    """What the scale tries, on the data that the published network knows; without it, if its weights are not there."""
    if study.dataset != "cifar10":
        return []
    found = {each: distilled_cell(study, each, seed) for each in study.scale.own_networks}
    weights = (study.data_folder / resnet20.FILE).exists()
    return [cell for each, cell in found.items() if each.teacher != PUBLISHED or weights or study.has(cell)]


def distilled_cell(study: Study, tried: OwnNetwork, seed: int = 0) -> Cell:
    """Top-1 of a student and its teacher, images, minutes, and cores, after one call of `distill`."""
    settings = {
        "teacher": _settings(study, tried.teacher),
        "student": _settings(study, tried.student),
        "updates": tried.updates,
        "plan": plan_for(SIZE, METHOD).settings(),
    }
    work = partial(_metrics, study, tried, digest(plain(settings)), seed)
    return Cell(f"{NAME}--{tried.teacher}--{tried.student}", plain(settings), work, seed)


def _settings(study: Study, network: str) -> dict | str:
    return resnet20.FILE if network == PUBLISHED else teacher_settings(study, network)


def _metrics(study: Study, tried: OwnNetwork, name: str, seed: int) -> dict:
    teacher, student = _teacher(study, tried.teacher, seed), _student(study, tried.student, seed + 1)
    folder = study.artifacts / NAME / f"{name}-seed{seed}"
    budget = {"updates": tried.updates} if tried.updates else {}
    precision = precisions.name(study.precision)  # that which is faster, as by default
    started = time.perf_counter()
    with threads(CORES):
        taught = distill(teacher, student, folder, method=METHOD, precision=precision, seed=seed, **budget)
    called = time.perf_counter() - started
    return {
        "top1": split_accuracy(teacher.with_network(student), study.data.test),
        "teacher_top1": split_accuracy(teacher, study.data.test),
        "said": str(taught),
        "images": len(taught.pool),
        "rounds": len(taught.history["seconds"]),
        "threads": CORES,
        # A call that went on after a stop took its earlier rounds, too.
        "seconds": max(called, sum(taught.history["seconds"])),
        "samples": taught.pool.split().pixels[-SHOWN:],
    }


def _teacher(study: Study, network: str, seed: int) -> Classifier:
    if network != PUBLISHED:
        return load_teacher(study, network, seed)
    teacher = resnet20.published(study.data_folder)
    return replace(teacher, network=teacher.network.to(study.device), precision=study.precision)


def _student(study: Study, network: str, seed: int) -> nn.Module:
    if network != PUBLISHED:
        return fresh_network(study, network, seed)
    torch.manual_seed(seed)
    return resnet20.ResNet20().to(study.device)


def finished(results: Path) -> list[dict]:
    """Every such cell in a folder of results, in the order of their names."""
    return [read_cell(path) for path in sorted(results.glob(f"*/*/cells/{NAME}--*.json"))]


def ten_lines(found: list[dict]) -> str:
    """What the README's lines print, and what came of them; "" where they were not run."""
    usual = [cell for cell in found if cell["name"] == f"{NAME}--vgg11_bn--vgg11_bn"]
    if not usual:
        return ""
    measured, shown = usual[0]["metrics"], row(usual[0])
    teacher = f"{usual[0]['title']} ({_title(usual[0]['settings']['teacher'])} of the paper's"
    words = (
        f"That was run on {shown['cores']} CPU cores with the default settings, which were found on this network: a "
        f"teacher of {teacher}; {shown['teacher']:.1f} % on the test images), a fresh student of its kind, and images "
        f"none of which is real. The student has **{shown['student']:.1f} %**."
    )
    if shares := [row(cell)["of the teacher's"] for cell in found if cell is not usual[0]]:
        words += (
            f" Students of other teachers reached {min(shares):.0f} to {max(shares):.0f} % of the teacher's accuracy "
            "([which](docs/own-network.md#from-python)). `distill` warns where the teacher no longer names its images."
        )
    return f"```\n{measured['said']}\n```\n\n{textwrap.fill(words, 140)}"


def row(cell: dict) -> dict:
    """Who taught whom, top-1 of both in percent, and what it took, by name."""
    measured = cell["metrics"]
    return {
        "teacher to student": " to ".join(map(_title, (cell["settings"]["teacher"], cell["settings"]["student"]))),
        "teacher": measured["teacher_top1"],
        "student": measured["top1"],
        "of the teacher's": 100 * measured["top1"] / measured["teacher_top1"],
        "images": measured["images"],
        "asked for": f"{updates:,} updates" if (updates := cell["settings"]["updates"]) else "its usual minutes",
        "minutes": cell["seconds"] / 60,
        "cores": measured["threads"],
        "seed": cell["seed"],
        "precision": cell["precision"],
    }


def _title(settings: dict | str) -> str:
    if isinstance(settings, str):
        return "ResNet-20"
    return f"{networks.title(settings['network'])}, width {settings['width']:g}"
