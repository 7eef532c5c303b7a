import copy

import pytest
import torch

from dilib.artifacts import load_tensors, save_tensors, weights
from dilib.pool import ImagePool

CARD = {"teacher": "t", "seed": 1}


def test_a_pool_gives_back_what_it_was_given(tmp_path):
    pool = ImagePool(tmp_path, CARD)
    assert pool.load(0) is None
    assert not pool.has(0)
    images, labels = torch.randn(4, 3, 8, 8) * torch.tensor([0.01, 1, 100]).view(3, 1, 1), torch.arange(4)
    images[:, 1] = 5  # a channel of one value
    pool.save(0, images, labels, torch.zeros(2, 4))
    assert pool.has(0)
    loaded_images, loaded_labels = pool.load(0)
    assert torch.equal(loaded_labels, labels)
    half_a_step = (images.amax((0, 2, 3)) - images.amin((0, 2, 3))) / 255 / 2
    errors = (loaded_images - images).abs().amax((0, 2, 3))
    assert (errors <= 1.001 * half_a_step).all()
    assert errors[0] < errors[2] / 1000, "each channel has steps of its own"
    pool.save(1, loaded_images, labels, torch.zeros(2, 4))
    torch.testing.assert_close(pool.load(1)[0], loaded_images, msg="a copy of a copy loses nothing more")


def test_truncated_and_foreign_files_are_not_part_of_a_pool(tmp_path):
    pool = ImagePool(tmp_path, CARD)
    pool.save(0, torch.randn(4, 3, 8, 8), torch.arange(4), torch.zeros(2, 4))
    whole = pool.path(0).read_bytes()
    assert ImagePool(tmp_path, {**CARD, "teacher": "another"}).load(0) is None
    pool.path(1).write_bytes(whole)
    assert pool.load(1) is None, "a batch under another batch's name"
    assert not pool.has(1)
    for length in (0, 7, 100, len(whole) - 1):
        pool.path(0).write_bytes(whole[:length])
        assert pool.load(0) is None
        assert not pool.has(0)
    pool.path(0).write_bytes(b"not safetensors at all" * 100)
    assert pool.load(0) is None


def test_weights_take_half_the_space_and_vectors_stay_exact(tmp_path, teacher):
    path = tmp_path / "teacher.safetensors"
    save_tensors(path, weights(teacher), CARD)
    before = copy.deepcopy(teacher.state_dict())
    teacher.load_state_dict(load_tensors(path, CARD)[0])
    assert path.stat().st_size < 0.6 * sum(value.nbytes for value in before.values())
    for name, value in teacher.state_dict().items():
        assert value.dtype == before[name].dtype
        torch.testing.assert_close(value, before[name], rtol=2**-11 if value.ndim > 1 else 0, atol=1e-7)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"a": torch.ones(2)}, CARD)

    def no_space(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        save_tensors(path, {"a": torch.zeros(2)}, CARD)
    assert torch.equal(load_tensors(path, CARD)[0]["a"], torch.ones(2))
