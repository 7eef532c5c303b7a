"""A student from a teacher alone: images are made while it learns from them."""

import json
import statistics
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from dilib import distillation
from dilib import precision as precisions
from dilib.artifacts import digest, write_atomically
from dilib.calls import budget, folders
from dilib.calls.given import (
    check_precision,
    checked_learner,
    classes_of,
    computing_in,
    identity,
    seed_of,
    split_or_none,
    suited,
)
from dilib.calls.plans import Plan, plan_for
from dilib.classifier import Classifier, sides
from dilib.evaluation import split_accuracy
from dilib.inversion import SMALL
from dilib.pool import Batch, ImagePool, PoolDataset, save_contact_sheet
from dilib.precision import in_safe_format
from dilib.progress import bar
from dilib.recipe import Rival
from dilib.rounds import Run
from dilib.weights import save_weights

FEW = 8  # rounds, below which a student has hardly begun
NAMED = 50.0  # percent of its latest images, below which the teacher no longer teaches what they were made for
IMAGES, CHECKPOINT, STUDENT, HISTORY, CONTACT = (
    "images",
    "checkpoint.safetensors",
    "student.safetensors",
    "history.json",
    "images.png",
)


@dataclass(frozen=True)
class Taught:
    """The student, in evaluation mode, the images that taught it, and what was measured in each round.

    `top1` is the student's on the test images, in percent, if there are any.
    """

    student: nn.Module
    pool: PoolDataset
    history: dict[str, list[float]]
    top1: float | None

    def __str__(self) -> str:
        minutes = sum(self.history["seconds"]) / 60
        tested = "" if self.top1 is None else f" It classifies {self.top1:.1f} % of the test images correctly."
        return f"The student saw {len(self.pool):,} images in {minutes:.1f} minutes.{tested}"


def distill(
    teacher: Classifier,
    student: nn.Module,
    folder: Path | str,
    *,
    method: str = "amortised",
    minutes: float = 12.0,
    updates: int | None = None,
    precision: str | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> Taught:
    """Teach `student`, in place, what the teacher knows, without any image of its data. Secs. 3 and 4.1.

    It takes about so many `minutes` on this machine, or, where they are given, as many `updates` of the student, in
    whole rounds. `method` is "amortised", "adaptive" or "deepinversion"; `precision` "float32" or "bfloat16", or
    whichever is faster here. Everything goes into `folder`, from where the same call goes on if it is stopped; the
    student's weights are in student.safetensors. `test` images, uint8 (N, C, H, W), with their labels (N,), are only
    looked at, in the end. It warns of what is known not to serve: too few rounds, large images.
    Raises ValueError for bad input, and FloatingPointError when the loss stops being finite.

    Example:
        >>> teacher = Classifier(my_network.eval(), Preprocessing((0.491, 0.482, 0.447), (0.247, 0.243, 0.262), 32))
        >>> taught = distill(teacher, smaller_network, "my-run", minutes=12)
    """
    folder, classes = folders.place(folder), classes_of(teacher)
    plan = plan_for(teacher.preprocessing.size, method)
    seed = seed_of(seed)
    check_precision(precision)
    budget.check_budget("updates", minutes=minutes, updates=updates)
    student = checked_learner(teacher, student, classes)
    test, plan = split_or_none(test, teacher, classes), suited(plan, teacher)
    if max(sides(teacher.preprocessing.size)) > SMALL:
        said = "a student from random weights learnt nothing at 224×224 in 100 minutes of a CPU core"
        warnings.warn(f"{said}; try yours on real images before you rely on it, or use prune", stacklevel=2)
    student = in_safe_format(student.to(teacher.device))
    shapes = {name: list(tensor.shape) for name, tensor in student.state_dict().items()}
    asked = {
        "call": "distill",
        "method": method,
        **({"updates": updates} if updates else {"minutes": minutes}),
        "precision": precision,
        "seed": seed,
        **identity(teacher, plan.settings()),
        "student": digest([repr(student), shapes]),
    }
    decided = folders.begun(folder, asked, lambda: _decide(plan, teacher, student, asked))
    if not updates and decided["rounds"] < FEW:
        needed = FEW * decided["round_seconds"] / 60
        said = f"{decided['rounds']} rounds are few for a student"
        warnings.warn(f"{said}; give minutes={needed:.2g} or more here, and another folder", stacklevel=2)
    teacher = replace(teacher, precision=precisions.named(decided["precision"]))
    plan = plan.fitted(decided["distance"]).of_rounds(decided["rounds"])
    history = _teach(teacher, student, plan, {"asked": asked, "rounds": decided["rounds"]}, folder)
    _warn_of_images(history, method)
    top1 = None if test is None else split_accuracy(teacher.with_network(student), test)
    return Taught(student, PoolDataset(folder / IMAGES), history, top1)


def _warn_of_images(history: dict[str, list[float]], method: str) -> None:
    """Warn whoever called `distill` where the teacher does not name the latest images as they were meant."""
    named = statistics.mean(history["teacher_on_fresh"][-3:])
    if named < NAMED:
        said = f"the teacher names only {named:.0f} % of the latest images as they were meant"
        competing = "they compete too hard: try method='deepinversion', whose images do not compete"
        made = "check its preprocessing"
        warnings.warn(f"{said}; {made if method == 'deepinversion' else competing}", stacklevel=3)


def _teach(teacher: Classifier, student: nn.Module, plan: Plan, card: dict, folder: Path) -> dict[str, list[float]]:
    """What was measured in each round; weights, history and the last images are in the folder then."""
    seed, count = card["asked"]["seed"], plan.teaching.rounds * plan.teaching.batches
    recipe = plan.recipe(teacher, tuple(range(teacher.structure().classes)), seed, Rival(card, lambda: student))
    batch, run = ImagePool(folder / IMAGES, recipe).batch, Run(seed, folder / CHECKPOINT, card)
    with bar(count, f"teaching {type(student).__name__}") as progress:

        def shown(index: int) -> Batch:
            found = batch(index)
            progress.update(max(0, index + 1 - progress.n))
            return found

        history = distillation.distill(teacher, student, shown, None, plan.teaching, run)
    save_weights(folder / STUDENT, student)
    write_atomically(folder / HISTORY, (json.dumps(history, indent=1) + "\n").encode())
    save_contact_sheet(folder / CONTACT, teacher.preprocessing.to_pixels(batch(count - 1).images[:100]))
    return history


def _decide(plan: Plan, teacher: Classifier, student: nn.Module, asked: dict) -> dict:
    """How many rounds, in which precision, and how far the teacher's untouched images are from what it remembers."""
    fast = computing_in(teacher, asked["precision"])
    cost = budget.measured(plan, fast, student, asked["seed"])
    updates = asked.get("updates")
    rounds = updates / plan.teaching.updates if updates else 60 * asked["minutes"] / cost.round(plan)
    return {
        "rounds": max(1, round(rounds)),
        "round_seconds": cost.round(plan),
        "precision": precisions.name(fast.precision),
        "distance": cost.distance,
    }
