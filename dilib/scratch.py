"""Sec. 4.4 as cells: a teacher's own architecture, taught from random weights on a fixed pool of images (Table 6).

By many processes together: torchrun --nproc-per-node N -m dilib.scratch --source deepinversion --schedule long
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from dilib import classifiers, models, parallel, sources
from dilib.artifacts import digest, fingerprint
from dilib.data import Unreachable
from dilib.distillation import PoolSettings, distill_on_pool
from dilib.evaluation import split_accuracy
from dilib.progress import counted
from dilib.study import Study, plain
from dilib.subject import subject
from dilib.workers import cells_side_by_side

SCHEDULES = {"short": "short", "long": "long, with mixup"}
MADE = {"gan": "GAN", "pool": "DeepInversion"}  # cells of images, in print
TAUGHT = {"long": ("real", "deepinversion"), "short": tuple(sources.SOURCES)}  # which sources, by schedule
Task = tuple[str, int, PoolSettings, int]  # source, images, how the student is taught, seed


def tasks(study: Study, seed: int) -> list[Task]:
    """Table 6's students, those with fewer images or shorter long schedules, for the sources there are."""
    scratch, there = study.scale.scratch, sources.available(study)
    table = [(source, scratch.images, getattr(scratch, length)) for length, names in TAUGHT.items() for source in names]
    shorter = [("deepinversion", scratch.images, shortened(study, rounds)) for rounds in scratch.rounds]
    fewer = [("deepinversion", count, scratch.short) for count in scratch.fewer]
    return [(*task, seed) for task in (*table, *shorter, *fewer) if task[0] in there]


def shortened(study: Study, rounds: int) -> PoolSettings:
    """The long schedule over fewer rounds."""
    return replace(study.scale.scratch.long, rounds=rounds)


def run(study: Study, seeds: Sequence[int]) -> None:
    """All cells of these seeds, side by side, where they are not there yet: the images' first, then the students'."""
    scratch, there = study.scale.scratch, sources.available(study)
    made = [kind for kind, source in (("pool", "deepinversion"), ("gan", "gan")) if source in there]
    wanted = [(kind, scratch.teacher, scratch.images, seed) for seed in seeds for kind in made]
    # In the order of SOURCES, those on the pool come last: by then it is full.
    students = [task for source in there for seed in seeds for task in tasks(study, seed) if task[0] == source]
    wanted += [("student", *task) for task in students]
    cells_side_by_side(_any_cell, _any_key, study, wanted)


def images_cells(study: Study, kind: str) -> list[dict]:
    """The cells there are of the "pool" or of the "gan", one a seed."""
    scratch = study.scale.scratch
    name, card, _ = _any_key(study, kind, scratch.teacher, scratch.images, 0)
    return study.cells(name, card)


def teacher_top1(study: Study) -> float:
    """Top-1 in percent of the students' teacher."""
    scratch = study.scale.scratch
    return finished(study, "deepinversion", scratch.images, scratch.short)[0]["metrics"]["teacher_top1"]


def title(study: Study) -> str:
    """The architecture's name in print."""
    name = subject(study, study.scale.scratch.teacher).settings["network"]
    return models.NAMES.get(name) or classifiers.title(name)


def _any_cell(study: Study, kind: str, *arguments) -> dict:
    return {"pool": sources.pool_cell, "gan": sources.gan_cell, "student": cell}[kind](study, *arguments)


def _any_key(study: Study, kind: str, *arguments) -> tuple[str, dict, int]:
    return {"pool": sources.pool_key, "gan": sources.gan_key, "student": _key}[kind](study, *arguments)


def cell(study: Study, source: str, count: int, settings: PoolSettings, seed: int) -> dict:
    """Top-1 on real test images of a fresh student taught on `count` images of a source, and its way there."""
    name, card, _ = _key(study, source, count, settings, seed)
    return study.cell(name, card, lambda: _taught(study, source, count, settings, seed), seed)


def finished(study: Study, source: str, count: int, settings: PoolSettings) -> list[dict]:
    """The cells there are, one a seed."""
    name, card, _ = _key(study, source, count, settings, 0)
    return study.cells(name, card)


def _key(study: Study, source: str, count: int, settings: PoolSettings, seed: int) -> tuple[str, dict, int]:
    teacher = study.scale.scratch.teacher
    name = f"scratch--{source}--{count}-images--{settings.rounds}-rounds{'--mixup' if settings.mixup else ''}"
    card = {
        "teacher": subject(study, teacher).settings,
        "source": sources.settings(study, source, teacher),
        "images": count,
        "teaching": settings,
    }
    return name, plain(card), seed


def _taught(study: Study, source: str, count: int, settings: PoolSettings, seed: int) -> dict:
    name = study.scale.scratch.teacher
    teacher, student = subject(study, name).load(), subject(study, name).fresh(seed + 1)
    pool = sources.images(study, source, name, count, seed)
    _, card, _ = _key(study, source, count, settings, seed)
    card |= {"seed": seed, "teacher_weights": fingerprint(teacher.network)}
    with counted(settings.rounds, f"student on {count} {sources.SOURCES[source]}, seed {seed}") as on_round:
        history = distill_on_pool(
            teacher.network,
            student,
            pool,
            teacher.preprocessing,
            study.data.test,
            settings,
            seed=seed,
            checkpoint=study.artifacts / "students" / f"{digest(card)}.safetensors",
            card=card,
            on_round=on_round,
        )
    return {
        "top1": history["student_on_test"][-1],
        "teacher_top1": split_accuracy(teacher.network, study.data.test, teacher.preprocessing),
        "seconds": sum(history.pop("seconds")),
        "history": history,
    }


def main(arguments: list[str] | None = None) -> int:
    """One student of Table 6, taught by all processes that torchrun started; 0 on success, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m dilib.scratch", description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="deepinversion", help=f"one of {', '.join(sources.SOURCES)}")
    parser.add_argument("--schedule", default="short", help=f"one of {', '.join(SCHEDULES)}")
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--dataset", help="a data set's name or folder:PATH; default: the scale's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", default="results", help="folder for results")
    parser.add_argument("--artifacts", default="artifacts", help="folder for weights, image pools and data")
    options = parser.parse_args(arguments)
    try:
        with parallel.processes() as rank:
            print(_teach_together(options, rank), end="")
    except (ValueError, FloatingPointError, Unreachable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _teach_together(options: argparse.Namespace, rank: int) -> str:
    if options.schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {options.schedule!r}; choose from {', '.join(SCHEDULES)}")
    study = Study(options.scale, options.dataset, options.results, options.artifacts)
    scratch = study.scale.scratch
    task = (options.source, scratch.images, getattr(scratch, options.schedule), options.seed)
    # Only the first process writes the cell; where it is there, none has anything to do.
    if rank and not study.has(*_key(study, *task)):
        _taught(study, *task)
    return "" if rank else f"top-1 {cell(study, *task)['metrics']['top1']:.2f}\n"


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    sys.exit(main())
