"""A student taught by two real processes is the one that a single process teaches."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dilib import data, distributed
from dilib.classifier import Classifier
from dilib.distillation import PoolSettings, distill_on_pool
from dilib.rounds import Run
from dilib.training import TrainingSettings, train

SETTINGS = PoolSettings(rounds=2, updates=10, batch_size=40, lr=0.05, shift=1, flip=False, mixup=0.5)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def smooth_network():
    """With BatchNorm and without kinks, at which a rounding error would decide."""
    layers = [nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))


def taught(folder):
    """A student of a teacher in its first epoch; the first process saves its weights."""
    digits = data.load("digits")
    torch.manual_seed(0)
    teacher, student = Classifier(smooth_network(), digits.preprocessing), smooth_network()
    train(teacher, digits.train, TrainingSettings(epochs=1, batch_size=100, flip=False))
    run = Run(checkpoint=folder / "student.safetensors", card={"run": 1})
    history = distill_on_pool(teacher, student, digits.train.pixels, digits.test, SETTINGS, run)
    assert len(history["student_on_test"]) == SETTINGS.rounds


def run(folder, *launcher):
    folder.mkdir()
    done = subprocess.run([sys.executable, *launcher, __file__, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "student.safetensors")


def test_two_processes_teach_the_student_that_one_does(tmp_path):
    alone, together = run(tmp_path / "alone"), run(tmp_path / "together", *TORCHRUN)
    assert alone.keys() == together.keys()
    learnt = [name for name in alone if name.startswith(("network.", "optimizer."))]
    assert len(learnt) == 26
    for name in learnt:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-4, atol=1e-5)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(monkeypatch):
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="a batch of 40 can't be shared evenly by 3 processes; choose a multiple of 3"):
        distributed.share(40)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with distributed.processes():
        taught(Path(sys.argv[1]))
