"""Cells side by side in real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from dilib.study import Study
from dilib.transfer import run_transfers, transfer_cell
from dilib.workers import side_by_side

ORPHANS = """
import sys
from pathlib import Path
from test_workers import Pair, sleep
from dilib.workers import side_by_side
if __name__ == "__main__":
    side_by_side(sleep, Pair("smoke", results=sys.argv[1], artifacts=sys.argv[1]), [(0,), (1,)])
"""


class Pair(Study):
    """A study that works on two cells at a time, whatever the machine has."""

    jobs = 2


def double(study, value):
    if value < 0:
        raise FloatingPointError(f"loss not finite at value {value}")
    return {"value": 2 * value, "process": os.getpid()}


def sleep(study, index):
    (study.results / f"{index}.pid").write_text(str(os.getpid()))
    time.sleep(300)


@pytest.fixture
def study(tmp_path):
    return Pair("smoke", results=str(tmp_path), artifacts=str(tmp_path))


def test_results_come_in_order_from_other_processes(study):
    found = side_by_side(double, study, [(value,) for value in range(6)])
    assert [each["value"] for each in found] == [0, 2, 4, 6, 8, 10]
    assert os.getpid() not in {each["process"] for each in found}


def test_cells_made_side_by_side_equal_those_made_one_by_one(tmp_path):
    """DeepInversion and its adaptive form share a pool, Noise has its own."""
    tasks = [("vgg11_bn", "vgg11_bn", method, 0) for method in ("deepinversion", "adaptive", "noise")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone, both = (kind("smoke", None, *[str(tmp_path / kind.__name__)] * 2) for kind in (Study, Pair))
        expected = [transfer_cell(alone, *task)["metrics"] for task in tasks]
        run_transfers(both, tasks)
    finally:
        torch.set_num_threads(threads)
    assert [transfer_cell(both, *task)["metrics"] for task in tasks] == expected


def test_an_error_in_one_cell_reaches_the_caller(study):
    with pytest.raises(FloatingPointError, match="loss not finite at value -1"):
        side_by_side(double, study, [(1,), (-1,), (2,)])


def test_workers_do_not_outlive_a_parent_killed_with_sigkill(study, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    parent = subprocess.Popen([sys.executable, script, tmp_path], env=environment)
    files = [study.results / f"{index}.pid" for index in (0, 1)]
    try:
        until(lambda: all(file.exists() and file.read_text() for file in files))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until(lambda: not any(alive(int(file.read_text())) for file in files))


def until(condition, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.1)


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
