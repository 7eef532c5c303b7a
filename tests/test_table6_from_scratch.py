"""Teaching on a fixed set of images, and where such sets come from."""

from dataclasses import replace

import pytest
import torch

from dilib import data, networks
from dilib.classifier import Classifier, Preprocessing
from dilib.commands import from_scratch
from dilib.distillation import PoolSettings, _drawn, distill_on_pool
from dilib.experiments import image_sources
from dilib.rounds import Run
from dilib.study.cells import Study
from dilib.training import TrainingSettings, train

SETTINGS = PoolSettings(rounds=4, updates=20, batch_size=50, shift=1, flip=False)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def digit_teacher(digits):
    torch.manual_seed(0)
    teacher = Classifier(networks.create("vgg11_bn", classes=10, channels=1, width=1 / 8), digits.preprocessing)
    train(teacher, digits.train, TrainingSettings(epochs=6, batch_size=100, flip=False))
    return teacher


def taught(digits, teacher, settings=SETTINGS, run=Run()):
    torch.manual_seed(1)
    student = networks.create("vgg11_bn", classes=10, channels=1, width=1 / 8)
    return student, distill_on_pool(teacher, student, digits.train.pixels[:1000], digits.test, settings, run)


def test_a_student_learns_from_a_fixed_set_without_labels(digits, digit_teacher):
    _, history = taught(digits, digit_teacher)
    assert len(history["student_on_test"]) == len(history["seconds"]) == 4
    assert history["student_on_test"][-1] > 75


def test_stopping_after_a_round_changes_nothing(digits, digit_teacher, tmp_path):
    settings = replace(SETTINGS, rounds=2, updates=4, mixup=1.0)

    def stop(done):
        if done == 1:
            raise InterruptedError

    undisturbed, _ = taught(digits, digit_teacher, settings)
    run = Run(checkpoint=tmp_path / "student.safetensors", card={"run": 1})
    with pytest.raises(InterruptedError):
        taught(digits, digit_teacher, settings, replace(run, on_round=stop))
    resumed, history = taught(digits, digit_teacher, settings, run)
    assert len(history["student_on_test"]) == 2
    for ours, theirs in zip(resumed.state_dict().values(), undisturbed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_mixup_mixes_whole_batches_in_one_proportion():
    """Images of 0 and of 255 alone: what lies between tells the proportion."""
    pool = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 32, 32)
    plain = Preprocessing((0.0,), (1.0,), 32)
    seen = set()
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        images = _drawn(pool, plain, replace(SETTINGS, mixup=1.0), random)
        values = images.flatten(1)
        assert torch.equal(values.min(1).values, values.max(1).values)
        between = sorted({round(value, 4) for value in values[:, 0].tolist()} - {0.0, 1.0})
        assert len(between) == 2
        assert sum(between) == pytest.approx(1, abs=1e-3)
        seen.add(between[0])
    assert len(seen) == 20


def test_a_proxy_gets_the_channels_of_the_study():
    red_green_blue = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8).view(3, 3, 1, 1)
    grey = data.in_channels(red_green_blue, 1)
    assert grey.flatten().tolist() == [76, 150, 29]
    assert torch.equal(data.in_channels(grey, 3)[:, 2:], grey)
    assert data.in_channels(grey, 1) is grey


def test_photographs_are_crops_of_two(tmp_path, digits):
    photographs = data.load("photographs", tmp_path)
    assert photographs.train.pixels.shape == (10_000, 3, 32, 32)
    assert photographs.classes == ("china", "flower")
    assert len(photographs.train.pixels[:100].unique(dim=0)) == 100


def test_bad_input_is_one_line(tmp_path, capsys):
    study = Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    with pytest.raises(ValueError, match="2000 images are asked for, but the data set has 1500; ask for fewer"):
        image_sources.chosen(study.data.train, 2000, 0)
    assert len(image_sources.images(study, "real", "vgg11_bn", 2000, 0).labels) == 1500, "all that there are"
    places = ["--scale", "smoke", "--results", str(tmp_path / "results"), "--artifacts", str(tmp_path / "artifacts")]
    for wrong, message in (
        (["--source", "dreams"], "unknown image source 'dreams'; choose from real, proxy, gan, deepinversion"),
        (["--schedule", "medium"], "unknown schedule 'medium'; choose from short, long"),
    ):
        assert from_scratch.main([*places, *wrong]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert len(printed.splitlines()) == 1
    assert not list((tmp_path / "results").glob("**/*.json"))
