"""Sec. 4.1: students taught by each method (Table 1, Fig. 4), and what its images show (Fig. 3)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from dilib import networks
from dilib.artifacts import digest, fingerprint, plain
from dilib.baselines.dafl import distill_with_generator
from dilib.classifier import Classifier
from dilib.distillation import DistillationSettings, distill
from dilib.evaluation import accuracy, accuracy_by_class, predict
from dilib.experiments.teachers import (
    fresh_network,
    load_teacher,
    teacher_settings,
    train_sample,
)
from dilib.feature_statistics import FeatureStatistics
from dilib.inversion import Objective, Schedule
from dilib.pool import Batch, ImagePool
from dilib.progress import counted
from dilib.recipe import Recipe, Rival
from dilib.rounds import Run
from dilib.study.cells import TILES, Cell, Study
from dilib.study.scales.settings import JUDGE, PAIRS

METHODS = {  # in the paper's words
    "noise": "Noise (L)",
    "deepdream": "DeepDream (+R_prior)",
    "deepinversion": "DeepInversion (+R_feature)",
    "adaptive": "Adaptive DeepInversion (+R_compete)",
    "dafl": "DAFL",
    "amortised": "Amortised DeepInversion",  # not the paper's
}
BATCHNORM = "batchnorm"
Pair = tuple[str, str]  # teacher and student, by name


def student_cell(study: Study, pair: Pair, method: str, seed: int = 0) -> Cell:
    """A fresh student taught by one method: top-1 on real images, and accuracies along the way (Fig. 4)."""
    name, settings = "--".join(("transfer", *pair, method)), student_settings(study, pair, method)
    taught = _taught_by_generator if method == "dafl" else partial(taught_by_inversion, method=method)
    return Cell(name, settings, partial(taught, study, pair, settings=settings, seed=seed), seed)


def recognition_cell(study: Study, teacher: str, method: str, seed: int = 0) -> Cell:
    """What networks that did not make them name in a method's first batch of images, or in "real" test images.

    "by_class" has, for each other teacher of the study and for JUDGE, the percentage named right of each class.
    """
    judges = [*(name for name in study.scale.teachers if name != teacher), JUDGE]
    settings = {"judges": {judge: teacher_settings(study, judge) for judge in judges}}
    if method != "real":
        settings |= _images_settings(study, teacher, method, BATCHNORM)
    return Cell(
        f"recognition--{teacher}--{method}",
        settings,
        partial(_recognition_metrics, study, teacher, method, judges, seed),
        seed,
    )


NOISE_PARTS = {  # why Noise may teach: Table 1's first pair with one thing changed
    "no clipping": {"schedule": {"clip": False}},
    "every batch from noise": {"schedule": {"warm_start": 0.0, "warm_updates": 0}},
    "temperature 3": {"distillation": {"temperature": 3.0}},
    "another student": {"student": PAIRS[1][1]},
}


def noise_cells(study: Study, seed: int = 0) -> dict[str, Cell]:
    """Students taught by Noise, each with one of NOISE_PARTS changed, but for those that change nothing here."""
    (teacher, student), scale, cells = PAIRS[0], study.scale, {}
    for part, changes in NOISE_PARTS.items():
        pair = (teacher, changes.get("student", student))
        schedule = replace(scale.schedule[teacher], **changes.get("schedule", {}))
        teaching = replace(scale.distillation[PAIRS[0]], **changes.get("distillation", {}))
        if (pair, schedule, teaching) != (PAIRS[0], scale.schedule[teacher], scale.distillation[PAIRS[0]]):
            varied = study.with_scale(
                schedule={**scale.schedule, teacher: schedule}, distillation={**scale.distillation, pair: teaching}
            )
            cell = student_cell(varied, pair, "noise", seed)
            cells[part] = replace(cell, name=f"noise--{part.replace(' ', '-')}")
    return cells


def _recognition_metrics(study: Study, teacher: str, method: str, judges: list[str], seed: int) -> dict:
    if method == "real":
        images, labels = study.test
    else:
        batch = plain_pool(study, load_teacher(study, teacher, seed), method, BATCHNORM, seed).batch(0)
        images, labels = batch.images, batch.labels
    return {
        "by_class": {judge: accuracy_by_class(load_teacher(study, judge, seed), images, labels) for judge in judges}
    }


def objective_of(study: Study, teacher: str, method: str) -> Objective:
    """The loss weights of a method at the study's scale."""
    if method == "amortised":
        return study.scale.amortised.objective[teacher]
    objective = study.scale.objective[teacher]
    if method == "deepdream":
        return replace(objective.deepdream(), alpha_tv=study.scale.deepdream_tv)
    return objective if method == "adaptive" else getattr(objective, method)()


