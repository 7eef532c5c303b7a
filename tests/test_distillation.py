from dataclasses import replace

import pytest
import torch

from dilib import data, models
from dilib.distillation import RECORDED, DistillationSettings, distill, scaled_distillation
from dilib.evaluation import accuracy, glimpse
from dilib.training import TrainingSettings, augment, train

SETTINGS = DistillationSettings(rounds=6, updates=25, batch_size=100, shift=1, flip=False)


@pytest.fixture(scope="module")
def digits():
    loaded = data.load("digits")
    normalise = loaded.preprocessing.normalise
    train_split = normalise(loaded.train.pixels), loaded.train.labels
    return train_split, (normalise(loaded.test.pixels), loaded.test.labels)


@pytest.fixture(scope="module")
def digit_teacher(digits):
    torch.manual_seed(0)
    network = models.create("vgg11_bn", classes=10, channels=1, width=1 / 8)
    train(network, *digits[0], TrainingSettings(epochs=6, batch_size=100, flip=False))
    return network


def new_student():
    torch.manual_seed(1)
    return models.create("vgg11_bn", classes=10, channels=1, width=1 / 8)


def test_a_student_learns_from_the_teacher_alone(digits, digit_teacher):
    """Labels are never shown to it: they are wrong on purpose. Images are real, so it must come close."""
    (images, _), test = digits
    asked, student = [], new_student()

    def fresh_batch(index, rival):
        assert rival is student
        asked.append(index)
        return images[index * 250 : (index + 1) * 250], torch.zeros(250, dtype=torch.long)

    history = distill(digit_teacher, student, fresh_batch, test, SETTINGS)
    assert asked == list(range(6))
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(RECORDED, 6)
    assert history["student_on_test"][-1] == accuracy(student, *test)
    assert accuracy(digit_teacher, *test) > 90
    assert accuracy(student, *test) > 75


def test_a_glimpse_of_images_in_order_of_class_has_all_classes_alike():
    images, labels = torch.arange(100.0), torch.arange(100) // 10
    seen, named = glimpse((images, labels))
    assert torch.equal(labels[seen.long()], named)
    assert named.bincount().tolist() == [2] * 10


def test_stopping_after_any_round_changes_nothing(digits, digit_teacher, tmp_path):
    (images, labels), test = digits
    short = replace(SETTINGS, rounds=3, updates=5)

    def taught(stop_after):
        student, checkpoint = new_student(), tmp_path / f"{stop_after}.safetensors"

        def fresh_batch(index, _):
            if index == stop_after and not checkpoint.with_suffix(".stopped").exists():
                checkpoint.with_suffix(".stopped").touch()
                raise InterruptedError
            return images[index * 250 : (index + 1) * 250], labels[index * 250 : (index + 1) * 250]

        try:
            distill(digit_teacher, student, fresh_batch, test, short, checkpoint=checkpoint, card={"run": 1})
        except InterruptedError:
            student = new_student()
            distill(digit_teacher, student, fresh_batch, test, short, checkpoint=checkpoint, card={"run": 1})
        return torch.cat([value.flatten().double() for value in student.state_dict().values()])

    undisturbed = taught(None)
    assert torch.equal(taught(1), undisturbed)
    assert torch.equal(taught(2), undisturbed)


def test_learning_rate_falls_as_asked():
    paper = DistillationSettings(rounds=250, updates=195)
    by_epoch = {0: 0.1, 99: 0.1, 100: 0.01, 199: 0.01, 200: 0.001, 249: 0.001}
    assert {epoch: paper.lr_at(195 * epoch) for epoch in by_epoch} == pytest.approx(by_epoch)
    linear = replace(SETTINGS, rounds=10, updates=10, decay="linear")
    assert [linear.lr_at(update) for update in (0, 5, 10, 55, 100)] == pytest.approx([0, 0.05, 0.1, 0.05, 0])
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
    (images, labels), _ = digits
    with pytest.raises(FloatingPointError, match=r"training loss .* in epoch 1; lower lr \(1e\+30\)"):
        train(new_student(), images[:300], labels[:300], TrainingSettings(epochs=1, batch_size=100, lr=1e30))
