"""Choices on validation images: which images these are, equal effort for each method, and what came of them."""

import json
from pathlib import Path

import pytest
import torch

from dilib import data
from dilib.experiments import choices
from dilib.experiments.teachers import load_teacher
from dilib.study.cells import Study

RESULTS = Path(__file__).parent.parent / "results"


def test_validation_images_are_training_images_that_the_trial_s_teachers_have_not_seen():
    whole = data.load("digits")
    split = data.for_choosing(whole)
    assert (len(split.train.labels), len(split.test.labels)) == (1350, 150)

    def as_set(part):
        return [image.numpy().tobytes() + bytes([label]) for image, label in zip(part.pixels, part.labels, strict=True)]

    assert sorted(as_set(split.train) + as_set(split.test)) == sorted(as_set(whole.train))
    assert split.preprocessing == whole.preprocessing


def test_a_trial_is_a_cell_of_the_study_on_its_validation_images(tmp_path):
    study = Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    choosing = study.for_choosing()
    choice = choices.transfer_choices(study)[0]
    cell = choices.trial_cell(study, choice, next(iter(choice.scales)))
    assert cell.settings["dataset"] == choosing.data_name == "digits-validation"
    assert cell.seed == choices.SEED
    assert choosing.test[0].shape == (150, 1, 32, 32)
    theirs, ours = (next(load_teacher(each, "vgg11_bn").network.parameters()) for each in (choosing, study))
    assert not torch.equal(theirs, ours)


def test_every_method_has_as_many_trials(tmp_path):
    study = Study.open("laptop", "fashion_mnist", tmp_path / "results", tmp_path / "artifacts")
    assert {len(choice.scales) for choice in choices.transfer_choices(study)} == {study.scale.trials}
    continual = {choice.name.removeprefix("continual-"): choice for choice in choices.continual_choices(study)}
    beyond = {method: len(choices.BEYOND.get(method, ())) for method in continual}
    assert {len(choice.scales) - beyond[method] for method, choice in continual.items()} == {4}


def test_what_is_in_use_was_the_best_on_validation_images(tmp_path):
    study = Study.open("laptop", "fashion_mnist", RESULTS, tmp_path / "artifacts")
    for choice in choices.every_choice(study):
        cells = {value: choices.trial_cell(study, choice, value) for value in choice.scales}
        paths = {value: study.results / "cells" / f"{cell.name}--seed{cell.seed}.json" for value, cell in cells.items()}
        reached = {value: json.loads(path.read_text())["metrics"][choice.metric] for value, path in paths.items()}
        assert reached[choices.in_use(study, choice)] == pytest.approx(max(reached.values())), choice.setting
