"""A run that is stopped, or whose processes are killed: one line, nothing left behind, and the same command goes on."""

import os
import signal
from pathlib import Path

import pytest
from processes import alive, descendants, kernels, said, start, until, workers

STOPPED = ["Stopped; the same command goes on"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of one run that is stopped again and again."""
    return tmp_path_factory.mktemp("stopped")


def begin(folder, working):
    run = start(folder, "--only", "table1")
    until(lambda: working(run.pid) or run.poll() is not None)
    assert run.poll() is None, said(folder)
    return run


def left_over(folder):
    return [path for path in (folder / "tmp").iterdir() if path.is_dir()]


def test_ctrl_c_takes_one_line_and_leaves_nothing(folder):
    semaphores = set(Path("/dev/shm").iterdir())
    run = begin(folder, workers)
    others = descendants(run.pid)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    assert run.wait(timeout=30) == 130
    assert said(folder) == STOPPED
    until(lambda: not any(map(alive, others)), seconds=30)
    assert not left_over(folder)
    assert not list(folder.rglob("*.ipynb"))
    until(lambda: set(Path("/dev/shm").iterdir()) <= semaphores, seconds=30)


def test_ctrl_c_while_it_starts(folder):
    run = start(folder, "--only", "table1")
    until(lambda: "torch" in Path(f"/proc/{run.pid}/maps").read_text())
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(timeout=30) == 130
    assert said(folder) == STOPPED


def test_a_killed_kernel(folder):
    run = begin(folder, kernels)
    kernels(run.pid)[0].kill()
    assert run.wait(timeout=30) == 1
    assert said(folder) == [
        "error in 02_table1_transfer.ipynb: its kernel died, most often because memory ran out; the same command goes "
        "on from what is finished"
    ]


def test_what_a_killed_run_leaves_is_swept_up_by_the_next_and_a_terminated_one_leaves_nothing(folder):
    run = begin(folder, kernels)
    others = descendants(run.pid)
    run.kill()
    run.wait()
    until(lambda: not any(map(alive, others)), seconds=30)
    assert len(left_over(folder)) == 1
    next_run = begin(folder, kernels)
    assert len(left_over(folder)) == 1
    others = descendants(next_run.pid)
    next_run.terminate()
    assert next_run.wait(timeout=30) == 143
    assert said(folder) == STOPPED
    assert not any(map(alive, others))
    assert not left_over(folder)
