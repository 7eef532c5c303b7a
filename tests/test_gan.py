import pytest
import torch

from dilib.baselines.gan import GanSettings, sample, train_gan
from dilib.classifier import Preprocessing
from dilib.data import Data, Split
from dilib.rounds import Run

SETTINGS = GanSettings(rounds=3, updates=40, batch_size=32, latents=8, width=8, lr=1e-3, average=0.9)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dark_and_bright():
    """Two classes of 32×32 images, told apart by their brightness alone."""
    labels = torch.arange(200) % 2
    noise = torch.randint(-20, 21, (200, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    split = Split((60 + 140 * labels.view(-1, 1, 1, 1) + noise).to(torch.uint8), labels)
    return Data("tones", "Tones", split, split, ("dark", "bright"), Preprocessing((0.5,), (0.25,), 32))


def test_it_learns_what_the_classes_look_like(dark_and_bright):
    generator, seconds = train_gan(dark_and_bright, SETTINGS, CPU)
    made = sample(generator, 100, seed=1)
    tones = [made.pixels[made.labels == label].float().mean().item() for label in (0, 1)]
    assert tones == pytest.approx([60, 200], abs=30)
    assert made.labels.bincount().tolist() == [50, 50]
    assert torch.equal(sample(generator, 100, seed=1).pixels, made.pixels)
    assert seconds > 0


def test_stopping_after_a_round_changes_nothing(dark_and_bright, tmp_path):
    def trained(stop_after):
        checkpoint = tmp_path / f"{stop_after}.safetensors"

        def stop(done):
            if done == stop_after:
                raise InterruptedError

        try:
            return train_gan(dark_and_bright, SETTINGS, CPU, run=Run(checkpoint=checkpoint, on_round=stop))[0]
        except InterruptedError:
            return train_gan(dark_and_bright, SETTINGS, CPU, run=Run(checkpoint=checkpoint))[0]

    undisturbed, interrupted = (sample(trained(rounds), 20, seed=0).pixels for rounds in (None, 2))
    assert torch.equal(interrupted, undisturbed)


def test_divergence_and_bad_settings_say_so(dark_and_bright):
    with pytest.raises(FloatingPointError, match=r"^GAN: loss .* in round 1; lower the learning rate$"):
        train_gan(dark_and_bright, GanSettings(rounds=1, updates=5, batch_size=8, latents=4, width=4, lr=1e30), CPU)
    with pytest.raises(ValueError, match=r"average 1\.0 is out of range; choose 0"):
        GanSettings(average=1.0)
