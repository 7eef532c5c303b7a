"""How long a cell will take on this machine, from its settings and a few steps with random weights."""

from dataclasses import replace

import torch
from torch import nn

from dilib import networks
from dilib.amortised import AmortisedSettings
from dilib.artifacts import plain
from dilib.baselines.dafl import GeneratorSettings, distill_with_generator
from dilib.calls import budget
from dilib.classifier import Classifier
from dilib.data import Split
from dilib.distillation import DistillationSettings, PoolSettings
from dilib.experiments.teachers import trained
from dilib.inversion import Objective, Schedule
from dilib.recipe import Recipe, Rival
from dilib.study.cells import Cell, Study
from dilib.training import TrainingSettings, train

STEPS = 4  # that are timed


def seconds_of(study: Study, cell: Cell) -> float | None:
    """Seconds of a teacher's training or a student's transfer, images included; of other cells, another seed's.

    A transfer's teacher is trained first if it is not there yet. None where nothing can be told.
    """
    settings = plain(cell.settings)
    if "training" in settings:
        return _of_training(study, settings)
    transfer = {"teacher", "student", "method", "distillation"} <= settings.keys()
    if not transfer or settings["teacher"]["dataset"] != study.data_name:
        return max((found["seconds"] for found in study.finished(cell)), default=None)
    there = trained(study, settings["teacher"]["network"], cell.seed)
    return _of_transfer(study, settings) + (0 if there else _of_training(study, settings["teacher"]))


def _of_training(study: Study, settings: dict) -> float:
    training = TrainingSettings(**settings["training"])
    brief = Split(*(part[: STEPS * training.batch_size] for part in (study.data.train.pixels, study.data.train.labels)))
    learner = Classifier(_network(study, settings), study.data.preprocessing, precision=study.precision)
    _, seconds = train(learner, brief, replace(training, epochs=2))["seconds"]
    updates = len(study.data.train.labels) // training.batch_size * training.epochs
    return seconds / (len(brief.labels) // training.batch_size) * updates


def _of_transfer(study: Study, settings: dict) -> float:
    teacher, student = (_network(study, settings[who]) for who in ("teacher", "student"))
    teacher = Classifier(teacher.eval(), study.data.preprocessing, precision=study.precision)
    taught = settings["distillation"]
    updates = taught["rounds"] * taught["updates"]
    if settings["method"] == "dafl":
        brief = DistillationSettings(rounds=STEPS, updates=1, batch_size=taught["batch_size"])
        test = tuple(part[:1] for part in study.test)
        generator = GeneratorSettings(**settings["generator"])
        _, history = distill_with_generator(teacher, student, test, brief, generator)
        return updates * min(history["seconds"][1:])
    recipe = _recipe(study, teacher, student, settings)
    batches, (of_batch, made) = taught["rounds"] * taught.get("batches", 1), budget.batch_seconds(recipe)
    schedule = recipe.schedule(0)
    pixels = teacher.preprocessing.to_pixels(made.images).cpu()
    brief = PoolSettings(batch_size=taught["batch_size"], shift=taught["shift"])
    of_images = of_batch * schedule.updates(batches) / schedule.updates()
    return of_images + updates * budget.update_seconds(teacher, student, pixels, brief)


def _recipe(study: Study, teacher: Classifier, student: nn.Module, settings: dict) -> Recipe:
    stages = tuple(map(tuple, settings["schedule"]["stages"]))
    start = settings.get("shared_start")
    return Recipe(
        teacher,
        tuple(range(len(study.data.classes))),
        settings["batch_size"],
        Objective(**settings["objective"]),
        (Schedule(**{**settings["schedule"], "stages": stages}),),
        rival=Rival({}, student.eval) if settings["method"] in ("adaptive", "amortised") else None,
        shared_start=AmortisedSettings(**start) if start else None,
    )


def _network(study: Study, settings: dict) -> nn.Module:
    torch.manual_seed(0)
    channels = study.data.preprocessing.channels
    found = networks.create(settings["network"], len(study.data.classes), channels, settings["width"])
    return found.to(study.device)
