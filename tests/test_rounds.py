"""The loop of rounds: what it records, what it saves, and where it stops."""

import pytest
import torch
from torch import nn

from dilib.precision import fastest, named
from dilib.rounds import Run, in_rounds
from dilib.timing import threads


def steps(run, rounds=4):
    """Adam with a scheduler on a convolution in channels-last format, and a number a round; its weights at the end."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(adam, step_size=2)

    def work(index, random):
        for _ in range(2):
            loss = layer(torch.randn(2, 3, 8, 8, generator=random)).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        schedule.step()
        return {"loss": loss.item(), "lr": adam.param_groups[0]["lr"]}

    history = in_rounds(work, rounds, {"layer": layer, "adam": adam, "schedule": schedule}, run, "a layer")
    return history, layer.weight.detach().clone()


def stop_after(count):
    def on_round(done):
        if done == count:
            raise InterruptedError

    return on_round


def test_a_stopped_run_ends_with_the_numbers_of_one_that_is_not(tmp_path):
    history, weights = steps(Run(seed=5))
    assert history["lr"] == pytest.approx([0.1, 0.01, 0.01, 0.001])
    checkpoint = tmp_path / "checkpoint.safetensors"
    for done in (1, 3):
        with pytest.raises(InterruptedError):
            steps(Run(5, checkpoint, {"a": 1}, stop_after(done)))
    resumed, again = steps(Run(5, checkpoint, {"a": 1}))
    assert torch.equal(again, weights)
    assert resumed["lr"] == history["lr"]
    assert len(resumed["seconds"]) == 4
    _, other = steps(Run(6, checkpoint, {"a": 2}))
    assert not torch.equal(other, weights), "a checkpoint with another card is not gone on from"


def test_a_checkpoint_of_another_precision_or_of_other_parts_is_not_gone_on_from(tmp_path):
    run = Run(checkpoint=tmp_path / "checkpoint.safetensors")
    in_rounds(lambda *_: {"loss": 0.0}, 2, {}, run.of(torch.float32), "x")
    assert in_rounds(lambda *_: {"loss": 0.0, "seconds": 1.0}, 3, {}, run.of(torch.bfloat16), "x") == {
        "seconds": [1.0, 1.0, 1.0]
    }
    other = {"layer": nn.Linear(1, 1)}
    assert len(in_rounds(lambda *_: {"loss": 0.0}, 3, other, run.of(torch.bfloat16), "x")["seconds"]) == 3


def test_a_process_that_does_not_save_leaves_no_checkpoint(tmp_path):
    run = Run(checkpoint=tmp_path / "checkpoint.safetensors")
    in_rounds(lambda *_: {"loss": 0.0}, 2, {}, run.of(torch.float32, saves=False), "x")
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_stops_the_run_and_names_it(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(FloatingPointError, match=r"^a walk: loss nan in round 2; lower the learning rate$"):
        in_rounds(lambda i, _: {"loss": float("nan") if i else 0.0}, 3, {}, Run(checkpoint=checkpoint), "a walk")


def test_work_may_count_its_own_seconds():
    assert in_rounds(lambda *_: {"loss": 0.0, "seconds": 7.0}, 2, {}, Run(), "x") == {"seconds": [7.0, 7.0]}


def test_threads_are_put_back_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), threads(1):
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_precisions_have_names(monkeypatch):
    assert named("bfloat16") is torch.bfloat16
    assert fastest(torch.device("cpu")) in (torch.float32, torch.bfloat16)
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert fastest(torch.device("cuda")) is expected
    with pytest.raises(ValueError, match="unknown precision 'half'; choose from float32, bfloat16"):
        named("half")
