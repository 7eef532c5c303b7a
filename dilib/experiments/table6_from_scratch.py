"""Table 6: a teacher's own architecture, taught from random weights on a fixed pool of images. Sec. 4.4."""

from dataclasses import replace
from functools import partial

from dilib.artifacts import digest, fingerprint, plain
from dilib.distillation import PoolSettings, distill_on_pool
from dilib.evaluation import split_accuracy
from dilib.experiments.image_sources import SOURCES, images, source_settings
from dilib.experiments.teachers import maker_of
from dilib.progress import counted
from dilib.rounds import Run
from dilib.study.cells import Cell, Study

SCHEDULES = {"short": "short", "long": "long, with mixup"}


def student_cell(study: Study, source: str, count: int, teaching: PoolSettings, seed: int = 0) -> Cell:
    """Top-1 on real test images of a fresh student taught on `count` images of a source, and its way there."""
    teacher = study.scale.from_scratch.teacher
    name = f"scratch--{source}--{count}-images--{teaching.rounds}-rounds{'--mixup' if teaching.mixup else ''}"
    settings = {
        "teacher": maker_of(study, teacher).settings,
        "source": source_settings(study, source, teacher),
        "images": count,
        "teaching": teaching,
    }
    return Cell(name, settings, partial(taught, study, source, count, teaching, plain(settings), seed), seed)


def taught(study: Study, source: str, count: int, teaching: PoolSettings, settings: dict, seed: int) -> dict:
    """The metrics of a student, taught by every process that torchrun started."""
    maker = maker_of(study, study.scale.from_scratch.teacher, seed)
    teacher, student = maker.load(), maker.fresh(seed + 1)
    pool = images(study, source, study.scale.from_scratch.teacher, count, seed)
    card = {**settings, "seed": seed, "teacher_weights": fingerprint(teacher.network)}
    path = study.artifacts / "students" / f"{digest(card)}.safetensors"
    with counted(teaching.rounds, f"student on {count} {SOURCES[source]}, seed {seed}") as on_round:
        run = Run(seed, path, card, on_round)
        history = distill_on_pool(teacher, student, pool.pixels, study.data.test, teaching, run)
    return {
        "top1": history["student_on_test"][-1],
        "teacher_top1": split_accuracy(teacher, study.data.test),
        "images": len(pool.labels),
        "seconds": pool.seconds + sum(history.pop("seconds")),
        "history": history,
    }


def cut_short(study: Study, rounds: int) -> PoolSettings:
    """The long schedule over fewer rounds."""
    return replace(study.scale.from_scratch.long, rounds=rounds)
