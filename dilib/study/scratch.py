"""A folder for what a run leaves lying about, gone with the run, or, where that was killed, at the next one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

RUN = "DILIB_RUN"  # the folder of the run that this process belongs to
MADE, READ = "made-cells", "read-cells"  # in it: the cells that the run's processes made, by name, and read, by path
_reading = ContextVar("reading", default=True)


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


def note(what: str, cell: str) -> None:
    """Note, where this process belongs to a run, that it MADE or READ a cell."""
    if (what == MADE or _reading.get()) and (folder := os.environ.get(RUN)):
        with suppress(OSError), open(Path(folder) / what, "a", encoding="utf-8") as file:
            file.write(f"{cell}\n")  # a cell is worth more than its being counted


@contextmanager
def making() -> Iterator[None]:
    """Meanwhile no cell counts as read: what another one takes from it is no matter of who asked for that."""
    before = _reading.set(False)
    try:
        yield
    finally:
        _reading.reset(before)


def noted(folder: Path, what: str) -> list[str]:
    """The cells that the run with this folder has MADE, or READ, so far, in the order of its notes."""
    path = folder / what
    return path.read_text("utf-8").splitlines() if path.exists() else []
