import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dilib import data, distillation, networks
from dilib.classifier import Classifier, Preprocessing
from dilib.distillation import (
    DistillationSettings,
    PoolSettings,
    StreamSettings,
    distill,
    distill_on_pool,
    scaled_distillation,
)
from dilib.evaluation import accuracy, glimpse
from dilib.feature_statistics import FeatureStatistics
from dilib.pool import Batch
from dilib.rounds import Run
from dilib.training import TrainingSettings, augment, muon, train

SETTINGS = DistillationSettings(rounds=6, updates=25, batch_size=100, shift=1, flip=False)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def test_split(digits):
    return digits.preprocessing.normalise(digits.test.pixels), digits.test.labels


@pytest.fixture(scope="module")
def images(digits):
    return digits.preprocessing.normalise(digits.train.pixels)


@pytest.fixture(scope="module")
def digit_teacher(digits):
    torch.manual_seed(0)
    network = networks.create("vgg11_bn", classes=10, channels=1, width=1 / 8)
    teacher = Classifier(network, digits.preprocessing)
    train(teacher, digits.train, TrainingSettings(epochs=6, batch_size=100, flip=False))
    return teacher


def new_student():
    torch.manual_seed(1)
    return networks.create("vgg11_bn", classes=10, channels=1, width=1 / 8)


def test_a_student_learns_from_the_teacher_alone(images, test_split, digit_teacher):
    """Labels are never shown to it: they are wrong on purpose. Images are real, so it must come close."""
    asked, student = [], new_student()

    def fresh_batch(index):
        asked.append(index)
        return Batch(images[index * 250 : (index + 1) * 250], torch.zeros(250, dtype=torch.long))

    history = distill(digit_teacher, student, fresh_batch, test_split, SETTINGS)
    assert asked == list(range(6))
    recorded = ("teacher_on_fresh", "student_on_fresh", "student_on_test", "seconds")
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(recorded, 6)
    assert history["student_on_test"][-1] == accuracy(digit_teacher.with_network(student), *test_split)
    assert accuracy(digit_teacher, *test_split) > 90
    assert history["student_on_test"][-1] > 75


def test_a_student_s_filters_are_orthogonalised_in_its_precision(images, digit_teacher, monkeypatch):
    asked = []
    monkeypatch.setattr(distillation, "muon", lambda *given: asked.append(given[-1]) or muon(*given))
    settings = StreamSettings(rounds=1, updates=1, batches=1, batch_size=10, shift=1)
    batch = Batch(images[:10], torch.zeros(10, dtype=torch.long))
    teacher = replace(digit_teacher, precision=torch.bfloat16)
    distill(teacher, copy.deepcopy(digit_teacher.network), lambda index: batch, None, settings)
    assert asked == [torch.bfloat16]


def test_a_batch_counts_with_the_seconds_of_its_making_whoever_made_it(images, test_split, digit_teacher):
    brief = replace(SETTINGS, rounds=2, updates=1)
    batch = Batch(images[:50], torch.zeros(50, dtype=torch.long), seconds=1000.0)
    seconds = distill(digit_teacher, new_student(), lambda index: batch, test_split, brief)["seconds"]
    assert all(1000 < each < 1100 for each in seconds)


def test_a_glimpse_of_images_in_order_of_class_has_all_classes_alike():
    images, labels = torch.arange(100.0), torch.arange(100) // 10
    seen, named = glimpse((images, labels))
    assert torch.equal(labels[seen.long()], named)
    assert named.bincount().tolist() == [2] * 10


def test_stopping_after_any_round_changes_nothing(digits, images, test_split, digit_teacher, tmp_path):
    short = replace(SETTINGS, rounds=3, updates=5)

    def taught(stop_after):
        student, checkpoint = new_student(), tmp_path / f"{stop_after}.safetensors"
        run = Run(checkpoint=checkpoint, card={"run": 1})

        def fresh_batch(index):
            if index == stop_after and not checkpoint.with_suffix(".stopped").exists():
                checkpoint.with_suffix(".stopped").touch()
                raise InterruptedError
            chosen = slice(index * 250, (index + 1) * 250)
            return Batch(images[chosen], digits.train.labels[chosen])

        try:
            distill(digit_teacher, student, fresh_batch, test_split, short, run)
        except InterruptedError:
            student = new_student()
            distill(digit_teacher, student, fresh_batch, test_split, short, run)
        return torch.cat([value.flatten().double() for value in student.state_dict().values()])

    undisturbed = taught(None)
    assert torch.equal(taught(1), undisturbed)
    assert torch.equal(taught(2), undisturbed)


