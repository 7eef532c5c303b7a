"""Cells side by side in real processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from processes import alive, until, workers

from dilib.experiments.table1_transfer import student_cell
from dilib.study.cells import Study
from dilib.study.scales.settings import PAIRS
from dilib.study.workers import WorkerDied, side_by_side
from dilib.timing import threads

ORPHANS = """
if __name__ == "__main__":
    import signal
    import sys
    from functools import partial
    from test_workers import sleep
    from dilib.study.workers import side_by_side
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs do not have
    side_by_side([partial(sleep, sys.argv[1], index) for index in (0, 1)], jobs=2)
"""


def double(value):
    if value < 0:
        raise FloatingPointError(f"loss not finite at value {value}")
    return {"value": 2 * value, "process": os.getpid()}


def sleep(folder, index):
    (Path(folder) / f"{index}.pid").write_text(str(os.getpid()))
    time.sleep(300)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_order_from_other_processes():
    found = side_by_side([partial(double, value) for value in range(6)], jobs=2)
    assert [each["value"] for each in found] == [0, 2, 4, 6, 8, 10]
    assert os.getpid() not in {each["process"] for each in found}


def test_cells_made_side_by_side_equal_those_made_one_by_one(tmp_path):
    """DeepInversion and its adaptive form share a pool, Noise has its own."""
    alone, both = (Study.open("smoke", None, tmp_path / name, tmp_path / name) for name in ("alone", "both"))
    alone, both = replace(alone, jobs=1), replace(both, jobs=2)

    def metrics(study):
        methods = ("deepinversion", "adaptive", "noise")
        found = [cell["metrics"] for cell in study.run(student_cell(study, PAIRS[0], method) for method in methods)]
        for each in found:
            each["history"].pop("seconds")
        return found

    with threads(1):
        expected = metrics(alone)
        assert metrics(both) == expected


def test_an_error_in_one_cell_reaches_the_caller():
    with pytest.raises(FloatingPointError, match="loss not finite at value -1"):
        side_by_side([partial(double, value) for value in (1, -1, 2)], jobs=2)


def test_a_killed_worker_is_told_of_in_one_line():
    with pytest.raises(WorkerDied, match=r"^a worker process died, most often because memory ran out; the same") as it:
        side_by_side([partial(os.kill, 0, 0), die], jobs=2)
    assert "\n" not in str(it.value)


@pytest.mark.parametrize("when", ["importing", "working"])
def test_workers_do_not_outlive_a_parent_killed_with_sigkill(tmp_path, when):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    parent = subprocess.Popen([sys.executable, script, tmp_path], env=environment)
    files = [tmp_path / f"{index}.pid" for index in (0, 1)]
    try:
        until(lambda: all(file.exists() for file in files) if when == "working" else len(workers(parent.pid)) == 2)
        children = workers(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not any(map(alive, children)), seconds=30)


def test_an_interrupt_stops_workers_at_once(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    with open(tmp_path / "err.txt", "w") as err:
        parent = subprocess.Popen(
            [sys.executable, script, tmp_path], env=environment, stderr=err, start_new_session=True
        )
    until(lambda: all((tmp_path / f"{index}.pid").exists() for index in (0, 1)))
    children = workers(parent.pid)
    os.killpg(parent.pid, signal.SIGINT)  # as JupyterLab does
    parent.wait(timeout=60)
    until(lambda: not any(map(alive, children)), seconds=30)
    assert (tmp_path / "err.txt").read_text().count("Traceback") == 1, "the parent's own, and none of a worker's"
