"""Batches that begin where earlier ones led: the shared start, its pool, and a student that is taught on many."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from dilib import amortised, networks
from dilib.amortised import AmortisedSettings
from dilib.classifier import Classifier, Preprocessing
from dilib.distillation import StreamSettings, distill
from dilib.inversion import Objective, Schedule, balanced_labels, invert
from dilib.parameterisation import Generated
from dilib.pool import Batch, ImagePool
from dilib.recipe import Recipe
from dilib.study.workers import side_by_side
from dilib.timing import threads

SETTINGS = AmortisedSettings(latents=8, width=8)
OBJECTIVE = Objective(alpha_tv=0.0, alpha_l2=0.0, alpha_f=1.0).deepinversion()
SCHEDULE = Schedule(((32, 3),), lr=2e-3, jitter=1)


@pytest.fixture
def recipe(teacher):
    return Recipe(teacher, (0, 1, 2, 3), 8, OBJECTIVE, (SCHEDULE,), seed=2, shuffled=True, shared_start=SETTINGS)


def test_the_start_moves_its_step_of_the_way_to_where_a_batch_ended(teacher):
    labels, start = balanced_labels(8, 4, seed=0), amortised.first_start(teacher, SETTINGS, seed=0)
    ended = {
        step: amortised.batch(teacher, labels, OBJECTIVE, SCHEDULE, replace(SETTINGS, step=step), start)[1]
        for step in (0.0, 0.5, 1.0)
    }
    weight = "body.2.weight"
    assert torch.equal(ended[0.0][weight], start[weight])
    assert (ended[1.0][weight] - start[weight]).abs().max() == pytest.approx(3 * SCHEDULE.lr, rel=0.5), "Adam's steps"
    torch.testing.assert_close(ended[0.5][weight], (start[weight] + ended[1.0][weight]) / 2)


@pytest.mark.parametrize(("step", "learns"), [(0.5, True), (0.0, False)])
def test_a_batch_begins_better_than_those_before_it_if_and_only_if_the_start_is_shared(teacher, step, learns):
    settings, first_losses = replace(SETTINGS, step=step), []
    start = amortised.first_start(teacher, settings, seed=0)
    for index in range(20):
        labels = balanced_labels(32, 4, seed=index)
        made, start = amortised.batch(teacher, labels, OBJECTIVE, SCHEDULE, settings, start, seed=index)
        first_losses.append(made.history[0].sum().item())
    early, late = sum(first_losses[:3]) / 3, sum(first_losses[-3:]) / 3
    assert (late < 0.8 * early) == learns
    assert made.images.shape == (32, 3, 32, 32)
    assert torch.equal(made.labels, labels)


def test_the_generator_s_gradient_is_that_of_the_loss(teacher):
    """Adam's first step is the gradient's sign times the rate, whatever the gradient's size."""
    start = amortised.first_start(teacher, SETTINGS, seed=0)
    labels, still = balanced_labels(8, 4, seed=0), replace(SCHEDULE, stages=((32, 1),), jitter=0, flip=False)
    _, ended = amortised.batch(teacher, labels, OBJECTIVE.noise(), still, replace(SETTINGS, step=1.0), start)

    generator = amortised.generator_of(teacher.preprocessing, SETTINGS)
    generator.load_state_dict(start, strict=False)
    latents = torch.randn(8, SETTINGS.latents, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(teacher.network(generator(latents)), labels).backward()
    gradient, moved = generator.body[6].weight.grad, ended["body.6.weight"] - start["body.6.weight"]
    certain = gradient.abs() > 1e-3 * gradient.abs().max()
    assert certain.float().mean() > 0.9
    torch.testing.assert_close(moved[certain], -SCHEDULE.lr * gradient[certain].sign(), rtol=1e-3, atol=1e-6)


def test_images_are_what_the_last_update_made_of_them(teacher):
    start = amortised.first_start(teacher, SETTINGS, seed=0)
    labels, once = balanced_labels(8, 4, seed=0), replace(SCHEDULE, stages=((32, 1),))
    made, ended = amortised.batch(teacher, labels, OBJECTIVE, once, replace(SETTINGS, step=1.0), start)
    generator = amortised.generator_of(teacher.preprocessing, SETTINGS)
    latents = torch.randn(8, SETTINGS.latents, generator=torch.Generator().manual_seed(0))
    apart = []
    for weights in (start, ended):
        generator.load_state_dict(weights, strict=False)
        apart.append((generator(latents) - made.images).abs().mean())
    assert apart[1] < 0.3 * apart[0], "but for the latents, which moved, too"


def test_a_student_learns_the_same_from_batches_made_now_and_from_those_on_disk(tmp_path, teacher, recipe):
    """Dropout draws from torch's own generator, which making a batch must leave alone."""
    settings = StreamSettings(rounds=2, updates=4, batch_size=8, batches=2)
    test, pool, ended = (torch.randn(8, 3, 32, 32), torch.arange(8) % 4), ImagePool(tmp_path, recipe), []
    for _ in range(2):
        torch.manual_seed(1)
        student = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 15 * 15, 4))
        distill(teacher, student, pool.batch, test, settings)
        ended.append(student[0].weight)
    assert torch.equal(*ended)


