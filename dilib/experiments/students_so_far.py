"""Table 1's students of those studies whose notebook has not drawn the table yet."""

from pathlib import Path

import pandas as pd

from dilib import networks
from dilib.artifacts import digest
from dilib.experiments.table1_transfer import METHODS
from dilib.study.cells import read_cell
from dilib.study.overview import CI
from dilib.study.scales import SCALES

KEYS = ["study", "teacher to student", "method", "device", "precision"]


def table(results: Path) -> pd.DataFrame:
    """A row for each study, pair and method in a folder of results: means over the seeds that there are."""
    scales = [name for name in SCALES if name != CI]
    cells = [path for scale in scales for path in sorted(results.glob(f"{scale}/*/cells/transfer--*.json"))]
    drawn = {folder for folder in {path.parents[1] for path in cells} if (folder / "table1.csv").exists()}
    rows = [_row(path) for path in cells if path.parents[1] not in drawn]
    if not rows:
        return pd.DataFrame()
    groups = pd.DataFrame(rows).groupby([*KEYS, "settings"], sort=False)
    means = groups[["teacher", "student", "below", "images", "minutes"]].mean()
    found = means.join(groups["student"].agg(seeds="count", deviation="std"))
    return found.reset_index().drop(columns="settings")


def _row(path: Path) -> dict:
    cell = read_cell(path)
    _, teacher, student, method = cell["name"].split("--")
    measured = cell["metrics"]
    return {
        "study": f"{cell.get('title', path.parents[1].name)}, {path.parents[2].name}",
        "teacher to student": f"{networks.title(teacher)} to {networks.title(student)}",
        "method": METHODS[method],
        "device": cell["device"],
        "precision": cell.get("precision", ""),
        "settings": digest(cell["settings"]),
        "teacher": measured["teacher_top1"],
        "student": measured["top1"],
        "below": measured["teacher_top1"] - measured["top1"],
        "images": measured.get("images"),
        "minutes": cell["seconds"] / 60,
    }
