"""Real processes for tests: a run of the study, what it has started, and whether it is gone."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent


def start(folder, *arguments, **environment):
    """A smoke run with all that it leaves in a folder; its output goes to files there."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dilib.commands.reproduce", "--scale", "smoke", *arguments]
    command += ["--results", str(folder / "results"), "--artifacts", str(folder / "artifacts")]
    with open(folder / "out.txt", "w") as out, open(folder / "err.txt", "w") as err:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=out,
            stderr=err,
            env={**os.environ, "OMP_NUM_THREADS": "2", "TMPDIR": str(folder / "tmp"), **environment},
            start_new_session=True,
        )


def said(folder):
    """What the run told on standard error, less its progress bars."""
    lines = (folder / "err.txt").read_text().replace("\x1b[A", "\n").splitlines()
    return [line.strip() for line in lines if line.strip() and "it/s]" not in line and "s/it]" not in line]


def until(condition, seconds=60):
    """Wait for a condition, and return what it returned."""
    deadline = time.time() + seconds
    while not (found := condition()):
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants(process, word=""):
    """Processes that a process started, and those that they did, whose command has a word in it."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(process).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [each] * (word in " ".join(each.cmdline()))
    return found


def kernels(process):
    return descendants(process, "ipykernel_launcher")


def workers(process):
    return descendants(process, "spawn_main")
