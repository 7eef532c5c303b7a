"""A folder for what a run leaves lying about, gone with the run, or, where that was killed, at the next one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

RUN = "DILIB_RUN"  # the folder of the run that this process belongs to
MADE_CELLS = "made-cells"  # in it: the names of the cells that the run's processes made


@contextmanager
def scratch() -> Iterator[Path]:
    """Meanwhile this process, and those that it starts, keep temporary files in a folder of their own.

    Folders of runs that were killed are removed first; a live run holds its folder's lock.
    """
    place, prefix = Path(tempfile.gettempdir()), f"dilib-{os.getuid()}-"
    with FileLock(place / f"{prefix}start.lock"):
        for left in filter(Path.is_dir, place.glob(f"{prefix}*")):
            with suppress(Timeout, OSError), _lock(left).acquire(timeout=0):
                shutil.rmtree(left)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        lock = _lock(folder)
        lock.acquire()
    before = tempfile.tempdir, {name: os.environ.get(name) for name in (RUN, "TMPDIR")}
    tempfile.tempdir = os.environ[RUN] = os.environ["TMPDIR"] = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir, variables = before
        for name, value in variables.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "in-use.lock")


def note_made(cell: str) -> None:
    """Note, where this process belongs to a run, that it made a cell."""
    if folder := os.environ.get(RUN):
        with suppress(OSError), open(Path(folder) / MADE_CELLS, "a", encoding="utf-8") as file:
            file.write(f"{cell}\n")  # a cell is worth more than its being counted


def cells_made(folder: Path) -> int:
    """How many cells the run with this folder has made so far."""
    path = folder / MADE_CELLS
    return len(path.read_text("utf-8").splitlines()) if path.exists() else 0
