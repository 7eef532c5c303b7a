"""The one call, tried by the study, and the published network that it is tried on."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from dilib.calls import plans
from dilib.commands import report
from dilib.data import Split
from dilib.experiments import imagenet, own_network, own_network_224, own_student_224, resnet20
from dilib.study.cells import Cell, Study
from dilib.study.scales.settings import OwnNetwork

ROOT = Path(__file__).parent.parent


def test_resnet20_is_as_published():
    """He et al. (2016), Table 6: 0.27 million parameters; and the names of the published file."""
    network = resnet20.ResNet20()
    assert sum(weight.numel() for weight in network.parameters()) == 269_722
    assert {"conv1.weight", "layer3.2.bn2.bias", "linear.weight"} < network.state_dict().keys()
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    with torch.no_grad():
        shortcut = resnet20.Block(4, 8, 2).eval()
        shortcut.bn2.weight.zero_()
        seen = shortcut(torch.ones(1, 4, 4, 4))
    assert seen.shape == (1, 8, 2, 2)
    assert seen[0, :, 0, 0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*teachers/resnet20-12fca82f\.th"):
        resnet20.published(tmp_path)


def test_a_call_becomes_a_cell_and_a_row(tmp_path, monkeypatch):
    def plan_for(size, method):
        plan = plans.plan_for(size, method)
        teaching = replace(plan.teaching, updates=4, batch_size=8, batches=2)
        return replace(plan, batch_size=16, teaching=teaching, schedule=replace(plan.schedule, stages=((None, 2),)))

    monkeypatch.setattr("dilib.calls.distill.plan_for", plan_for)
    study = Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    cell = own_network.distilled_cell(study, OwnNetwork("vgg11_bn", "vgg11_bn", updates=8))
    found = study.result(cell)
    assert (found["metrics"]["images"], found["metrics"]["rounds"], found["samples"]) == (64, 2, own_network.SHOWN)
    assert own_network.finished(tmp_path / "results") == [found]
    metrics = found["metrics"] | {"teacher_top1": 80.0, "top1": 60.0, "threads": 2}
    row = own_network.row(found | {"metrics": metrics, "seconds": 90.0})
    assert row["teacher to student"] == "VGG-11-BN, width 0.0625 to VGG-11-BN, width 0.0625"
    assert (row["of the teacher's"], row["minutes"], row["cores"]) == (75.0, 1.5, 2)
    assert own_network.cells(study) == []


def test_what_the_readme_says_is_the_cells(tmp_path):
    settings = {"network": "vgg11_bn", "width": 0.25}
    measured = {"top1": 81.64, "teacher_top1": 85.19, "said": "The student saw 5 images.", "images": 5, "threads": 2}
    cell = {"name": "own-network--vgg11_bn--vgg11_bn", "title": "CIFAR-10", "seed": 0, "seconds": 90.0}
    told = {"teacher": settings, "student": settings, "updates": None}
    cell |= {"precision": "float32", "metrics": measured, "settings": told}
    said = own_network.ten_lines([cell])
    assert said.startswith("```\nThe student saw 5 images.\n```")
    said = " ".join(said.split())
    assert "on 2 CPU cores" in said
    assert "(VGG-11-BN, width 0.25 of the paper's; 85.2 % on the test images)" in said
    assert said.endswith("The student has **81.6 %**.")
    other = cell | {"name": "own-network--resnet20--vgg11_bn", "metrics": measured | {"top1": 85.19 / 4}}
    assert "Students of other teachers reached 25 to 25 % of the teacher's accuracy" in " ".join(
        own_network.ten_lines([cell, other]).split()
    )
    assert "| VGG-11-BN, width 0.25 to VGG-11-BN, width 0.25 |" in " ".join(
        report._table(pd.DataFrame([own_network.row(cell)])).split()
    )
    assert (own_network.ten_lines([]), report._table(pd.DataFrame())) == ("", "")
    for page, name in (
        ("README.md", "ten lines"),
        ("README.md", "picture"),
        ("docs/own-network.md", "own"),
        ("docs/own-network.md", "own 224"),
        ("docs/own-network.md", "own student 224"),
    ):
        begin, end = report.marks(name)
        assert begin in (ROOT / page).read_text().partition(end)[0]
    assert imagenet.captioned(ROOT / "results") in (ROOT / "README.md").read_text()


def test_a_large_network_s_calls_become_a_row(tmp_path):
    study = Study.open("smoke", "imagenet", tmp_path / "results", tmp_path / "artifacts")
    assert own_network_224.cells(study) == [], "without real images"
    asked = own_network_224.compressed_cell(study)
    measured = {"top1": 70.0, "images": 64, "before": 50.0, "after": 60.0, "threads": 2}
    work = Cell(asked.name, asked.settings, lambda: measured | {"seconds": 90.0})
    assert study.result(work)["metrics"]["images"] == 64
    (row,) = own_network_224.rows(tmp_path / "results")
    assert (row["whole"], row["10 % of the filters removed, tuned"], row["minutes"]) == (70.0, 60.0, 1.5)
    assert len(own_network_224.cells(study)) == 1, "the cell is there"


def test_a_classifier_of_kinds_gives_each_its_classes_probability():
    every = [label for kind in own_student_224.KINDS for label in own_student_224.classes(kind)]
    assert len(every) == len({*every}) == 429
    logits = torch.randn(3, 1000, dtype=torch.float64)
    chosen = logits[:, every].softmax(1)
    of_kinds = own_student_224.OfKinds(torch.nn.Identity())(logits).softmax(1)
    ends = torch.tensor([len(own_student_224.classes(kind)) for kind in own_student_224.KINDS]).cumsum(0)
    expected = chosen.cumsum(1)[:, ends - 1].diff(dim=1, prepend=torch.zeros(3, 1))
    torch.testing.assert_close(of_kinds, expected)


def test_a_student_at_224_is_made_by_night_and_tested_on_the_middle_of_real_images(tmp_path, monkeypatch):
    def validation(folder, classes):
        pixels = torch.arange(256, dtype=torch.uint8).expand(len(classes), 3, 256, 256)
        return Split(pixels, torch.tensor(classes))

    monkeypatch.setattr(own_network_224, "imagenet_validation", validation)
    for scale, cells in (("overnight", 1), ("laptop", 0)):
        study = Study.open(scale, "imagenet", tmp_path / "results", tmp_path / "artifacts", torch.float32)
        assert len(own_student_224.cells(study)) == cells
    real = own_student_224._real(tmp_path)
    assert real.pixels.shape == (429, 3, 224, 224)
    assert real.pixels[0, 0, 0].tolist() == list(range(16, 240))
    named = {own_student_224.classes(kind)[0]: number for number, kind in enumerate(own_student_224.KINDS)}
    every = [label for kind in own_student_224.KINDS for label in own_student_224.classes(kind)]
    assert {label: real.labels[every.index(label)].item() for label in named} == named


def test_a_student_at_224_is_for_the_night_and_becomes_a_row(tmp_path):
    study = Study.open("overnight", "imagenet", tmp_path / "results", tmp_path / "artifacts", torch.float32)
    assert own_student_224.cells(study) == [], "without real images"
    asked = own_student_224.student_cell(study)
    assert asked.settings["updates"] == 1200
    measured = {"top1": 40.0, "teacher_top1": 98.6, "commonest": 27.5, "images": 2560, "threads": 1, "seconds": 90.0}
    study.result(Cell(asked.name, asked.settings, lambda: measured))
    assert [cell.name for cell in own_student_224.cells(study)] == [asked.name], "the cell is there"
    (row,) = own_student_224.rows(tmp_path / "results")
    assert (row["student's top-1"], row["always dog"], row["minutes"]) == (40.0, 27.5, 1.5)
