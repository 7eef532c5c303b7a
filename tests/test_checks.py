"""Settings and calls that can't be meant are refused in one line before any work."""

from itertools import repeat

import pytest
import torch

from dilib import data
from dilib.baselines.dafl import GeneratorSettings
from dilib.baselines.gan import GanSettings
from dilib.compression.pruning import PruningSettings, Target, prune
from dilib.continual.extension import ExtensionSettings
from dilib.distillation import DistillationSettings, PoolSettings, distill_on_pool
from dilib.inversion import Objective, Schedule, invert, updates
from dilib.recipe import Recipe
from dilib.rounds import Run
from dilib.training import TrainingSettings, train

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DistillationSettings(updates=0), "updates 0 is out of range; choose a whole number of at least 1"),
        (lambda: DistillationSettings(rounds=1.5), "rounds 1.5 is out of range; choose a whole number"),
        (
            lambda: DistillationSettings(temperature=-1),
            "temperature -1 is out of range; choose a finite number above 0",
        ),
        (lambda: PoolSettings(lr=INFINITY), "lr inf is out of range"),
        (lambda: TrainingSettings(epochs=0), "epochs 0 is out of range"),
        (lambda: TrainingSettings(lr=NAN), "lr nan is out of range"),
        (lambda: GanSettings(latents=0), "latents 0 is out of range"),
        (lambda: GeneratorSettings(lr=0.0), "lr 0.0 is out of range"),
        (lambda: ExtensionSettings(clip=-0.1), "clip -0.1 is out of range"),
        (lambda: PruningSettings(eta=NAN), "eta nan is out of range; choose a finite number of at least 0"),
        (lambda: PoolSettings(mixup=NAN), "mixup nan is out of range; choose a finite number of at least 0"),
        (lambda: TrainingSettings(momentum=-1), "momentum -1 is out of range"),
        (lambda: ExtensionSettings(weight_decay=INFINITY), "weight_decay inf is out of range"),
        (lambda: GeneratorSettings(entropy=NAN), "entropy nan is out of range"),
        (lambda: Schedule(lr=INFINITY), "lr inf is out of range"),
        (lambda: Schedule(jitter=-1), "jitter -1 is out of range"),
        (lambda: Schedule(((16.5, 2),)), "size 16.5 is not a resolution"),
        (lambda: Objective(alpha_f=NAN), "alpha_f nan is out of range"),
        (lambda: Objective(alpha_f=-1), "alpha_f -1 is out of range"),
        (lambda: Objective(temperature=-3), "temperature -3 is out of range"),
        (lambda: Run(seed=2**32), "seed 4294967296 is out of range; choose a whole number from 0 to 4294967295"),
        (lambda: Run(seed=-1), "seed -1 is out of range"),
        (lambda: Run(seed=1.5), "seed 1.5 is out of range"),
    ],
)
def test_settings_that_can_not_be_meant(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_seeds_past_64_bits(teacher):
    schedule = Schedule(((32, 1),))
    with pytest.raises(ValueError, match="seed 18446744073709551616 is out of range"):
        invert(teacher, torch.tensor([0]), Objective().deepinversion(), schedule, seed=2**64)
    with pytest.raises(ValueError, match="seed 4294967296 is out of range"):
        Recipe(teacher, (0,), 4, Objective(), (schedule,), seed=2**32)
    largest = Recipe(teacher, (0, 1), 2, Objective().deepinversion(), (schedule,), seed=2**32 - 1)
    assert torch.isfinite(largest.make(0).images).all()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_calls_that_need_gradients_say_so_where_there_are_none(teacher, context):
    digits, labels = data.load("digits"), torch.tensor([0, 1])
    split = data.Split(digits.test.pixels.expand(-1, 3, -1, -1), digits.test.labels % 4)
    calls = [
        lambda: invert(teacher, labels, Objective().deepinversion(), Schedule(((32, 1),))),
        lambda: train(teacher, split, TrainingSettings(epochs=1, batch_size=50)),
        lambda: distill_on_pool(teacher, teacher.network, split.pixels, split, PoolSettings(rounds=1, updates=1)),
        lambda: prune(teacher, repeat(split), PruningSettings(), Target("filters", 0.5)),
    ]
    begun = updates(teacher, labels, Objective().deepinversion(), Schedule(((32, 1),)))
    for call in (*calls, lambda: next(begun)):
        with context(), pytest.raises(ValueError, match=r"^gradients are switched off here; call this outside of"):
            call()