def schedule_of(study: Study, teacher: str, method: str) -> Schedule:
    """How long and how fast a method's images are optimised at the study's scale."""
    return study.scale.amortised.schedule if method == "amortised" else study.scale.schedule[teacher]


def student_settings(study: Study, pair: Pair, method: str, statistics: int | str = BATCHNORM) -> dict:
    """Everything but the seed that a student's accuracy depends on."""
    scale, (teacher, student) = study.scale, pair
    settings = {
        "teacher": teacher_settings(study, teacher),
        "student": {"network": student, "width": scale.widths[student]},
        "method": method,
        "distillation": teaching_of(study, pair, method),
    }
    if method == "dafl":
        return plain({**settings, "generator": scale.dafl})
    settings |= _images_settings(study, teacher, method, statistics)
    if method == "adaptive":
        settings["adaptive_after"] = scale.adaptive_after
    if method == "amortised":
        settings |= amortised_settings(study, teacher)
    return plain(settings)


def amortised_settings(study: Study, teacher: str) -> dict:
    """Everything but the teacher and the seed that images from a shared start depend on."""
    how = study.scale.amortised
    images = {"objective": how.objective[teacher], "schedule": how.schedule, "batch_size": how.batch_size}
    return {**images, "shared_start": how.settings, "warm_up": how.warm_up}


def teaching_of(study: Study, pair: Pair, method: str) -> DistillationSettings:
    """How a student is taught by a method: all as long, but where images are cheap."""
    return (study.scale.amortised.student if method == "amortised" else study.scale.distillation)[pair]


def batch_size_of(study: Study, method: str) -> int:
    """How many images a method makes at once."""
    return (study.scale.amortised if method == "amortised" else study.scale).batch_size


def _images_settings(study: Study, teacher: str, method: str, statistics: int | str) -> dict:
    return {
        "teacher": teacher_settings(study, teacher),
        "objective": objective_of(study, teacher, method),
        "schedule": schedule_of(study, teacher, method),
        "batch_size": study.scale.batch_size,
        "statistics": statistics,
    }


def taught_by_inversion(
    study: Study, pair: Pair, *, method: str, settings: dict, seed: int, statistics: int | str = BATCHNORM
) -> dict:
    """The metrics of a student taught on images that are made as it learns.

    `statistics` is BATCHNORM, or the number of real images that feature statistics are measured on (Table 8).
    """
    teacher, student = load_teacher(study, pair[0], seed), fresh_network(study, pair[1], seed=seed + 1)
    batch = batches_of(study, teacher, student, method, settings, seed, statistics)
    teaching = teaching_of(study, pair, method)
    with counted(teaching.rounds, f"{pair_name(pair)}, {method}, seed {seed}") as on_round:
        run = _run(study, teacher, settings, seed, on_round)
        if _images_are_gone(study, teacher, student, method, settings, seed, statistics):
            run.checkpoint.unlink(missing_ok=True)  # others, made for the student as it ended, are not what taught it
        history = distill(teacher, student, batch, study.test, teaching, run)
    # What images learn from the student or from each other shows in the last batch; without it, the one batch that
    # starts from noise alone shows the method best.
    batches = teaching.rounds * teaching.batches
    shown = batch(batches - 1 if method in ("adaptive", "amortised") else 0)
    # Images that compete from the beginning may look like another class than they were made for.
    labels = predict(teacher, shown.images).argmax(1) if method == "amortised" else shown.labels
    return {
        "top1": history["student_on_test"][-1],
        "teacher_top1": accuracy(teacher, *study.test),
        "images": batches * batch_size_of(study, method),
        "updates": schedule_of(study, pair[0], method).updates(batches),
        "seconds": sum(history["seconds"]),
        "history": history,
        "samples": by_class(teacher.preprocessing.to_pixels(shown.images), labels, len(study.data.classes)),
    }


def batches_of(
    study: Study,
    teacher: Classifier,
    student: nn.Module,
    method: str,
    settings: dict,
    seed: int,
    statistics: int | str = BATCHNORM,
) -> Callable[[int], Batch]:
    """A method's batches by number, read, or made for the student as it is then if they compete with it."""
    if method == "amortised":
        return _amortised_pool(study, teacher, student, settings, seed).batch
    if method != "adaptive":
        return plain_pool(study, teacher, method, statistics, seed).batch
    first, adaptive = _adaptive_pools(study, teacher, student, settings, seed, statistics)
    return lambda index: (first if index < study.scale.adaptive_after else adaptive).batch(index)


