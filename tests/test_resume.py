"""Killed at any moment and started again, a cell ends with the numbers of an undisturbed run."""

import json
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import sys
from dilib import transfer
from dilib.study import Study
study = Study("smoke", "digits", sys.argv[1] + "/results", sys.argv[1] + "/artifacts")
transfer.transfer_cell(study, "vgg11_bn", "vgg11_bn", sys.argv[2])
"""


def start(folder, method):
    command = [sys.executable, "-c", SCRIPT, str(folder), method]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def metrics(folder):
    cell = next(folder.glob("results/smoke/digits/cells/transfer*.json"))
    found = json.loads(cell.read_text())["metrics"]
    return {name: value for name, value in found.items() if "seconds" not in name}


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
    assert metrics(killed) == metrics(undisturbed)
    assert not list(killed.rglob("*.tmp"))[3:], "at most one temporary file a kill"
