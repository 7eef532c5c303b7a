"""Imports go one way: method ← baselines, compression, continual ← calls, study ← experiments ← commands."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "dilib"
ROOMS = (("",), ("baselines", "compression", "continual"), ("calls", "study"), ("experiments",), ("commands",))
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}


def room_of(module):
    """The room of dilib.ROOM.…; "" for the method's own modules."""
    _, *parts = module.split(".")
    return parts[0] if parts and parts[0] in FLOOR else ""


def imported(path):
    """All modules of dilib that a file imports, by their full names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dilib":
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "dilib")


def test_every_folder_is_a_room():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(FLOOR) - {""}


def test_no_room_imports_from_one_above_it_or_beside_it():
    upwards = []
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE)
        room = relative.parts[0] if len(relative.parts) > 1 else ""
        for module in imported(path):
            other = room_of(module)
            if other != room and FLOOR[other] >= FLOOR[room]:
                upwards.append(f"{relative} imports {module}")
    assert not upwards
