"""What is not the study's own: the disk, the locale, the shell, and who is at the keyboard."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT, said, start, until

from dilib.commands import synthesize
from dilib.image_folders import mapped
from dilib.pool import PoolDataset

BIN = Path(sys.executable).parent
MAKE = ["make", "--silent", "--old-file", ".venv/.ready"]


@contextmanager
def small_disk(folder, kilobytes):
    """A folder that holds so much and no more; skipped where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize(("full", "notebook"), [("artifacts", "01_teachers"), ("results", "04_figure2_competition")])
def test_a_full_disk_is_named_in_one_line(tmp_path, full, notebook):
    with small_disk(tmp_path / full, kilobytes=200) as disk:
        (disk / "ballast").write_bytes(bytes(120 * 1024))
        run = start(tmp_path, "--only", notebook)
        assert run.wait(timeout=100) == 1
        assert len(said(tmp_path)) == 1, said(tmp_path)
        assert said(tmp_path)[0].startswith(f"error in {notebook}.ipynb: OSError: [Errno 28] No space left on device")
        assert str(disk) in said(tmp_path)[0]
        assert said(tmp_path)[0].endswith("; mend that, and the same command goes on")
        assert not list(tmp_path.rglob(".*.tmp"))


def test_a_pool_goes_on_once_its_disk_has_room(tmp_path, capsys):
    with small_disk(tmp_path / "disk", kilobytes=100) as disk:
        options = ["--pool", str(disk / "pool"), "--images", "100", "--scale", "smoke", "--dataset", "digits"]
        options += ["--artifacts", str(tmp_path / "artifacts")]
        assert synthesize.main(options) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert "No space left on device" in told
        assert told.endswith("; mend that, and the same command goes on")
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert synthesize.main(options) == 0
        assert len(PoolDataset(disk / "pool")) == 100


def test_a_full_disk_under_decoded_images_is_an_error_and_not_the_end_of_the_process(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=100) as disk:
        with pytest.raises(OSError, match="No space left on device"):
            mapped(disk / "images.npy", (1, 3, 512, 512), lambda: [np.ones((1, 3, 512, 512), np.uint8)])
        assert not list(disk.iterdir())


def test_a_name_that_the_locale_can_not_hold_is_refused_before_work(tmp_path):
    run = start(tmp_path / "größe", "--only", "figure2", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert run.wait(timeout=60) == 2
    assert len(said(tmp_path / "größe")) == 1
    assert "can't be read in this locale; choose another name, or set PYTHONUTF8=1" in said(tmp_path / "größe")[0]


def test_make_hands_values_on_as_they_are(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$PYTHONUTF8" "$@"\n')
    python.chmod(0o755)
    values = {
        "RESULTS": "my results",
        "DATASET": f"folder:/a b$(touch {tmp_path}/a)$(shell touch {tmp_path}/b)",
        "ONLY": f"`touch {tmp_path}/c`; touch {tmp_path}/d",
        "SEEDS": "it's",
        "ADDED": '"$HOME"',
    }
    for given in ([f"{name}={value}" for name, value in values.items()], []):
        environment = os.environ if given else {**os.environ, **values}
        command = [*MAKE, f"BIN={python.parent}", "reproduce", *given]
        shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        assert shown.splitlines() == [
            "1",
            "-m",
            "dilib.commands.reproduce",
            "--results=my results",
            "--scale=laptop",
            f"--dataset={values['DATASET']}",
            f"--only={values['ONLY']}",
            "--seeds=it's",
            '--added="$HOME"',
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["bin"], "a command in a value was run"


def test_make_lab_starts_whoever_asks(tmp_path):
    environment = {**os.environ, "BROWSER": "true", "HOME": str(tmp_path)}
    with open(tmp_path / "log", "w") as log:
        command = [*MAKE, f"BIN={BIN}", "lab"]
        lab = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: "http://127.0.0.1:" in (tmp_path / "log").read_text() or lab.poll() is not None)
        assert lab.poll() is None, (tmp_path / "log").read_text()
    finally:
        os.killpg(lab.pid, signal.SIGKILL)
        lab.wait()
