"""A call's folder: what was asked for and decided stands in it, so that the same call goes on where it was stopped."""

import json
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from dilib.artifacts import read_json, write_atomically

CARD = "run.json"
OTHERS = {  # which go by digests
    "teacher": "another teacher",
    "student": "another student",
    "images": "other images",
    "plan": "settings of another version of dilib",
}


def place(folder: Path | str) -> Path:
    """The folder as a path. Raises ValueError for what is none."""
    try:
        return Path(folder)
    except TypeError as error:
        raise ValueError(f"the folder is {folder!r}; give a path") from error


def asked(folder: Path) -> dict:
    """What was asked for in a folder. Raises ValueError where no call wrote it."""
    if not (folder / CARD).exists():
        raise ValueError(f"{folder} holds no run; give a folder that a call wrote")
    return read_json(folder / CARD).get("asked", {})


def begun(folder: Path, asked: dict, decide: Callable[[], dict]) -> dict:
    """What was decided when this was first asked for in the folder, or is now.

    Raises ValueError where the folder is that of something else.
    """
    path = folder / CARD
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{CARD}.lock"):  # other processes may want to fill the folder, too
        if not path.exists():
            card = {"asked": asked, "decided": decide()}
            write_atomically(path, (json.dumps(card, indent=1, default=int) + "\n").encode())  # numpy's numbers, too
    card = read_json(path)
    before = card.get("asked", {})
    for name in asked:
        if before.get(name) != asked[name]:
            other = OTHERS.get(name, f"{name} {before.get(name)}, not {asked[name]}")
            raise ValueError(f"{folder} holds a run with {other}; choose another folder")
    return card["decided"]
