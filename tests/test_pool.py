"""Batches of images on disk: what is written, what is refused, and what a batch starts from."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from dilib import networks
from dilib import pool as pool_module
from dilib.inversion import Objective, Schedule, invert
from dilib.pool import THUMBNAIL, Batch, ImagePool, PoolDataset, save_contact_sheet
from dilib.recipe import BATCH_SEEDS, Recipe, Rival

SCHEDULE = Schedule(stages=((32, 3),), lr=0.1, jitter=1)
WARM = replace(SCHEDULE, warm_start=0.6, warm_updates=1)
OBJECTIVE = Objective(alpha_f=1.0)


@pytest.fixture
def recipe(teacher):
    return Recipe(teacher, (0, 1, 2, 3), 4, OBJECTIVE.deepinversion(), (SCHEDULE,), seed=2)


def test_a_batch_comes_back_within_half_of_one_of_255_steps(tmp_path, recipe):
    batch = ImagePool(tmp_path, recipe).batch(1)
    exact = invert(recipe.teacher, recipe.labels(1), recipe.objective, SCHEDULE, seed=2 * BATCH_SEEDS + 1).images
    half_a_step = (exact.amax((0, 2, 3)) - exact.amin((0, 2, 3))) / 255 / 2
    assert ((batch.images - exact).abs().amax((0, 2, 3)) <= 1.001 * half_a_step).all()
    assert batch.labels.tolist() == [0, 1, 2, 3]
    assert batch.seconds > 0
    again = ImagePool(tmp_path, recipe).batch(1)
    assert torch.equal(again.images, batch.images)
    assert again.seconds == batch.seconds, "whoever reads a batch knows what making it took"


def test_a_pool_of_images_that_are_not_square(tmp_path, recipe):
    wide = replace(recipe.teacher, preprocessing=replace(recipe.teacher.preprocessing, size=(32, 64)))
    pool = ImagePool(tmp_path, replace(recipe, teacher=wide, schedules=(Schedule(((None, 1),)),)))
    assert pool.split(6).pixels.shape == (6, 3, 32, 64)
    save_contact_sheet(tmp_path / "contact.png", pool.split(4).pixels)
    with Image.open(tmp_path / "contact.png") as sheet:
        assert sheet.size == (4 * (2 * THUMBNAIL + 2) + 2, THUMBNAIL + 4)
    images, labels = PoolDataset(tmp_path)[5]
    assert (images.shape, labels) == ((3, 32, 64), 1)


def test_each_channel_has_steps_of_its_own_and_a_copy_of_a_copy_loses_nothing_more():
    images = torch.randn(4, 3, 8, 8) * torch.tensor([0.01, 1, 100]).view(3, 1, 1)
    images[:, 1] = 5  # a channel of one value
    once = pool_module._in_32_bits(**pool_module._in_8_bits(images))
    errors = (once - images).abs().amax((0, 2, 3))
    assert errors[0] < errors[2] / 1000
    torch.testing.assert_close(pool_module._in_32_bits(**pool_module._in_8_bits(once)), once)


def test_truncated_and_foreign_files_are_not_part_of_a_pool(tmp_path, recipe):
    pool = ImagePool(tmp_path / "a", recipe)
    pool.batch(0)
    whole = pool.path(0).read_bytes()
    pool.path(1).write_bytes(whole)
    assert pool.load(1) is None, "a batch under another batch's name"
    foreign = ImagePool(tmp_path / "b", replace(recipe, seed=3))
    foreign.path(0).write_bytes(whole)
    assert not foreign.has(0)
    for length in (0, 7, 100, len(whole) - 1):
        pool.path(0).write_bytes(whole[:length])
        assert pool.load(0) is None
        assert not pool.has(0)
    pool.path(0).write_bytes(b"not safetensors at all" * 100)
    assert pool.load(0) is None
    with pytest.raises(ValueError, match="holds images made with seed 2, not 3; choose another folder"):
        ImagePool(tmp_path / "a", replace(recipe, seed=3))


def test_a_pool_goes_on_in_the_precision_that_it_was_begun_in(tmp_path, recipe):
    ImagePool(tmp_path, recipe).batch(0)
    assert json.loads((tmp_path / "card.json").read_text())["precision"] == "float32"
    faster = ImagePool(tmp_path, recipe.in_precision(torch.bfloat16))
    assert faster.recipe.teacher.precision == torch.float32
    assert torch.equal(faster.batch(1).images, ImagePool(tmp_path / "alone", recipe).batch(1).images)


def test_a_warm_start_blends_an_earlier_batch_with_noise(tmp_path, recipe):
    still = replace(WARM, lr=1e-12)  # what a batch starts from is what comes out
    pool = ImagePool(tmp_path, replace(recipe, schedules=(still,), shuffled=True))
    third = pool.batch(2)
    earlier = pool.batch(pool.recipe.warm_start(2))
    noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2 * BATCH_SEEDS + 2))
    torch.testing.assert_close(third.images, 0.6 * earlier.images + 0.8 * noise, atol=0.03, rtol=0)
    assert torch.equal(third.labels, earlier.labels)
    assert len(pool.history(2)) == 1


def test_images_compete_with_the_rival_as_it_is_when_they_are_made(tmp_path, recipe):
    plain = ImagePool(tmp_path / "plain", recipe)
    torch.manual_seed(1)
    student = networks.create("vgg11_bn", classes=4, width=1 / 16)
    adaptive = replace(recipe, objective=OBJECTIVE, rival=Rival({"student": 1}, lambda: student))
    pool = ImagePool(tmp_path / "adaptive", adaptive)
    assert (plain.batch(1).images != pool.batch(1).images).any()
    assert (pool.history(1)[:, 3] > 0).all()
    with torch.no_grad():
        student[2].weight.mul_(5)  # it learns on
    later = ImagePool(tmp_path / "later", adaptive)
    assert (later.batch(1).images != pool.batch(1).images).any()


def test_a_warm_start_may_begin_with_another_pool_s_batch(tmp_path, recipe):
    still = replace(recipe, schedules=(replace(WARM, lr=1e-12),))
    white = Batch(torch.full((4, 3, 32, 32), 2.0), torch.tensor([3, 3, 3, 3]))
    pool = ImagePool(tmp_path, still, earlier=lambda index: white)
    assert pool.batch(1).labels.tolist() == [3, 3, 3, 3]
    assert pool.batch(1).images.mean().item() == pytest.approx(0.6 * 2, abs=0.05)


def test_a_split_is_the_first_images_with_the_seconds_of_their_batches(tmp_path, recipe):
    pool, seen = ImagePool(tmp_path, recipe), []
    split = pool.split(6, lambda: seen.append(1))
    assert split.pixels.shape == (6, 3, 32, 32)
    assert split.labels.tolist() == [0, 1, 2, 3, 0, 1]
    assert len(seen) == 2
    assert split.seconds == pytest.approx(pool.batch(0).seconds + pool.batch(1).seconds)
    pixels = recipe.teacher.preprocessing.to_pixels(pool.batch(1).images)
    assert torch.equal(split.pixels[4:], pixels[:2])
    with safe_open(pool.path(0), framework="pt") as file:
        assert json.loads(file.metadata()["card"])["seconds"] > 0
