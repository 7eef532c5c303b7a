"""Results made without notebooks: which, in which order, and whether there is time for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dilib.calls import budget
from dilib.commands import fill
from dilib.experiments import estimates, table1_transfer, teachers
from dilib.inversion import Inversion
from dilib.study.cells import Study
from dilib.study.scales.settings import PAIRS

ROOT = Path(__file__).parent.parent


def command(folder, *arguments):
    places = ["--results", folder / "results", "--artifacts", folder / "artifacts"]
    line = [sys.executable, "-m", "dilib.commands", "fill", "--scale", "smoke", *map(str, (*places, *arguments))]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_make_the_results_together(tmp_path):
    said = [process.communicate()[0] for process in [command(tmp_path, "--only", "teachers") for _ in range(2)]]
    made = {path.stem for path in tmp_path.glob("results/smoke/digits/cells/*.json")}
    assert {"teacher--vgg11_bn--seed0", "memory--resnet34--seed0"} < made
    lines = {line.split(":")[0] for text in said for line in text.splitlines() if line.endswith("minutes")}
    assert {line.replace(", seed ", "--seed") for line in lines} == made
    again = command(tmp_path, "--only", "teachers").communicate()[0]
    assert again == f"{len(made)} of {len(made)} results are in {tmp_path / 'results/smoke/digits'}\n"


def test_nothing_is_begun_that_there_is_no_time_for(tmp_path):
    said, error = command(tmp_path, "--only", "table1", "--minutes", "0.01").communicate()
    assert not list(tmp_path.glob("results/**/cells/*.json")), error
    assert "0 of 24 results" in said
    assert "left, as it needs" in said or "results are left, and no time" in said


@pytest.fixture
def study(tmp_path):
    return Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")


def test_what_tells_most_comes_first(study):
    options = fill._parse(["--only", "table1", "--seeds", "0,1", "--pairs", "1"])
    names = [f"{cell.name}--{cell.seed}" for cell in fill._wanted(study, options)]
    first = f"transfer--{PAIRS[0][0]}--{PAIRS[0][1]}--amortised"
    assert names[0] == f"{first}--0"
    assert f"{first}--1" in names[1:]
    assert not [name for name in names if PAIRS[1][1] in name.split("--")[2:3] and name.startswith("transfer")]
    assert "speeds" not in {cell.name for cell in fill._wanted(study, fill._parse(["--only", "table4"]))}


@pytest.mark.parametrize("method", ["amortised", "adaptive"])
def test_a_transfer_takes_its_batches_and_its_updates(study, monkeypatch, method):
    """Three seconds a batch that begins with noise, a half an update; the teacher, trained first, a hundred."""
    made = Inversion(study.test[0][:4], study.test[1][:4], torch.zeros(4, 4))
    monkeypatch.setattr(budget, "batch_seconds", lambda recipe: (3.0, made))
    monkeypatch.setattr(budget, "update_seconds", lambda *arguments: 0.5)
    monkeypatch.setattr(estimates, "_of_training", lambda *arguments: 100.0)
    cell = table1_transfer.student_cell(study, PAIRS[0], method)
    teaching = table1_transfer.teaching_of(study, PAIRS[0], method)
    batches = teaching.rounds * teaching.batches
    schedule = table1_transfer.schedule_of(study, PAIRS[0][0], method)
    images = 3.0 * schedule.updates(batches) / schedule.updates()
    students = 0.5 * teaching.rounds * teaching.updates
    assert estimates.seconds_of(study, cell) == pytest.approx(100 + images + students)


def test_training_takes_its_updates(study, monkeypatch):
    """0.6 seconds for four updates."""
    monkeypatch.setattr(estimates, "train", lambda *arguments: {"seconds": [9.0, 0.6]})
    training = study.scale.training["vgg11_bn"]
    updates = len(study.data.train.labels) // training.batch_size * training.epochs
    cell = teachers.teacher_cell(study, "vgg11_bn")
    assert estimates.seconds_of(study, cell) == pytest.approx(0.15 * updates)
    assert estimates.seconds_of(study, teachers.memory_cell(study, "vgg11_bn")) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "table99"], "no notebook is called 'table99'; choose a part of 01_teachers, "),
        (["--scale", "huge"], "unknown scale 'huge'; choose from smoke"),
        (["--seeds", "one"], "seeds 'one' are not whole numbers; write them as in 0,1,2"),
        (["--pairs", "4"], "there are no 4 pairs; choose from 1 to 3"),
    ],
)
def test_bad_options_are_named(tmp_path, capsys, arguments, words):
    places = ["--results", str(tmp_path / "results"), "--artifacts", str(tmp_path / "artifacts")]
    assert fill.main(["--scale", "smoke", *places, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_cell_made_without_a_notebook_is_the_notebooks(tmp_path, study):
    process = command(tmp_path, "--only", "teachers")
    process.communicate()
    (path,) = study.results.glob("cells/teacher--vgg11_bn--*.json")
    assert study.has(teachers.teacher_cell(study, "vgg11_bn"))
    assert json.loads(path.read_text())["seconds"] > 0
    assert os.listdir(study.results) == ["cells"]
