"""Images from a network, as PNG files by class and as a pool."""

import operator
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dilib import precision as precisions
from dilib.calls import budget, folders
from dilib.calls.given import check_precision, classes_of, computing_in, identity, seed_of, suited
from dilib.calls.plans import Plan, plan_for
from dilib.classifier import Classifier
from dilib.pool import ImagePool, PoolDataset, save_contact_sheet, save_pictures
from dilib.progress import bar

CONTACT = "contact.png"
LONGEST, SHORTEST = 50.0, 0.05  # times the usual updates


def make_images(
    teacher: Classifier,
    folder: Path | str,
    count: int,
    *,
    method: str = "deepinversion",
    classes: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    minutes: float | None = None,
    precision: str | None = None,
    seed: int = 0,
) -> PoolDataset:
    """Make `count` images of these `classes` of the teacher's, by default all, rounded up to whole batches.

    They are in `folder`/images/LABEL-NAME/NUMBER.png, a hundred of them in contact.png, and come back as normalised
    images with labels. `minutes` make updates more or fewer than is usual, up to fifty times; `precision` is "float32"
    or "bfloat16", or whichever is faster here. The same call goes on where it was stopped, one with a larger `count`
    adds images that take as long each, and any number of processes may fill one folder.
    Raises ValueError for bad input, and FloatingPointError when a loss stops being finite.

    Example:
        >>> make_images(teacher, "my-images", 64, names=("cat", "dog"))
    """
    if method == "adaptive":
        raise ValueError("adaptive images compete with a student; use distill, or choose amortised or deepinversion")
    folder, known = folders.place(folder), classes_of(teacher)
    plan = plan_for(teacher.preprocessing.size, method)
    seed = seed_of(seed)
    check_precision(precision)
    budget.check_budget("minutes", minutes=minutes, count=count)
    names, classes = _checked_names(names, known), _checked_classes(classes, known)
    plan = suited(plan, teacher)
    asked = {
        "call": "make_images",
        "method": method,
        "classes": list(classes),
        "names": list(names),
        "minutes": minutes,
        "precision": precision,
        "seed": seed,
        **identity(teacher, plan.settings()),
    }
    first = replace(plan, batch_size=min(plan.batch_size, count))
    decided = folders.begun(folder, asked, lambda: _decide(first, teacher, minutes, count, precision, seed))
    teacher = replace(teacher, precision=precisions.named(decided["precision"]))
    batch_size = decided["batch_size"]  # of the first call, where this one wants more images
    if batch_size < min(plan.batch_size, count):
        raise ValueError(f"{folder} was begun with batches of {batch_size}, too few for more; choose another folder")
    plan = replace(plan, batch_size=batch_size)
    recipe = plan.fitted(decided["distance"]).longer(decided["longer"]).recipe(teacher, classes, seed)
    pool = ImagePool(folder, replace(recipe, shuffled=False))
    pool.note(names=list(names), wanted=count)  # so that what is not whole yet can be told
    _fill(pool, names, -(-count // plan.batch_size))
    return PoolDataset(folder)


def _decide(plan: Plan, teacher: Classifier, minutes: float | None, count: int, precision, seed: int) -> dict:
    fast = computing_in(teacher, precision)
    cost = budget.measured(plan, fast, None, seed)
    longer = 1.0 if minutes is None else 60 * minutes / (-(-count // plan.batch_size) * cost.batch)
    return {
        "batch_size": plan.batch_size,
        "longer": min(LONGEST, max(SHORTEST, longer)),
        "precision": precisions.name(fast.precision),
        "distance": cost.distance,
    }


def _fill(pool: ImagePool, names: Sequence[str], batches: int) -> None:
    """All batches, a PNG file for each image, and a contact sheet of the first hundred."""
    size, to_pixels = pool.recipe.batch_size, pool.recipe.teacher.preprocessing.to_pixels
    updates = pool.recipe.schedule(0).updates()
    with bar(batches * updates, "updates of images") as progress:
        for index in pool.fill(batches, lambda *_: progress.update()):
            batch = pool.load(index)
            save_pictures(pool.folder / "images", to_pixels(batch.images), batch.labels, names, index * size)
    shown = [to_pixels(pool.load(index).images) for index in range(min(batches, -(-100 // size)))]
    save_contact_sheet(pool.folder / CONTACT, torch.cat(shown)[:100])


def _checked_names(names: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(classes)))
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names {names!r} are no list of texts; give one for each class")
    if len(names) != classes:
        raise ValueError(f"{len(names)} names do not fit the teacher's {classes} classes; give one each")
    return tuple(names)


def _checked_classes(classes: Sequence[int] | None, known: int) -> tuple[int, ...]:
    try:
        chosen = tuple(range(known)) if classes is None else tuple(map(operator.index, classes))
    except TypeError as error:
        raise ValueError(f"classes {classes!r} are no whole numbers; give some from 0 to {known - 1}") from error
    if not chosen or not all(0 <= each < known for each in chosen):
        raise ValueError(f"classes {list(chosen)} are not the teacher's; choose from 0 to {known - 1}")
    return chosen
