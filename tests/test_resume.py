"""Killed at any moment and started again, a cell ends with the numbers of an undisturbed run."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = """
import sys
from dilib.experiments.table1_transfer import student_cell
from dilib.study.cells import Study
study = Study.open("smoke", "digits", sys.argv[1] + "/results", sys.argv[1] + "/artifacts")
study.result(student_cell(study, ("vgg11_bn", "vgg11_bn"), sys.argv[2]))
"""


def start(folder, method):
    command = [sys.executable, "-c", SCRIPT, str(folder), method]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def metrics(folder, method):
    cell = next(folder.glob(f"results/smoke/digits/cells/transfer*--{method}--*.json"))
    found = json.loads(cell.read_text())["metrics"]
    history = {name: values for name, values in found.pop("history").items() if name != "seconds"}
    return {name: value for name, value in found.items() if "seconds" not in name} | history


def artifacts(folder):
    return len(list(folder.glob("artifacts/smoke/digits/*/**/*.safetensors")))


@pytest.mark.parametrize("method", ["adaptive", "dafl"])
def test_kill_and_run_again(tmp_path, method):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert start(undisturbed, method).wait() == 0

    kills = 0
    # Killed as soon as each further file has landed, and once without regard to files.
    for files in (1, 2, 3, 4, None):
        process = start(killed, method)
        deadline = time.time() + (60 if files else 4)
        while process.poll() is None and time.time() < deadline and (files is None or artifacts(killed) < files):
            time.sleep(0.01)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills >= 2
    assert start(killed, method).wait() == 0
    assert metrics(killed, method) == metrics(undisturbed, method)
    assert len(list(killed.rglob("*.tmp"))) <= kills, "at most one temporary file a kill"


def test_another_machine_goes_on_with_what_is_carried_there(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    assert start(here, "deepinversion").wait() == 0
    subprocess.run(["make", "-f", ROOT / "Makefile", "carry", "SCALE=smoke"], cwd=here, check=True, capture_output=True)
    subprocess.run(["tar", "-xf", here / "carried.tar"], cwd=there, check=True)
    carried = {path: path.stat().st_mtime_ns for path in there.rglob("*.safetensors")}
    assert {path.parent.name for path in carried} > {"teachers"}
    assert not [path for path in carried if path.parent.name == "students"]
    for folder in (here, there):
        assert start(folder, "adaptive").wait() == 0
    assert metrics(there, "deepinversion") == metrics(here, "deepinversion")
    assert metrics(there, "adaptive") == metrics(here, "adaptive")
    assert {path: path.stat().st_mtime_ns for path in carried} == carried, "the teacher and its images were made again"