def test_generated_pixels_lie_in_their_range(teacher):
    generator = amortised.generator_of(teacher.preprocessing, SETTINGS)
    images = generator(100 * torch.randn(8, SETTINGS.latents))
    torch.testing.assert_close(teacher.preprocessing.clip(images), images)
    assert teacher.preprocessing.to_pixels(images).float().std() > 10


def test_a_pool_is_made_in_order_whichever_batch_is_asked_for_first(tmp_path, recipe):
    backwards, forwards = ImagePool(tmp_path / "b", recipe), ImagePool(tmp_path / "f", recipe)
    last = backwards.batch(3)
    for index in range(4):
        assert torch.equal(forwards.batch(index).images, backwards.batch(index).images)
    assert torch.equal(last.images, forwards.batch(3).images)
    alone, _ = recipe.make_from(0, recipe.first_start())
    torch.testing.assert_close(forwards.batch(0).images, alone.images, atol=0.05, rtol=0)


def test_a_pool_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, recipe, monkeypatch):
    whole, stopped = ImagePool(tmp_path / "whole", recipe), ImagePool(tmp_path / "stopped", recipe)
    stopped.batch(1)
    with monkeypatch.context() as patch:
        # Where the next batch starts is on disk, but the batch itself is not.
        patch.setattr("dilib.pool._in_8_bits", lambda images: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stopped.batch(2)
    again = ImagePool(tmp_path / "stopped", recipe)
    assert torch.equal(again.batch(4).images, whole.batch(4).images)
    assert torch.equal(again.batch(2).images, whole.batch(2).images)


def test_a_start_that_is_gone_is_said(tmp_path, recipe):
    pool = ImagePool(tmp_path, recipe)
    pool.batch(1)
    (tmp_path / "start-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"start-00002\.safetensors, which batch 2 needs, is gone; delete"):
        pool.batch(2)


def test_processes_that_fill_one_pool_make_what_one_process_would(tmp_path, recipe):
    side_by_side([partial(_fill, tmp_path / "two")] * 2, jobs=2)
    two, one = ImagePool(tmp_path / "two", _recipe()), ImagePool(tmp_path / "one", _recipe())
    for index in range(4):
        assert two.has(index), "made by one of the processes"
        with threads(1):  # as workers have: sums differ in the last digits by the number of threads
            assert torch.equal(two.batch(index).images, one.batch(index).images)


def _fill(folder):
    for _ in ImagePool(folder, _recipe()).fill(4):
        pass


def _recipe():
    torch.manual_seed(3)
    network = networks.create("vgg11_bn", classes=4, channels=1, width=1 / 16).eval()
    teacher = Classifier(network, Preprocessing(mean=(0.5,), std=(0.25,), size=32), "tiny")
    return Recipe(teacher, (0, 1, 2, 3), 8, OBJECTIVE, (SCHEDULE,), shared_start=SETTINGS)


def test_each_of_a_round_s_batches_is_followed_by_its_share_of_the_updates(teacher, network, monkeypatch):
    settings = StreamSettings(rounds=2, updates=6, batch_size=4, batches=3, shift=0, flip=False)
    taught, made = [], []
    monkeypatch.setattr("dilib.distillation.descend", lambda schedule, loss: taught.append(len(made)))

    def fresh_batch(number):
        made.append(number)
        return Batch(torch.randn(4, 3, 32, 32), torch.arange(4))

    torch.manual_seed(1)
    student = networks.create("vgg11_bn", classes=4, width=1 / 16)
    history = distill(teacher, student, fresh_batch, (torch.randn(8, 3, 32, 32), torch.arange(8) % 4), settings)
    assert made == list(range(6))
    assert taught == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6], "two updates after each batch"
    assert len(history["student_on_test"]) == 2


def test_bad_settings_are_refused(teacher):
    with pytest.raises(ValueError, match=r"step 1\.5 is out of range; choose from 0 \(forget\) to 1 \(keep all\)"):
        AmortisedSettings(step=1.5)
    with pytest.raises(ValueError, match="made one after another; use make_from"):
        _recipe().make(0)
    with pytest.raises(ValueError, match="leaves no place for the schedule's warm_start"):
        warm = replace(SCHEDULE, warm_start=0.5, warm_updates=1)
        Recipe(teacher, (0, 1), 8, OBJECTIVE, (warm,), shared_start=SETTINGS)
    with pytest.raises(ValueError, match="7 updates a round can't be shared by 3 batches; give a multiple"):
        StreamSettings(updates=7, batches=3)
    image = Generated(amortised.generator_of(teacher.preprocessing, SETTINGS), torch.randn(4, 8), 1e-2, torch.float32)
    with pytest.raises(ValueError, match=r"makes images of \(32, 32\) pixels, not of \(64, 64\)"):
        invert(teacher, torch.arange(4), OBJECTIVE, Schedule(((64, 1),)), image=image)
