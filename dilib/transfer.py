"""Sec. 4.1 as cells: teachers, and students taught by each method (Tables 1 and 8, Figs. 3 and 4)."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from dilib import models
from dilib.artifacts import digest, fingerprint, load_tensors, save_tensors
from dilib.distillation import distill
from dilib.evaluation import accuracy
from dilib.generator import distill_with_generator
from dilib.inversion import Objective, balanced_labels, invert
from dilib.pool import ImagePool
from dilib.progress import bar
from dilib.recipe import BATCH_SEEDS
from dilib.statistics import FeatureStatistics
from dilib.study import TILES, Study, plain
from dilib.training import train
from dilib.workers import cells_side_by_side

METHODS = {  # in the paper's words
    "noise": "Noise (L)",
    "deepdream": "DeepDream (+R_prior)",
    "deepinversion": "DeepInversion (+R_feature)",
    "adaptive": "Adaptive DeepInversion (+R_compete)",
    "dafl": "DAFL",
}
BATCHNORM = "batchnorm"


def pair_name(teacher: str, student: str) -> str:
    return f"{models.NAMES[teacher]} to {models.NAMES[student]}"


def teacher_cells(study: Study, names: Sequence[str]) -> dict[str, dict]:
    """The cells of several teachers, trained side by side."""
    found = cells_side_by_side(teacher_cell, _teacher_key, study, [(name,) for name in names])
    return dict(zip(names, found, strict=True))


def teacher_cell(study: Study, name: str) -> dict:
    """The teacher's test top-1, from training it where it is not trained yet."""
    name_of_cell, settings, seed = _teacher_key(study, name)
    return study.cell(name_of_cell, settings, lambda: _teacher_metrics(study, name), seed)


def _teacher_key(study: Study, name: str) -> tuple[str, dict, int]:
    return f"teacher--{name}", teacher_settings(study, name), 0


def load_teacher(study: Study, name: str) -> nn.Module:
    """The trained teacher, in evaluation mode; trained first if its weights are missing, damaged or another's."""
    network, path, card = (
        fresh_network(study, name, seed=0),
        _teacher_path(study, name),
        plain(teacher_settings(study, name)),
    )
    with study.lock(f"teacher-{name}"):
        if load_tensors(path, card) is None:
            _train_teacher(study, name, network)
            save_tensors(path, network.state_dict(), card)
    network.load_state_dict(load_tensors(path, card)[0])
    return network.to(study.device).eval()


def _teacher_path(study: Study, name: str) -> Path:
    return study.artifacts / "teachers" / f"{name}.safetensors"


def teacher_settings(study: Study, name: str) -> dict:
    """Everything that a teacher's weights depend on."""
    return {
        "dataset": study.place.name,
        "network": name,
        "width": study.scale.widths[name],
        "training": asdict(study.scale.training[name]),
        "seed": 0,
    }


def _teacher_metrics(study: Study, name: str) -> dict:
    network = load_teacher(study, name)
    return {
        "top1": accuracy(network, *study.test),
        "train_top1": accuracy(network, *_train_sample(study, 10_000)),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def _train_teacher(study: Study, name: str, network: nn.Module) -> None:
    settings, split = study.scale.training[name], study.data.train
    checkpoint = _teacher_path(study, name).with_suffix(".checkpoint.safetensors")
    images = study.data.preprocessing.normalise(split.pixels).to(study.device)
    with bar(settings.epochs, f"training {models.NAMES[name]}") as progress:
        train(
            network,
            images,
            split.labels.to(study.device),
            settings,
            checkpoint=checkpoint,
            card=plain(teacher_settings(study, name)),
            on_epoch=lambda epoch, _: progress.update(epoch - progress.n),
        )


def _train_sample(study: Study, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    split = study.data.train
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed))[:count]
    images = study.data.preprocessing.normalise(split.pixels[order])
    return images.to(study.device), split.labels[order].to(study.device)