def test_learning_rate_falls_as_asked():
    paper = DistillationSettings(rounds=250, updates=195)
    by_epoch = {0: 0.1, 99: 0.1, 100: 0.01, 199: 0.01, 200: 0.001, 249: 0.001}
    assert {epoch: paper.lr * paper.lr_factor(195 * epoch) for epoch in by_epoch} == pytest.approx(by_epoch)
    linear = replace(SETTINGS, rounds=10, updates=10, decay="linear")
    assert [linear.lr_factor(update) for update in (0, 5, 10, 55, 100)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    with pytest.raises(ValueError, match="decay 'cosine' is unknown; choose step or linear"):
        replace(SETTINGS, decay="cosine")


def test_gradients_keep_their_size_at_any_temperature():
    teacher, student = torch.randn(2, 64, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sizes = []
    for temperature in (20.0, 40.0):
        logits = student.clone().requires_grad_()
        scaled_distillation(teacher, logits, temperature).backward()
        sizes.append(logits.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_augmentation_moves_and_flips_whole_images():
    images = torch.randn(200, 3, 8, 8)
    assert torch.equal(augment(images, 0, False, torch.Generator()), images)
    moved = augment(images, 2, False, torch.Generator().manual_seed(0))
    interiors = {(dy, dx): images[:, :, 2 + dy : 6 + dy, 2 + dx : 6 + dx] for dy in range(-2, 3) for dx in range(-2, 3)}
    seen = [
        next((k for k, v in interiors.items() if torch.equal(moved[i, :, 2:6, 2:6], v[i])), None) for i in range(200)
    ]
    assert None not in seen
    assert len(set(seen)) == 25
    flipped = augment(images, 0, True, torch.Generator().manual_seed(0))
    as_is = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (as_is ^ mirrored).all()
    assert 70 < as_is.sum() < 130


def test_training_that_diverges_says_so(digits):
    network = Classifier(new_student(), digits.preprocessing)
    with pytest.raises(FloatingPointError, match=r"^training: loss .* in round 1; lower the learning rate$"):
        train(network, digits.train, TrainingSettings(epochs=1, batch_size=100, lr=1e30))


def test_a_single_image_that_is_left_over_is_no_batch():
    """BatchNorm over (N, C) takes none of one: of 33 fresh images by 16 the last waits in the pool."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    teacher, images = Classifier(body.eval(), Preprocessing((0.5,) * 3, (0.25,) * 3, 8)), torch.randn(33, 3, 8, 8)
    labels, how = torch.zeros(33, dtype=torch.long), replace(SETTINGS, rounds=2, updates=4, batch_size=16)
    history = distill(teacher, copy.deepcopy(body), lambda index: Batch(images, labels), (images, labels), how)
    assert len(history["student_on_test"]) == 2


def test_a_student_with_another_number_of_classes_is_refused(images, test_split, digit_teacher):
    student = networks.create("vgg11_bn", classes=7, channels=1, width=1 / 8)
    with pytest.raises(ValueError, match="the student has 7 outputs and the teacher 10; give one with as many"):
        distill(digit_teacher, student, lambda index: None, test_split, SETTINGS)


def test_dropout_in_a_student_is_the_same_whoever_draws_numbers_meanwhile(images, test_split, digit_teacher):
    def taught():
        student = nn.Sequential(new_student(), nn.Dropout(0.3))
        batch = Batch(images[:100], torch.zeros(100, dtype=torch.long))
        distill(digit_teacher, student, lambda index: batch, test_split, replace(SETTINGS, rounds=2, updates=2))
        return student.state_dict()

    first = taught()
    torch.rand(7)
    assert all(torch.equal(value, first[name]) for name, value in taught().items())


def test_batchnorm_can_keep_its_statistics(digits, digit_teacher):
    for keep in (True, False):
        student = copy.deepcopy(digit_teacher.network)
        stored = FeatureStatistics.from_batchnorm(student)
        how = PoolSettings(rounds=1, updates=2, batch_size=8, lr=0.1, flip=False)
        distill_on_pool(digit_teacher, student, digits.train.pixels[:16], None, how, keep_statistics=keep)
        reached = FeatureStatistics.from_batchnorm(student)
        assert all(torch.equal(reached.means[layer], mean) == keep for layer, mean in stored.means.items())
        assert not torch.equal(student[2].weight, digit_teacher.network[2].weight), "it is taught all the same"
