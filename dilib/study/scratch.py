"""A folder for what a run leaves lying about, gone with the run, or, where that was killed, at the next one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dilib.artifacts import digest

RUN = "DILIB_RUN"  # the folder of the run that this process belongs to
MADE, READ = "made", "read"  # in it: the cells that the run's processes made, and the files of results that they read
MAKING = "DILIB_MAKING"  # set while a cell is made


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
    _note(MADE, cell)


def note_read(path: Path, content) -> None:
    """Note, where this process belongs to a run, that it read a file of results, a JSON value."""
    if MAKING not in os.environ:
        _note(READ, f"{path.resolve()} {digest(content)}")


def _note(what: str, line: str) -> None:
    if folder := os.environ.get(RUN):
        with suppress(OSError), open(Path(folder) / what, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")  # a cell is worth more than its being counted


@contextmanager
def making() -> Iterator[None]:
    """Meanwhile reading is not noted: a later run finds the cell made, and does not read what went into it."""
    before = os.environ.get(MAKING)
    os.environ[MAKING] = "1"  # which processes that are started meanwhile inherit
    try:
        yield
    finally:
        if before is None:
            del os.environ[MAKING]


def noted(folder: Path, what: str) -> list[str]:
    """What the run with this folder has MADE, or READ, so far, in the order of its notes."""
    path = folder / what
    return path.read_text("utf-8").splitlines() if path.exists() else []
