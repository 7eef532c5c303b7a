"""Every committed cell is one that the notebooks still ask for: by its name, with its settings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from every_cell import every_cell

from dilib.artifacts import plain
from dilib.study.cells import Study

RESULTS = Path(__file__).parent.parent / "results"


@pytest.mark.parametrize(
    ("dataset", "place"),
    [("fashion_mnist", "fashion_mnist"), ("imagenet", "imagenet"), ("cifar10", "folder-cifar10-jpeg")],
)
def test_committed_cells_are_read_and_not_made_again(tmp_path, dataset, place):
    study = Study.open("laptop", dataset, tmp_path / "results", tmp_path / "artifacts")
    study = replace(study, place=Path("laptop") / place)  # as a folder of that name has it
    added = ("folder:flowers90",) if dataset == "imagenet" else ()
    asked = [(cell.name, plain({"dataset": place, **cell.settings})) for cell in every_cell(study, added)]
    committed = [json.loads(path.read_text()) for path in (RESULTS / "laptop" / place).glob("cells/*.json")]
    assert len(committed) >= 10
    assert not sorted({cell["name"] for cell in committed if (cell["name"], cell["settings"]) not in asked})
