import copy
from itertools import product

import pytest
import torch

from dilib.artifacts import load_tensors, save_tensors, weights

CARD = {"teacher": "t", "seed": 1}


def test_weights_take_half_the_space_and_vectors_stay_exact(tmp_path, network):
    path = tmp_path / "teacher.safetensors"
    save_tensors(path, weights(network), CARD)
    before = copy.deepcopy(network.state_dict())
    network.load_state_dict(load_tensors(path, CARD)[0])
    assert path.stat().st_size < 0.6 * sum(value.nbytes for value in before.values())
    for name, value in network.state_dict().items():
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


def test_no_byte_can_change_unnoticed(tmp_path):
    path, tensors = tmp_path / "weights.safetensors", {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True])}
    save_tensors(path, tensors, CARD)
    whole = path.read_bytes()
    assert load_tensors(path, CARD) is not None
    turns = [1 << bit for bit in range(8)] + [ord("F") ^ ord("I"), ord("F") ^ ord("U"), ord("2") ^ ord("3")]
    for place, turn in product(range(len(whole)), turns):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ turn]) + whole[place + 1 :])
        found = load_tensors(path, CARD)
        if found is not None:  # a blank that pads the header
            assert whole[place] == ord(" ")
            assert all(torch.equal(value, tensors[name]) for name, value in found[0].items())
