import copy

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
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"a": torch.arange(3.0), "b": torch.tensor([True])}, CARD)
    whole = path.read_bytes()
    assert load_tensors(path, CARD) is not None
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert load_tensors(path, CARD) is None, f"byte {place}"
