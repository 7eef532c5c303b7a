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
from dilib.experiments import catalogue, estimates, table1_transfer, teachers
from dilib.inversion import Inversion
from dilib.study.cells import Cell, Study
from dilib.study.scales import SCALES
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
    lines = [line.split(":")[0] for text in said for line in text.splitlines() if line.endswith("minutes")]
    assert sorted(line.replace(", seed ", "--seed") for line in lines) == sorted(made), "each by one of them"
    again = command(tmp_path, "--only", "teachers").communicate()[0]
    assert again == f"{len(made)} of {len(made)} results are in {tmp_path / 'results/smoke/digits'}\n"


def test_nothing_is_begun_that_there_is_no_time_for(tmp_path):
    said, error = command(tmp_path, "--only", "table1", "--minutes", "0.01").communicate()
    assert not list(tmp_path.glob("results/**/cells/*.json")), error
    assert "0 of 26 results" in said
    assert "left, as it needs" in said or "the others: left, as there is no time" in said


@pytest.fixture
def study(tmp_path):
    return Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")


def test_what_tells_most_comes_first(study):
    names = [f"{cell.name}--{cell.seed}" for cell in fill._wanted(study, ["02_table1_transfer"], [0, 1], 1)]
    first = f"transfer--{PAIRS[0][0]}--{PAIRS[0][1]}--amortised"
    assert names[:2] == [f"teacher--{PAIRS[0][0]}--0", f"{first}--0"]
    assert f"{first}--1" in names[1:]
    assert not [name for name in names if PAIRS[1][1] in name.split("--")[2:3] and name.startswith("transfer")]
    left = {cell.name for cell in fill._wanted(study, list(catalogue.CELLS), [0], 3)}
    assert not [name for name in left if name.startswith(("speeds", "latency", "pruned", "growth", "own-network"))]


def test_a_scale_may_be_for_some_notebooks_alone():
    assert all(set(scale.notebooks) <= set(catalogue.CELLS) for scale in SCALES.values())
    assert "14_amortised" in fill._notebooks(SCALES["overnight"], "")
    with pytest.raises(ValueError, match="no notebook is called '05'; choose a part of 01_teachers"):
        fill._notebooks(SCALES["overnight"], "05")


def test_one_column_takes_its_own_teacher_alone(tmp_path):
    overnight = Study.open("overnight", None, tmp_path / "results", tmp_path / "artifacts")
    asked = {cell.name for cell in catalogue.cells(overnight, "01_teachers", pairs=1)}
    assert asked == {"teacher--vgg11_bn", "memory--vgg11_bn"}


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
    memory = teachers.memory_cell(study, "vgg11_bn")
    assert estimates.seconds_of(study, memory) is None
    monkeypatch.setattr(Study, "finished", lambda study, cell: [{"seconds": 3.0}, {"seconds": 5.0}])
    assert estimates.seconds_of(study, memory) == 5.0, "other seeds'"


def test_a_result_that_fails_stops_no_other(study, capsys):
    def fails():
        raise FloatingPointError("loss nan in round 3")

    cells = [Cell("bad", {}, fails), Cell("good", {}, lambda: {"top1": 12.345})]
    assert fill._fill(study, cells, None) == 1
    said = capsys.readouterr()
    assert said.err == "error: bad, seed 0: loss nan in round 3\n"
    assert said.out == "good, seed 0: 12.35 %, 0.0 minutes\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "table99"], "no notebook is called 'table99'; choose a part of 01_teachers, "),
        (["--scale", "huge"], "unknown scale 'huge'; choose from smoke"),
        (["--seeds", "one"], "seeds 'one' are not whole numbers; write them as in 0,1,2"),
        (["--minutes", "nan"], "minutes nan is out of range; give a number above 0"),
        (["--minutes", "-5"], "minutes -5.0 is out of range; give a number above 0"),
        (["--only", "imagenet"], "nothing of 07_imagenet can be made here; use `make reproduce`, or other data"),
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


def test_it_takes_few_packages():
    """Machines that are lent with torch on them often have no more."""
    lines = """
import sys
from importlib.metadata import packages_distributions
import filelock, numpy, PIL.Image, safetensors, torch, torchvision, tqdm
before = set(sys.modules)
import dilib.commands.fill
taken = {name.partition(".")[0] for name in set(sys.modules) - before} & set(packages_distributions())
print(sorted(taken - {"dilib", "numpy", "PIL", "safetensors", "torch", "torchvision", "tqdm"}))
"""
    assert subprocess.check_output([sys.executable, "-c", lines], cwd=ROOT, text=True).strip() == "[]"
