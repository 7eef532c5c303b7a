"""Damaged results and artifacts: made again, or named in one line; never used."""

import json
import os
import subprocess
import sys

import pytest
import torch

from dilib.commands import report
from dilib.compression import latency
from dilib.inversion import Objective, Schedule
from dilib.pool import ImagePool, PoolDataset
from dilib.recipe import Recipe
from dilib.study import claims
from dilib.study.cells import Cell, Study

CELL = {"metrics": {"top1": 1.0}, "settings": {}, "seconds": 1.0, "device": "a CPU", "commit": "abc"}
DAMAGES = {
    "cells/a--seed0.json": [
        "[" * 100_000,
        "[1, 2]",
        '{"metrics": {',
        "",
        json.dumps({**CELL, "metrics": None}),
        "\x00\x01",
        '"text"',
    ],
    "claims.csv": ["", "garbled", "claim,verdict\n1,x\n", "claim,verdict,evidence\nx,y,z\n1,a,b\n1,a,b\n"],
    "runs.csv": ["", "a,b\n1,2\n", "notebook,cells made,minutes,finished\n02,x,1.0,2026\n"],
    "table1.csv": ["", "row,column\n1,2\n", "a\n1,2,3\n", "row,column,ours,ours_std,seeds,paper\na,b,1,,x,2\n"],
    "table1.md": [b"caf\xe9"],
    "../../bench/cpu.json": ["[]", '{"device": "x", "rows": [1]}', "{"],
}


@pytest.fixture
def study(tmp_path):
    return Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")


@pytest.mark.parametrize("file", DAMAGES)
def test_a_report_names_the_file_that_is_damaged(tmp_path, capsys, file):
    folder = tmp_path / "laptop" / "digits"
    (folder / "cells").mkdir(parents=True)
    (folder / "cells" / "b--seed0.json").write_text(json.dumps(CELL))
    for content in DAMAGES[file]:
        path = (folder / file).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert report.main(["--results", str(tmp_path)]) == 2, content
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 1, content
        assert told[0].startswith(f"error: {path} is damaged (")
        assert told[0].endswith("); delete it, and run the command again")
        assert not (tmp_path / "REPORT.md").exists()


def test_a_damaged_cell_is_made_again(study):
    cell = Cell("a", {"lr": 1}, lambda: {"top1": 50.0})
    path = study.results / "cells" / "a--seed0.json"
    whole = json.loads(json.dumps(study.result(cell)))
    for content in (*DAMAGES["cells/a--seed0.json"], json.dumps({**whole, "metrics": []})):
        path.write_text(content)
        assert not study.has(cell)
        assert study.result(cell)["metrics"] == {"top1": 50.0}


def test_damaged_claims_stop_a_verdict_in_one_line(study):
    (study.results / "claims.csv").write_text("garbled")
    with pytest.raises(ValueError, match=r"claims.csv is damaged \(it has no column claim, verdict, evidence\); "):
        claims.leave_open(study, 1, "evidence")


def test_a_study_s_precision_and_latencies(study, tmp_path):
    for content in ("{", '"float8"', "[]"):
        (study.artifacts / "precision.json").write_text(content)
        with pytest.raises(ValueError, match=r"precision.json is damaged \(.*\); delete it"):
            Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    for content in ("[]", "{", '{"batch": 1, "grids": [{}]}', '{"batch": 1, "grids": 3}'):
        (tmp_path / "table.json").write_text(content)
        with pytest.raises(ValueError, match=r"table.json is damaged \(.*\); delete it"):
            latency.load(tmp_path / "table.json")


def test_a_batch_with_a_flipped_byte_is_made_again_byte_for_byte(tmp_path, teacher):
    recipe = Recipe(teacher, (0, 1), 4, Objective().deepinversion(), (Schedule(((32, 1),)),))
    pool = ImagePool(tmp_path, recipe)
    pixels = pool.split(8).pixels.clone()
    whole = pool.path(1).read_bytes()
    flipped = bytearray(whole)
    flipped[-2000] ^= 1
    pool.path(1).write_bytes(flipped)
    assert not pool.has(1)
    with pytest.raises(ValueError, match=r"batch-00001.safetensors is damaged \(its checksum is wrong\); delete it"):
        PoolDataset(tmp_path)[7]
    decoded = (tmp_path / "pixels-8.npy").read_bytes()
    for content in (decoded[:-100], decoded[:50], b"", b"PK\x03\x04" + decoded[4:], decoded.replace(b"|u1", b"|i1")):
        (tmp_path / "pixels-8.npy").write_bytes(content)
        assert torch.equal(ImagePool(tmp_path, recipe).split(8).pixels, pixels)
        assert (tmp_path / "pixels-8.npy").read_bytes() == decoded
    assert PoolDataset(tmp_path)[7][1] == 1


@pytest.mark.parametrize("content", ["[]", "{", "{}", "", "null", "float8", "list"])
def test_a_pool_s_card(tmp_path, teacher, content):
    recipe = Recipe(teacher, (0, 1), 4, Objective().deepinversion(), (Schedule(((32, 1),)),))
    ImagePool(tmp_path, recipe).batch(0)
    card = json.loads((tmp_path / "card.json").read_text())
    precisions = {"null": None, "float8": "float8", "list": []}
    if content in precisions:
        content = json.dumps({**card, "precision": precisions[content]})
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ValueError, match=r"card.json is damaged \(.*\); delete it"):
        ImagePool(tmp_path, recipe)


def test_a_teacher_is_the_same_whatever_asks_for_it_and_on_however_many_cores(tmp_path):
    script = """
import sys
from dilib.artifacts import fingerprint, load_tensors
from dilib.experiments.teachers import load_teacher
from dilib.study.cells import Study
study = Study.open("smoke", "digits", sys.argv[1] + "/results", sys.argv[1] + "/artifacts")
print(fingerprint(load_teacher(study, "resnet18").network))
card = load_tensors(study.artifacts / "teachers" / "resnet18-seed0.safetensors")[1]
print(card["threads"], card["precision"])
"""
    told = []
    for threads in ("1", "2"):
        (tmp_path / threads / "artifacts/smoke/digits").mkdir(parents=True)
        (tmp_path / threads / "artifacts/smoke/digits/precision.json").write_text('"float32"')
        command = [sys.executable, "-c", script, str(tmp_path / threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        told.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert told[0] == told[1]
    assert told[0].endswith("1 float32\n")