def _images_are_gone(study: Study, teacher: Classifier, student, method: str, settings: dict, seed: int, statistics):
    """Whether none of the images is there that competed with the student; False where none do."""
    if method == "amortised":
        return not _amortised_pool(study, teacher, student, settings, seed).has(0)
    if method == "adaptive":
        _, adaptive = _adaptive_pools(study, teacher, student, settings, seed, statistics)
        return not adaptive.has(study.scale.adaptive_after)
    return False


def plain_pool(study: Study, teacher: Classifier, method: str, statistics: int | str, seed: int) -> ImagePool:
    """Images that do not depend on a student, which all students of a teacher share."""
    measured = None
    if statistics != BATCHNORM:
        measured = FeatureStatistics.from_images(teacher.network, train_sample(study, statistics, seed)[0])
    recipe = Recipe(
        teacher,
        tuple(range(len(study.data.classes))),
        study.scale.batch_size,
        objective_of(study, teacher.name, method),
        (study.scale.schedule[teacher.name],),
        seed=seed,
        shuffled=True,
        statistics=measured,
    )
    return study.pool(recipe)


def _adaptive_pools(study: Study, teacher: Classifier, student: nn.Module, settings: dict, seed: int, statistics):
    """The first, plain batches, and those that compete with the student as it is when they are made."""
    first = plain_pool(study, teacher, "deepinversion", statistics, seed)
    objective = study.scale.objective[teacher.name]
    recipe = replace(first.recipe, objective=objective, rival=Rival(settings, lambda: student))

    def earlier(index: int) -> Batch:
        return (first if index < study.scale.adaptive_after else adaptive).batch(index)

    adaptive = study.pool(recipe, earlier=earlier)
    return first, adaptive


def _amortised_pool(study: Study, teacher: Classifier, student: nn.Module, settings: dict, seed: int) -> ImagePool:
    """Batches that begin where earlier ones led, and compete with the student as it is when they are made."""
    objective, rival = objective_of(study, teacher.name, "amortised"), Rival(settings, lambda: student)
    return study.pool(replace(amortised_recipe(study, teacher, seed), objective=objective, rival=rival))


def amortised_recipe(study: Study, teacher: Classifier, seed: int) -> Recipe:
    """Batches that begin where earlier ones led, without a student to compete with."""
    how = study.scale.amortised
    return Recipe(
        teacher,
        tuple(range(len(study.data.classes))),
        how.batch_size,
        how.objective[teacher.name].deepinversion(),
        (how.schedule,),
        seed=seed,
        shuffled=True,
        warm_up=how.warm_up,
        shared_start=how.settings,
    )


def _taught_by_generator(study: Study, pair: Pair, *, settings: dict, seed: int) -> dict:
    teacher, student = load_teacher(study, pair[0], seed), fresh_network(study, pair[1], seed=seed + 1)
    teaching, dafl = study.scale.distillation[pair], study.scale.dafl
    with counted(teaching.rounds, f"{pair_name(pair)}, dafl, seed {seed}") as on_round:
        run = _run(study, teacher, settings, seed, on_round)
        generator, history = distill_with_generator(teacher, student, study.test, teaching, dafl, run)
    with torch.no_grad():
        random = torch.Generator().manual_seed(seed)
        images = generator(torch.randn(500, dafl.latents, generator=random).to(study.device))
        labels = teacher.network(images).argmax(1)
    return {
        "top1": history["student_on_test"][-1],
        "teacher_top1": accuracy(teacher, *study.test),
        "images": teaching.rounds * teaching.updates * teaching.batch_size,
        "seconds": sum(history["seconds"]),
        "history": history,
        "samples": by_class(teacher.preprocessing.to_pixels(images), labels, len(study.data.classes)),
    }


def _run(study: Study, teacher: Classifier, settings: dict, seed: int, on_round) -> Run:
    card = {"settings": settings, "seed": seed, "teacher_weights": fingerprint(teacher.network)}
    path = study.artifacts / "students" / f"{digest(settings)}-seed{seed}.safetensors"
    return Run(seed, path, card, on_round)


def pair_name(pair: Pair) -> str:
    """The pair in print, as the columns of Table 1 have it."""
    return " to ".join(map(networks.title, pair))


def by_class(images: Tensor, labels: Tensor, classes: int, rows: int = 2) -> Tensor:
    """`rows` rows of images, uint8, one column a class, of at most TILES; black where a class has no further image."""
    columns = min(classes, TILES)
    sheet = images.new_zeros(rows, columns, *images.shape[1:])
    for label in range(columns):
        found = images[labels == label][:rows]
        sheet[: len(found), label] = found
    return sheet.flatten(0, 1)