def fresh_network(study: Study, name: str, seed: int) -> nn.Module:
    """The network with random weights, as wide as the scale has it and made for the study's data."""
    torch.manual_seed(seed)
    channels = study.data.preprocessing.channels
    return models.create(name, len(study.data.classes), channels, study.scale.widths[name]).to(study.device)


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


def taught_by_inversion(study, teacher, student, method, statistics, seed, settings) -> dict:
    """The metrics of a student taught on images that are made as it learns.

    `statistics` is BATCHNORM, or the number of real images that feature statistics are measured on (Table 8).
    """
    source = _ImageSource(study, teacher, student, method, statistics, seed)
    student_network = fresh_network(study, student, seed=seed + 1)
    rounds = study.scale.distillation[teacher, student].rounds
    with bar(rounds, f"{pair_name(teacher, student)}, {method}, seed {seed}") as progress:
        history = distill(
            source.teacher,
            student_network,
            source,
            study.test,
            study.scale.distillation[teacher, student],
            seed=seed,
            checkpoint=_student_path(study, settings, seed),
            card={"settings": settings, "seed": seed, "teacher_weights": fingerprint(source.teacher)},
            on_round=lambda done: progress.update(done - progress.n),
        )
    # Competition shows in the last batch; without it, the one batch that starts from noise alone shows the method best.
    images, labels = source(rounds - 1 if method == "adaptive" else 0, student_network)
    return {
        "top1": history["student_on_test"][-1],
        "teacher_top1": accuracy(source.teacher, *study.test),
        "images": rounds * study.scale.batch_size,
        "updates": study.scale.schedule[teacher].updates(rounds),
        "seconds": sum(history.pop("seconds")),
        "history": history,
        "samples": by_class(study.data.preprocessing.to_pixels(images), labels, len(study.data.classes)),
    }


def _taught_by_generator(study, teacher, student, seed, settings) -> dict:
    generator_settings, network = study.scale.generator, load_teacher(study, teacher)
    student_network = fresh_network(study, student, seed=seed + 1)
    with bar(generator_settings.student.rounds, f"{pair_name(teacher, student)}, dafl, seed {seed}") as progress:
        generator, history = distill_with_generator(
            network,
            student_network,
            study.data.preprocessing,
            study.test,
            generator_settings,
            seed=seed,
            checkpoint=_student_path(study, settings, seed),
            card={"settings": settings, "seed": seed, "teacher_weights": fingerprint(network)},
            on_round=lambda done: progress.update(done - progress.n),
        )
    with torch.no_grad():
        random = torch.Generator().manual_seed(seed)
        images = generator(torch.randn(500, generator_settings.latents, generator=random).to(study.device))
        labels = network(images).argmax(1)
    return {
        "top1": history["student_on_test"][-1],
        "teacher_top1": accuracy(network, *study.test),
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
    """Batches for one student, from a pool on disk or made now and added to it.

    Images that do not depend on the student are in the teacher's pool, which all its students share; an adaptive
    student has a pool of its own, after its first, plain batches.
    """

    def __init__(self, study: Study, teacher: str, student: str, method: str, statistics: int | str, seed: int):
        self.study, self.seed, self.schedule = study, seed, study.scale.schedule[teacher]
        self.teacher = load_teacher(study, teacher)
        shared = "deepinversion" if method == "adaptive" else method
        self.shared = (
            objective_of(study, teacher, shared),
            self._pool(_pool_settings(study, teacher, shared, statistics)),
        )
        settings = transfer_settings(study, teacher, student, method, statistics)
        self.own = (objective_of(study, teacher, method), self._pool(settings)) if method == "adaptive" else None
        self.statistics = None
        if statistics != BATCHNORM:
            images, _ = _train_sample(study, statistics, seed)
            self.statistics = FeatureStatistics.from_images(self.teacher, images)

    def __call__(self, index: int, student: nn.Module) -> tuple[Tensor, Tensor]:
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

    def _start(self, index: int, student: nn.Module) -> tuple[Tensor | None, Tensor]:
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
        return ImagePool(self.study.artifacts / "pools" / digest(card), card)
