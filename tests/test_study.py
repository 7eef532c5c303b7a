import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest
import torch

from dilib.study import claims
from dilib.study.cells import Cell, Study
from dilib.study.tables import Table


@pytest.fixture
def study(tmp_path):
    return Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")


def test_a_cell_is_computed_once_for_its_settings(study):
    runs = []

    def work():
        runs.append(1)
        return {"top1": 50.0 + len(runs), "samples": torch.arange(20).view(20, 1, 1, 1).expand(20, 1, 4, 4).byte()}

    cell = Cell("a", {"lr": 0.1, "stages": ((32, 5),)}, work, seed=2)
    first = study.result(cell)
    assert study.result(cell) == first
    assert first["metrics"]["top1"] == 51
    assert torch.equal(study.samples(first)[:, 0, 0, 0], torch.arange(20).byte())
    assert study.result(replace(cell, settings={"lr": 0.2, "stages": ((32, 5),)}))["metrics"]["top1"] == 52
    colour = torch.randint(256, (10, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(study.samples(study.result(Cell("rgb", {}, lambda: {"samples": colour}))), colour)
    assert {"seed", "settings", "seconds", "device", "versions", "precision", "commit"} <= first.keys()


def test_large_pictures_are_nearly_as_they_were_and_small_files(tmp_path):
    study = Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    random = torch.Generator().manual_seed(0)
    colours = 10 * torch.arange(20).view(20, 1, 1, 1) + torch.tensor([0, 20, 40]).view(3, 1, 1)
    noisy = (colours + torch.randint(0, 16, (20, 3, 224, 224), generator=random)).byte()
    samples = study.samples(study.result(Cell("large", {}, lambda: {"samples": noisy})))
    assert (tmp_path / "results/smoke/digits/cells/large--seed0.webp").stat().st_size <= 300_000
    assert samples.shape == noisy.shape
    difference = samples.float() - noisy.float()
    assert difference.mean((2, 3)).abs().max() < 3, "each has its own colour"
    assert difference.abs().mean() < 8
    study.result(Cell("large", {"changed": 1}, lambda: {"samples": noisy[:1, :, :9, :9]}))
    names = sorted(path.name for path in (tmp_path / "results/smoke/digits/cells").glob("large*"))
    assert names == ["large--seed0.json", "large--seed0.png"], "no picture of another making"
    long = noisy[:1].expand(740, 3, 224, 224)  # higher than WebP can be
    assert study.samples(study.result(Cell("long", {}, lambda: {"samples": long}))).shape == long.shape


def test_a_damaged_cell_is_made_again_and_a_failing_one_leaves_nothing(study):
    cell = Cell("a", {}, lambda: {"top1": 1.0})
    finished, path = study.result(cell), study.results / "cells" / "a--seed0.json"
    path.write_text(path.read_text()[:30])
    assert study.result(cell)["metrics"] == finished["metrics"]

    def fails():
        raise FloatingPointError("loss not finite at update 7")

    with pytest.raises(FloatingPointError, match="update 7"):
        study.result(Cell("b", {}, fails))
    assert not (study.results / "cells" / "b--seed0.json").exists()


def test_two_processes_share_one_results_folder(tmp_path):
    script = f"""
import time
from dilib.study import claims
from dilib.study.cells import Cell, Study
from dilib.study.scratch import MADE, noted, scratch
study = Study.open("smoke", "digits", {str(tmp_path / "results")!r}, {str(tmp_path / "artifacts")!r})
def work(i):
    with open({str(tmp_path / "log")!r}, "a") as log:
        log.write(f"{{i}}\\n")
    time.sleep(0.05)
    return {{"top1": float(i)}}
with scratch() as run:
    for i in range(8):
        study.result(Cell(f"c{{i}}", {{}}, lambda: work(i)))
        claims.leave_open(study, i % 16 + 1, f"reason {{i}}")
    print(len(noted(run, MADE)))
"""
    with ThreadPoolExecutor(2) as executor:
        command = [sys.executable, "-c", script]
        runs = list(executor.map(lambda _: subprocess.run(command, check=True, stdout=subprocess.PIPE), range(2)))
    assert sum(int(run.stdout) for run in runs) == 8, "a cell counts for the run that made it"
    assert sorted((tmp_path / "log").read_text().split()) == [str(i) for i in range(8)], "each cell ran once"
    cells = [json.loads(path.read_text()) for path in (tmp_path / "results").rglob("c*.json")]
    assert sorted(cell["metrics"]["top1"] for cell in cells) == list(range(8))
    verdicts = pd.read_csv(next((tmp_path / "results").rglob("claims.csv")))["verdict"]
    assert (verdicts == claims.UNTESTABLE).sum() == 8


def test_tables_are_tidy_and_an_entry_without_cells_says_not_run(study):
    for seed in (0, 2):
        study.result(Cell("a", {}, lambda seed=seed: {"top1": 80.0 + seed}, seed))
    table = Table(study, 1)
    table.add("DI", "x", Cell("a", {}, dict), paper=84.16)
    table.add("DAFL", "x", [])
    shown = table.write("A caption.")
    assert table.ours.loc["DI", "x"] == 81
    assert shown.loc["DI", "x"] == "81.00 ± 1.41 (2 seeds) (paper: 84.16)"
    assert shown.loc["DAFL", "x"] == "not run (paper: –)"
    tidy = pd.read_csv(study.results / "table1.csv")
    assert list(tidy) == ["table", "row", "column", "metric", "ours", "ours_std", "seeds", "paper"]
    assert tidy["ours"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("scale", "dataset", "message"),
    [
        ("huge", None, "unknown scale 'huge'; choose from smoke, laptop, overnight, paper"),
        ("smoke", "minst", "unknown data set 'minst'; choose from digits"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(tmp_path, scale, dataset, message):
    with pytest.raises(ValueError, match=message):
        Study.open(scale, dataset, tmp_path / "results", tmp_path / "artifacts")
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(
        ValueError, match=r"can't write to .*file/smoke/digits/cells \(Not a directory\); choose another"
    ):
        Study.open("smoke", results=tmp_path / "file", artifacts=tmp_path / "artifacts")


def test_a_study_goes_on_in_the_precision_that_it_was_begun_in(tmp_path):
    places = ("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    begun = Study.open(*places, precision=torch.bfloat16)
    assert Study.open(*places).precision == begun.precision == torch.bfloat16
    cell = begun.result(Cell("a", {}, lambda: {"top1": 1.0}))
    assert cell["precision"] == "bfloat16"
    with pytest.raises(ValueError, match="was begun in bfloat16, not float32; choose other artifacts"):
        Study.open(*places, precision=torch.float32)


def test_a_study_with_other_settings_shares_its_data(study):
    varied = study.with_scale(batch_size=7)
    assert (varied.scale.batch_size, study.scale.batch_size) == (7, 50)
    assert varied.data is study.data
    half = study.on_half((0, 2))
    assert half.data.classes == ("0", "2")
    assert half.place.name == "digits-half"
    assert len({study, varied, half}) == 3
