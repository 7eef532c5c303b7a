"""What a plan costs on this machine, by trying a little of it, and how much of it a budget pays for."""

import itertools
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Integral, Real
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from dilib.calls.plans import Plan
from dilib.classifier import Classifier
from dilib.distillation import PoolSettings, distill, distill_on_pool
from dilib.inversion import Inversion
from dilib.pool import ImagePool
from dilib.recipe import Recipe, Rival
from dilib.structure import copied

TRIED = 4  # updates, of which the first does not count


@dataclass(frozen=True)
class Cost:
    """Seconds of a batch of images, all that it takes, and of a student's update; R_feature of untouched images."""

    batch: float
    update: float
    distance: float

    def round(self, plan: Plan) -> float:
        """Seconds of a round of teaching, its images included."""
        return plan.teaching.batches * self.batch + plan.teaching.updates * self.update


def check_budget(optional: str = "", **given: float | None) -> None:
    """Raise ValueError for a budget of nothing, by its name; `minutes` may be any number, the `optional` one None."""
    for name, value in given.items():
        if value is None and name == optional:
            continue
        kind, wanted = (Real, "a number above 0") if name == "minutes" else (Integral, "a whole number above 0")
        if not isinstance(value, kind) or not 0 < value < float("inf"):
            raise ValueError(f"{name} {value!r} is out of range; give {wanted}")


def measured(plan: Plan, teacher: Classifier, student: nn.Module | None, seed: int = 0) -> Cost:
    """The cost of a plan, from a few updates of each kind; neither network is changed."""
    rival = None if student is None else Rival({}, copied(student).eval)
    # Noise is what α_f goes by, and costs as much as waves do.
    plan = replace(plan, spectrum=None, warm_up=0)
    recipe = plan.recipe(teacher, tuple(range(teacher.structure().classes)), seed, rival)
    of_batch, made = batch_seconds(recipe)
    of_update = 0.0
    if student is not None:
        settings = PoolSettings(batch_size=plan.teaching.batch_size, shift=plan.teaching.shift)
        of_update = update_seconds(teacher, student, teacher.preprocessing.to_pixels(made.images).cpu(), settings)
        if plan.shared_start:
            with suppress(FloatingPointError):  # of the teaching itself, which is to say so
                of_batch = _batch_in_a_round(plan, teacher, student, recipe, of_update)
    return Cost(of_batch, of_update, made.history[0, 2].item())


def _batch_in_a_round(plan: Plan, teacher: Classifier, student: nn.Module, recipe: Recipe, of_update: float) -> float:
    """Seconds of a batch by a short round as it will be: what is around its few updates takes as long as they do."""
    updates = plan.teaching.updates // plan.teaching.batches
    brief = replace(plan.teaching, rounds=2, batches=1, updates=updates)  # the first does not count
    with TemporaryDirectory() as folder:
        history = distill(teacher, copied(student), ImagePool(folder, recipe).batch, None, brief)
    return max(history["seconds"][-1] - updates * of_update, 0.0)


def batch_seconds(recipe: Recipe) -> tuple[float, Inversion]:
    """Seconds of a batch that begins with noise, from a few updates at each resolution, and those at the last."""
    seconds = 0.0
    for stage in recipe.schedule(0).stages:
        schedule = replace(recipe.schedule(0), stages=((stage[0], TRIED),))
        made, each = _timed(replace(recipe, schedules=(schedule,)))
        seconds += each * stage[1]
    return seconds, made


def _timed(recipe: Recipe) -> tuple[Inversion, float]:
    """A batch of a few updates, and the seconds of one."""
    ends: list[float] = []

    def watch(done: int, images: Tensor) -> None:
        if images.is_cuda:
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    if recipe.shared_start:
        made, _ = recipe.make_from(0, recipe.first_start(), watch)
    else:
        made = recipe.make(0, watch=watch)
    return made, statistics.median(after - before for before, after in itertools.pairwise(ends))


def update_seconds(teacher: Classifier, student: nn.Module, pixels: Tensor, settings: PoolSettings) -> float:
    """Seconds of an update of a copy of the student on images, uint8 (N, C, H, W)."""
    brief = replace(settings, rounds=TRIED, updates=1)
    return statistics.median(distill_on_pool(teacher, copied(student), pixels, None, brief)["seconds"][1:])
