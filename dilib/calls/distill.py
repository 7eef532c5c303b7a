"""A student from a teacher alone: images are made while it learns from them."""

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dilib import distillation, precision
from dilib.artifacts import digest, fingerprint, write_atomically
from dilib.calls import budget, folders
from dilib.calls.images import split_of
from dilib.calls.plans import Plan, plan_for
from dilib.checks import check_seed
from dilib.classifier import Classifier
from dilib.data import Split
from dilib.pool import Batch, ImagePool, PoolDataset, save_contact_sheet
from dilib.progress import bar
from dilib.recipe import Rival
from dilib.rounds import Run
from dilib.trial import checked_student, tried
from dilib.weights import save_weights

FEW = 8  # rounds, below which a student has hardly begun
IMAGES, CHECKPOINT, STUDENT, HISTORY, CONTACT = (
    "images",
    "checkpoint.safetensors",
    "student.safetensors",
    "history.json",
    "images.png",
)


@dataclass(frozen=True)
class Taught:
    """The student, in evaluation mode, the images that taught it, and what was measured in each round."""

    student: nn.Module
    pool: PoolDataset
    history: dict[str, list[float]]


def distill(
    teacher: Classifier,
    student: nn.Module,
    folder: Path | str,
    *,
    method: str = "amortised",
    minutes: float = 12.0,
    updates: int | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> Taught:
    """Teach `student`, in place, what the teacher knows, without any image of its data. Secs. 3 and 4.1.

    It takes about so many `minutes` on this machine, or, where they are given, as many `updates` of the student.
    `method` is "amortised", "adaptive" or "deepinversion". Everything goes into `folder`, from where the same call goes
    on if it is stopped; the student's weights are in student.safetensors. `test` images, uint8 (N, C, H, W), with their
    labels (N,), are only looked at.
    Raises ValueError for bad input, and FloatingPointError when the loss stops being finite.

    Example:
        >>> teacher = Classifier(my_network.eval(), Preprocessing((0.491, 0.482, 0.447), (0.247, 0.243, 0.262), 32))
        >>> taught = distill(teacher, smaller_network, "my-run", minutes=12)
    """
    folder, plan = Path(folder), plan_for(teacher.preprocessing, method)
    check_seed(seed)
    budget.check_budget(minutes, updates)
    classes = tried(teacher, [teacher.preprocessing.size], None).classes
    checked_student(teacher, student, classes)
    test = _normalised(split_of(test, teacher, classes), teacher)
    student.to(teacher.device)
    asked = {
        "method": method,
        **({"updates": updates} if updates else {"minutes": minutes}),
        "seed": seed,
        "teacher": fingerprint(teacher.network),
        "student": digest({name: list(tensor.shape) for name, tensor in student.state_dict().items()}),
    }
    decided = folders.begun(folder, asked, lambda: _decide(plan, teacher, student, minutes, updates, seed))
    teacher = replace(teacher, precision=precision.named(decided["precision"]))
    plan = plan.fitted(decided["distance"]).of_rounds(decided["rounds"])
    card = {"asked": asked, "decided": decided}
    recipe = plan.recipe(teacher, tuple(range(classes)), seed, Rival(card, lambda: student))
    batch, run = ImagePool(folder / IMAGES, recipe).batch, Run(seed, folder / CHECKPOINT, card)
    with bar(plan.teaching.rounds * plan.teaching.batches, f"teaching {type(student).__name__}") as progress:

        def shown(index: int) -> Batch:
            found = batch(index)
            progress.update(max(0, index + 1 - progress.n))
            return found

        history = distillation.distill(teacher, student, shown, test, plan.teaching, run)
    save_weights(folder / STUDENT, student)
    write_atomically(folder / HISTORY, (json.dumps(history, indent=1) + "\n").encode())
    last = batch(plan.teaching.rounds * plan.teaching.batches - 1).images
    save_contact_sheet(folder / CONTACT, teacher.preprocessing.to_pixels(last[:100]))
    return Taught(student, PoolDataset(folder / IMAGES), history)


def _normalised(split: Split | None, teacher: Classifier) -> tuple[Tensor, Tensor] | None:
    if split is None:
        return None
    return teacher.preprocessing.normalise(split.pixels).to(teacher.device), split.labels.to(teacher.device)


def _decide(plan: Plan, teacher: Classifier, student: nn.Module, minutes: float, updates: int | None, seed: int):
    """How many rounds, in which precision, and how far the teacher's untouched images are from what it remembers."""
    dtype = precision.fastest(teacher.device) if teacher.precision == torch.float32 else teacher.precision
    cost = budget.measured(plan, replace(teacher, precision=dtype), student, seed)
    rounds = max(1, round(updates / plan.teaching.updates if updates else 60 * minutes / cost.round(plan)))
    if rounds < FEW and not updates:
        needed = FEW * cost.round(plan) / 60
        warnings.warn(f"{rounds} rounds are few for a student; give minutes={needed:.2g} or more here", stacklevel=3)
    return {"rounds": rounds, "precision": precision.name(dtype), "distance": cost.distance}
