"""Pruning as cells: what is equal between sources, what survives, and how features are compared."""

from types import SimpleNamespace

import pytest
import torch

from dilib import data
from dilib.classifier import Classifier
from dilib.compression.pruning import Target, gflops
from dilib.data import Split
from dilib.evaluation import accuracy_by_class, coverage, penultimate_features
from dilib.experiments import figure7_coverage, pruned_networks, table4_pruning
from dilib.experiments.pruned_networks import Pruning
from dilib.study.cells import Study


@pytest.fixture
def study(tmp_path):
    return Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")


def test_a_pruned_network_is_ranked_once_and_tuned_for_every_source(study, monkeypatch):
    (pruning,) = table4_pruning.table4(study)
    found = study.result(pruned_networks.pruned_cell(study, pruning))["metrics"]
    assert 75 < found["filters"] <= 80
    assert found["gflops"] < found["gflops_before"]
    assert found["stopped"] == ""
    monkeypatch.setattr(pruned_networks, "prune", lambda *_, **__: pytest.fail("ranked again"))
    dreams, adaptive = (
        study.result(table4_pruning.tuned_cell(study, pruning, source)) for source in table4_pruning.DATA_FREE
    )
    assert adaptive["metrics"]["images"] == dreams["metrics"]["images"] + 2 * study.scale.compression.adaptive
    assert len(adaptive["metrics"]["history"]) == len(dreams["metrics"]["history"])  # equal budgets


def test_adaptive_images_differ_from_plain_ones_and_from_another_round(study):
    (pruning,) = table4_pruning.table4(study)
    plain, first, second = (pool.pixels for pool in table4_pruning.adaptive_pools(study, pruning, 0))
    size = study.scale.compression.adaptive
    assert len(first) == len(second) == size
    assert not any(torch.equal(*pair) for pair in ((plain[:size], first), (first, second)))
    again = (pool.pixels for pool in table4_pruning.adaptive_pools(study, pruning, 0))
    assert all(torch.equal(*pair) for pair in zip(again, (plain, first, second), strict=True))


def test_a_latency_budget_is_met_by_the_table(study):
    pruning = Pruning("latency", 0.95, "real", hardware_aware=True)
    operators, table, whole = pruned_networks.lookup(study)
    kept, stopped = pruned_networks.kept_filters(study, pruning, 0)
    left = {group: int(stays.sum()) for group, stays in kept.items()}
    if stopped:  # on a machine where even the smallest network takes longer
        assert set(left.values()) == {1}
    else:
        assert table.milliseconds(operators, left) <= 0.95 * whole


def test_multiply_adds_by_hand(teacher):
    # VGG-11-BN at width 1/16: 32×32, 16×16, 8×8 twice, 4×4 twice, 2×2 twice; then 32 × 4.
    convolutions = ((3, 4, 32), (4, 8, 16), (8, 16, 8), (16, 16, 8), (16, 32, 4), (32, 32, 4), (32, 32, 2), (32, 32, 2))
    expected = sum(9 * inputs * outputs * size**2 for inputs, outputs, size in convolutions) + 32 * 4
    assert gflops(teacher) == pytest.approx(expected / 1e9)


def test_coverage_by_hand():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    # Distances to the nearest other: 1, 1, 1 and 8.
    assert coverage(real, torch.tensor([[2.5]]), neighbours=1) == 50  # within reach of 2 and of 10
    assert coverage(real, torch.tensor([[0.5], [50.0]]), neighbours=1) == 50  # of 0 and of 1
    assert coverage(real, real, neighbours=1) == 100


def test_accuracy_by_class_by_hand(preprocessing):
    logits = torch.eye(3)[[0, 0, 1, 2, 1, 1]]  # what is said of six images, which are their own logits
    labels = torch.tensor([0, 1, 1, 2, 1, 1])
    says_what_it_sees = Classifier(torch.nn.Flatten(), preprocessing)
    found = accuracy_by_class(says_what_it_sees, logits[:, :, None, None], labels)
    assert found == pytest.approx([100.0, 75.0, 100.0])


def test_features_are_what_the_last_layer_reads(teacher, preprocessing):
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    features, network = penultimate_features(teacher, pixels), teacher.network
    torch.testing.assert_close(network[-1](features), network(preprocessing.normalise(pixels)), rtol=1e-4, atol=1e-5)


def test_bad_input_is_refused_in_one_line(study):
    with pytest.raises(ValueError, match="unknown image source 'none'; choose from real, proxy, gan, deepinversion"):
        table4_pruning.tuned_cell(study, table4_pruning.table4(study)[0], "none")
    with pytest.raises(ValueError, match=r"a share of 1\.5 filters can't be removed; choose one between 0 and 1"):
        Target("filters", 1.5)


@pytest.mark.parametrize("free", [True, False])
def test_neighbours_are_sought_among_all_training_images(monkeypatch, free):
    """Features are pixels here; each image made is a training image made a little brighter, each test image much."""
    real = torch.randint(0, 200, (30, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split, test = Split(real, torch.arange(30) % 10), Split(real + 8, torch.arange(30) % 10)
    classes = tuple(str(label) for label in range(10))
    study = SimpleNamespace(dataset="digits", data=SimpleNamespace(train=split, test=test, classes=classes))
    rounds = {name: real.roll(-step, 0) + 1 for step, name in enumerate(figure7_coverage.ROUNDS)}
    monkeypatch.setattr(figure7_coverage, "_rounds", lambda *_: (rounds, real[:1].repeat(90, 1, 1, 1)))
    monkeypatch.setattr(figure7_coverage, "penultimate_features", lambda _, pixels: pixels.flatten(1).float())
    monkeypatch.setattr(figure7_coverage, "whole_network", lambda *_: SimpleNamespace(load=lambda: None))
    monkeypatch.setattr(figure7_coverage, "AT_ONCE", 7)
    if not free:
        monkeypatch.setattr(data, "FREE", ())
    found = figure7_coverage._metrics(study, 0)
    assert found["nearest_classes"]["DeepInversion"] == [str(label) for label in range(10)]
    assert found["nearest_classes"]["ADI round 2"] == [str((label + 2) % 10) for label in range(10)]
    assert found["nearest"]["features"]["ADI round 1"] == pytest.approx([4.0] * 30)  # sixteen pixels brighter by one
    assert found["nearest"]["pixels"]["ADI round 1"] == pytest.approx([1.0] * 30)
    assert found["nearest"]["pixels"]["test"] == pytest.approx([8.0] * 30)
    for space in figure7_coverage.SPACES:
        assert found[space]["ADI round 1"] == pytest.approx({"near": 100.0, "farther": 1 / 8})
    assert found["coverage"]["DeepInversion"] == 100
    assert found["coverage_of_plain"]["ADI round 2"] < 100  # ninety times the same image
    shown = dict(zip(figure7_coverage.rows(study), found["samples"].split(10), strict=True))
    assert torch.equal(shown["DeepInversion"], rounds["DeepInversion"][:10])
    assert shown.keys() >= {"DeepInversion", "ADI round 2"}
    assert len(found["samples"]) == (40 if free else 20)
    if free:
        assert torch.equal(shown["nearest to ADI round 2"], real[2:12])
