"""`distill` as people with a network for 224×224 images of few classes call it, nothing chosen. It takes a night."""

from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from dilib.artifacts import digest, plain
from dilib.calls.distill import FEW, distill
from dilib.calls.plans import plan_for
from dilib.classifier import Classifier
from dilib.data import Split
from dilib.evaluation import split_accuracy
from dilib.experiments.own_network_224 import SIZE, real_middles
from dilib.networks import imagenet_classifier
from dilib.precision import name as name_of
from dilib.study.cells import Cell, Study, read_cell

NAME = "own-student-224"
METHOD = "amortised"
# Runs of ImageNet's class indices, which go by kind: 44 to 118 classes each.
KINDS = {
    "bird": ((7, 25), (80, 101), (127, 147)),
    "reptile or amphibian": ((25, 69),),
    "invertebrate": ((69, 80), (107, 127), (300, 330)),
    "dog": ((151, 269),),
    "other mammal": ((101, 107), (147, 151), (269, 300), (330, 389)),
    "food": ((923, 970),),
}
ASKED = {
    "teacher": "efficientnet_lite0",
    "student": "resnet18",
    "updates": FEW * plan_for(SIZE, METHOD).teaching.updates,
}
WORDS = (
    "A student from random weights at 224×224: torchvision's ResNet-18 for six kinds of things (birds, reptiles and "
    "amphibians, invertebrates, dogs, other mammals, food). Its teacher is an ImageNet classifier whose classes are "
    "summed by kind. One call of `distill`, nothing chosen but its length: eight rounds, the fewest that it does not "
    "warn of when asked in minutes. Top-1 is in percent on one real image of each class of these kinds; *always dog* "
    "is what naming the commonest kind would get. Minutes are those of teaching, images included."
)


class OfKinds(nn.Module):
    """A classifier whose classes are kinds of another one's: the logarithm of the sum of its classes' exponentials."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Normalised (N, C, H, W) → logits of kinds (N, K)."""
        logits = self.network(images)
        return torch.stack([logits[:, classes(kind)].logsumexp(1) for kind in KINDS], 1)


def classes(kind: str) -> list[int]:
    """ImageNet's classes of a kind."""
    return [index for first, end in KINDS[kind] for index in range(first, end)]


def cells(study: Study, seed: int = 0) -> list[Cell]:
    """The cell, for ImageNet, if it is there or the scale makes it, and one real image of each class is there."""
    if study.dataset != "imagenet":
        return []
    found = student_cell(study, seed)
    makes = study.scale.student_224 and _real(study.data_folder) is not None
    return [found] if study.has(found) or makes else []


def student_cell(study: Study, seed: int = 0) -> Cell:
    """Top-1 of the teacher of kinds, and of a student that was taught from it alone."""
    settings = {**ASKED, "kinds": KINDS, "plan": plan_for(SIZE, METHOD).settings()}
    work = partial(_metrics, study, digest(plain(settings)), seed)
    return Cell(f"{NAME}--{ASKED['teacher']}--{ASKED['student']}", plain(settings), work, seed)


def _real(folder: Path) -> Split | None:
    """One image of each class that is of a kind, with its kind."""
    kind_of = {index: number for number, kind in enumerate(KINDS) for index in classes(kind)}
    found = real_middles(folder, list(kind_of))
    return found and Split(found.pixels, torch.tensor([kind_of[index] for index in found.labels.tolist()]))


def _metrics(study: Study, name: str, seed: int) -> dict:
    whole, real = imagenet_classifier(ASKED["teacher"], study.device), _real(study.data_folder)
    teacher: Classifier = whole.with_network(OfKinds(whole.network).eval())
    torch.manual_seed(seed)
    student = torchvision.models.get_model(ASKED["student"], weights=None, num_classes=len(KINDS))
    taught = distill(
        teacher,
        student,
        study.artifacts / NAME / f"{name}-seed{seed}",
        method=METHOD,
        updates=ASKED["updates"],
        precision=name_of(study.precision),
        test=(real.pixels, real.labels),
        seed=seed,
    )
    return {
        "top1": taught.top1,
        "teacher_top1": split_accuracy(teacher, real),
        "commonest": 100 * real.labels.bincount().max().item() / len(real.labels),
        "tested": len(real.labels),
        "images": len(taught.pool),
        "teacher_on_fresh": taught.history["teacher_on_fresh"],
        "threads": torch.get_num_threads(),
        "seconds": sum(taught.history["seconds"]),
    }


def rows(results: Path) -> list[dict]:
    """What there is of it in a folder of results, as a table has it: top-1 in percent, and minutes."""
    return [_row(read_cell(path)) for path in sorted(results.glob(f"*/imagenet/cells/{NAME}--*.json"))]


def _row(cell: dict) -> dict:
    settings, measured = cell["settings"], cell["metrics"]
    return {
        "teacher": settings["teacher"],
        "teacher's top-1": measured["teacher_top1"],
        "student": settings["student"],
        "student's top-1": measured["top1"],
        "always dog": measured["commonest"],
        "updates": settings["updates"],
        "images": measured["images"],
        "minutes": cell["seconds"] / 60,
        "cores": measured["threads"],
        "seed": cell["seed"],
        "precision": cell["precision"],
    }
