import pytest
import torch
from torch import nn

from dilib.experiments import figure2_competition as figure2
from dilib.experiments.figure2_competition import ToyRun, arms, fit, logits_at, network

SEEDS = (0, 1, 2)


def share_right(model, points, labels):
    return (logits_at(model, points).argmax(1) == labels).float().mean().item()


def test_arms_are_balanced_and_within_radius_two():
    points, labels = arms(300, seed=0)
    assert labels.bincount().tolist() == [100, 100, 100]
    radius = points.norm(dim=1)
    assert 0.44 < radius.min() < 0.6 and 1.9 < radius.max() < 2 + 1e-6  # 2 √0.05 = 0.447
    assert torch.equal(points, arms(300, seed=0)[0])
    assert not torch.equal(points, arms(300, seed=1)[0])


def test_arms_are_one_shape_turned_by_a_third():
    """A third of a turn takes each arm onto the next: their mean directions are 120° apart."""
    points, labels = arms(6000, seed=0)
    means = torch.stack([points[labels == label].mean(0) for label in range(3)])
    angles = torch.atan2(means[:, 1], means[:, 0]).rad2deg()
    assert ((angles.roll(-1) - angles) % 360).tolist() == pytest.approx([120] * 3, abs=3)


def test_a_network_learns_the_arms_from_labels_and_from_a_teacher():
    fresh = arms(900, seed=1)
    assert share_right(network(0).eval(), *fresh) < 0.8
    teacher = fit(network(0), *arms(900, seed=0), steps=100, seed=0)
    assert not teacher.training
    assert share_right(teacher, *fresh) > 0.9
    points, _ = arms(900, seed=2)
    student = fit(network(1), points, logits_at(teacher, points), steps=100, seed=0)
    assert share_right(student, *fresh) > 0.9


class Says(nn.Module):
    """Names the points it is given as it was told to, whatever they are."""

    def __init__(self, *labels):
        super().__init__()
        self.labels = torch.tensor(labels)

    def forward(self, images):
        return nn.functional.one_hot(self.labels, figure2.CLASSES).float()


def test_distances_and_shares_by_hand():
    nothing = (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    real = (torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([0, 1]))
    run = ToyRun(Says(0, 1, 2, 0), Says(0, 0, 0, 1), real, nothing, nothing, nothing)
    points = torch.tensor([[0.0, 1.0], [3.0, 0.0], [3.0, 4.5], [6.0, 8.0]])
    assert figure2.distance_to_real(run, points) == pytest.approx((1 + 3 + 0.5 + 5) / 4)
    # Wanted 0, 1, 0, 2: the teacher is right twice, and of these two the student misses the second alone.
    assert figure2.teacher_right_student_wrong(run, points, torch.tensor([0, 1, 0, 2])) == 25


@pytest.fixture(scope="module")
def runs():
    return [figure2.compete(seed) for seed in SEEDS]


def test_the_same_seed_makes_the_same_points(runs):
    torch.rand(7)  # the global generator is somewhere else by now
    again = figure2.compete(SEEDS[-1])
    for name in ("first", "plain", "adaptive"):
        for here, there in zip(getattr(again, name), getattr(runs[-1], name), strict=True):
            assert torch.equal(here, there)
    assert not torch.equal(runs[0].plain[0], runs[1].plain[0])


def test_competition_finds_what_the_student_does_not_know(runs):
    def mean_share(method):
        return sum(figure2.teacher_right_student_wrong(run, *getattr(run, method)) for run in runs) / len(runs)

    assert mean_share("adaptive") > 1.2 * mean_share("plain")
    for run in runs:
        assert torch.equal(run.plain[1], run.adaptive[1]), "both are asked for the same labels"
        assert run.adaptive[1].bincount().tolist() == [30, 30, 30]
