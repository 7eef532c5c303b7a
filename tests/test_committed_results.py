"""Every committed cell is one that the notebooks still ask for: by its name, with its settings."""

import json
from pathlib import Path

import pytest

from dilib import data
from dilib.artifacts import plain
from dilib.experiments import catalogue, imagenet, own_network, own_network_224
from dilib.study.cells import Study

RESULTS = Path(__file__).parent.parent / "results"


FLOWERS = "119b633898a7"  # the digest of the flowers that were added to ImageNet's classes, which are not here


@pytest.mark.parametrize("dataset", ["fashion_mnist", "cifar10", "imagenet"])
def test_committed_cells_are_read_and_not_made_again(tmp_path, monkeypatch, dataset):
    study = Study.open("laptop", dataset, tmp_path / "results", tmp_path / "artifacts")
    monkeypatch.setattr(data, "files_digest", lambda name, folder: FLOWERS if name.startswith("folder:") else "")
    added = ("folder:flowers90",) if dataset == "imagenet" else ()
    every = [cell for name in catalogue.CELLS for cell in catalogue.cells(study, name, added=added)]
    if dataset == "imagenet":  # of images that are not here
        every += [imagenet.real_cell(study), own_network_224.compressed_cell(study)]
    if dataset == "cifar10":  # by weights that are not here
        every += [own_network.distilled_cell(study, tried) for tried in study.scale.own_networks]
    asked = [(cell.name, plain({"dataset": dataset, **cell.settings})) for cell in every]
    committed = [json.loads(path.read_text()) for path in (RESULTS / "laptop" / dataset).glob("cells/*.json")]
    assert len(committed) >= 10
    assert not sorted({cell["name"] for cell in committed if (cell["name"], cell["settings"]) not in asked})
