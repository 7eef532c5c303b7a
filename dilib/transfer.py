"""Sec. 4.1 as cells: students taught by each method (Table 1, Fig. 4), and what its images show (Fig. 3)."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from dilib import models
from dilib.artifacts import digest, fingerprint
from dilib.distillation import distill
from dilib.evaluation import accuracy_by_class
from dilib.generator import distill_with_generator
from dilib.inversion import Objective, balanced_labels, invert
from dilib.pool import ImagePool
from dilib.progress import counted
from dilib.recipe import BATCH_SEEDS
from dilib.statistics import FeatureStatistics
from dilib.study import TILES, Study, plain
from dilib.teachers import fresh_network, load_teacher, teacher_cell, teacher_settings, train_sample
from dilib.workers import cells_side_by_side

METHODS = {  # in the paper's words
    "noise": "Noise (L)",
    "deepdream": "DeepDream (+R_prior)",
    "deepinversion": "DeepInversion (+R_feature)",
    "adaptive": "Adaptive DeepInversion (+R_compete)",
    "dafl": "DAFL",
}
BATCHNORM = "batchnorm"
SHOWN = ("deepinversion", "deepdream", "noise")  # methods whose first batch is their own


def pair_name(teacher: str, student: str) -> str:
    return f"{models.NAMES[teacher]} to {models.NAMES[student]}"


def objective_of(study: Study, teacher: str, method: str) -> Objective:
    """The loss weights of a method at the study's scale."""
    objective = study.scale.objective[teacher]
    return {
        "noise": objective.noise(),
        "deepdream": objective.deepdream(),
        "deepinversion": objective.deepinversion(),
        "adaptive": objective,
    }[method]


def transfer_settings(study: Study, teacher: str, student: str, method: str, statistics: int | str = BATCHNORM) -> dict:
    """Everything but the seed that a student's accuracy depends on."""
    scale = study.scale
    settings = {
        "teacher": teacher_settings(study, teacher),
        "student": {"network": student, "width": scale.widths[student]},
        "method": method,
    }
    if method == "dafl":
        return plain({**settings, "generator": scale.generator})
    settings |= _pool_settings(study, teacher, method, statistics)
    settings["distillation"] = scale.distillation[teacher, student]
    if method == "adaptive":
        settings["adaptive_after"] = scale.adaptive_after
    return plain(settings)


def _pool_settings(study: Study, teacher: str, method: str, statistics: int | str) -> dict:
    return {
        "teacher": teacher_settings(study, teacher),
        "objective": objective_of(study, teacher, method),
        "schedule": study.scale.schedule[teacher],
        "batch_size": study.scale.batch_size,
        "statistics": statistics,
    }


def transfer_cell(study: Study, teacher: str, student: str, method: str, seed: int = 0) -> dict:
    """Teach a fresh student by one method; top-1 on real images, and accuracies along the way (Fig. 4)."""
    name, settings, _ = _transfer_key(study, teacher, student, method, seed)

    def work() -> dict:
        if method == "dafl":
            return _taught_by_generator(study, teacher, student, seed, settings)
        return taught_by_inversion(study, teacher, student, method, BATCHNORM, seed, settings)

    return study.cell(name, settings, work, seed)


def run_transfers(study: Study, tasks: Iterable[tuple[str, str, str, int]]) -> None:
    """The cells of (teacher, student, method, seed), side by side, where they are not there yet."""
    cells_side_by_side(transfer_cell, _transfer_key, study, tasks)


def _transfer_key(study, teacher, student, method, seed) -> tuple[str, dict, int]:
    return f"transfer--{teacher}--{student}--{method}", transfer_settings(study, teacher, student, method), seed


def finished_transfers(study: Study, teacher: str, student: str, method: str) -> list[dict]:
    """The transfer cells there are, one a seed."""
    name, settings, _ = _transfer_key(study, teacher, student, method, 0)
    return study.cells(name, settings)


def recognition_cell(study: Study, teacher: str, method: str, seed: int = 0) -> dict:
    """What networks that did not make them name in a method's first batch of images, or in "real" test images.

    "by_class" has, for each other network of the study, the percentage named right of each class.
    """
    judges = [name for name in study.scale.teachers if name != teacher]
    settings = {"judges": {judge: teacher_settings(study, judge) for judge in judges}}
    if method != "real":
        settings |= _pool_settings(study, teacher, method, BATCHNORM)

    def work() -> dict:
        if method == "real":
            images, labels = study.test
        else:
            images, labels = _ImageSource(study, teacher, None, method, BATCHNORM, seed)(0, None)
        return {"by_class": {judge: accuracy_by_class(load_teacher(study, judge), images, labels) for judge in judges}}

    return study.cell(f"recognition--{teacher}--{method}", settings, work, seed)


def taught_by_inversion(study, teacher, student, method, statistics, seed, settings) -> dict:
    """The metrics of a student taught on images that are made as it learns.

    `statistics` is BATCHNORM, or the number of real images that feature statistics are measured on (Table 8).
    """
    source = _ImageSource(study, teacher, student, method, statistics, seed)
    student_network = fresh_network(study, student, seed=seed + 1)
    rounds = study.scale.distillation[teacher, student].rounds
    with counted(rounds, f"{pair_name(teacher, student)}, {method}, seed {seed}") as on_round:
        history = distill(
            source.teacher,
            student_network,
            source,
            study.test,
            study.scale.distillation[teacher, student],
            seed=seed,
            checkpoint=_student_path(study, settings, seed),
            card={"settings": settings, "seed": seed, "teacher_weights": fingerprint(source.teacher)},
            on_round=on_round,
        )
    # Competition shows in the last batch; without it, the one batch that starts from noise alone shows the method best.
    images, labels = source(rounds - 1 if method == "adaptive" else 0, student_network)
    return {
        "top1": history["student_on_test"][-1],
        "teacher_top1": teacher_cell(study, teacher)["metrics"]["top1"],
        "images": rounds * study.scale.batch_size,
        "updates": study.scale.schedule[teacher].updates(rounds),
        "seconds": sum(history.pop("seconds")),
        "history": history,
        "samples": by_class(study.data.preprocessing.to_pixels(images), labels, len(study.data.classes)),
    }


def _taught_by_generator(study, teacher, student, seed, settings) -> dict:
    generator_settings, network = study.scale.generator, load_teacher(study, teacher)
    student_network = fresh_network(study, student, seed=seed + 1)
    with counted(generator_settings.student.rounds, f"{pair_name(teacher, student)}, dafl, seed {seed}") as on_round:
        generator, history = distill_with_generator(
            network,
            student_network,
            study.data.preprocessing,
            study.test,
            generator_settings,
            seed=seed,
            checkpoint=_student_path(study, settings, seed),
            card={"settings": settings, "seed": seed, "teacher_weights": fingerprint(network)},
            on_round=on_round,
        )
    with torch.no_grad():
        random = torch.Generator().manual_seed(seed)
        images = generator(torch.randn(500, generator_settings.latents, generator=random).to(study.device))
        labels = network(images).argmax(1)
    return {
        "top1": history["student_on_test"][-1],
        "teacher_top1": teacher_cell(study, teacher)["metrics"]["top1"],
        "seconds": sum(history.pop("seconds")),
        "history": history,
        "samples": by_class(study.data.preprocessing.to_pixels(images), labels, len(study.data.classes)),
    }


def _student_path(study: Study, settings: dict, seed: int) -> Path:
    return study.artifacts / "students" / f"{digest(settings)}-seed{seed}.safetensors"


def by_class(images: Tensor, labels: Tensor, classes: int, rows: int = 2) -> Tensor:
    """`rows` rows of TILES images, uint8, one column a class; black where a class has no further image."""
    sheet = images.new_zeros(rows, TILES, *images.shape[1:])
    for label in range(min(classes, TILES)):
        found = images[labels == label][:rows]
        sheet[: len(found), label] = found
    return sheet.flatten(0, 1)


class _ImageSource:
    """Batches for one student, if any, from a pool on disk or made now and added to it.

    Images that do not depend on the student are in the teacher's pool, which all its students share; an adaptive
    student has a pool of its own, after its first, plain batches.
    """

    def __init__(self, study: Study, teacher: str, student: str | None, method: str, statistics: int | str, seed: int):
        self.study, self.seed, self.schedule = study, seed, study.scale.schedule[teacher]
        self.teacher = load_teacher(study, teacher)
        shared = "deepinversion" if method == "adaptive" else method
        self.shared = (
            objective_of(study, teacher, shared),
            self._pool(_pool_settings(study, teacher, shared, statistics)),
        )
        self.own = self.statistics = None
        if method == "adaptive":
            settings = transfer_settings(study, teacher, student, method, statistics)
            self.own = (objective_of(study, teacher, method), self._pool(settings))
        if statistics != BATCHNORM:
            images, _ = train_sample(study, statistics, seed)
            self.statistics = FeatureStatistics.from_images(self.teacher, images)

    def __call__(self, index: int, student: nn.Module | None) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and labels (N,) of batch `index`."""
        objective, pool = self.own if self.own and index >= self.study.scale.adaptive_after else self.shared
        if not pool.has(index):
            start, labels = self._start(index, student)
            with self.study.lock(f"pool-{pool.folder.name}"):
                if not pool.has(index):
                    made = invert(
                        self.teacher,
                        self.study.data.preprocessing,
                        labels,
                        objective,
                        self.schedule,
                        statistics=self.statistics,
                        student=student,
                        start=start,
                        seed=self._batch_seed(index),
                    )
                    pool.save(index, made.images, made.labels, made.history)
        return pool.load(index, self.study.device)

    def _start(self, index: int, student: nn.Module | None) -> tuple[Tensor | None, Tensor]:
        """The images that batch `index` starts from, if any, and its labels: an earlier batch's, or new ones."""
        if index and self.schedule.warm_start:
            generator = torch.Generator().manual_seed(self._batch_seed(index))
            return self(int(torch.randint(index, (), generator=generator)), student)
        classes = len(self.study.data.classes)
        return None, balanced_labels(self.study.scale.batch_size, classes, self._batch_seed(index))

    def _batch_seed(self, index: int) -> int:
        return self.seed * BATCH_SEEDS + index

    def _pool(self, settings: dict) -> ImagePool:
        card = plain({"settings": settings, "seed": self.seed, "teacher_weights": fingerprint(self.teacher)})
        return ImagePool(self.study.pools / digest(card), card)
