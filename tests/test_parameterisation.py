"""Images as waves: what they add up to, and what optimising them gives."""

from dataclasses import replace

import pytest
import torch

from dilib.amortised import AmortisedSettings
from dilib.classifier import Preprocessing
from dilib.inversion import Objective, Schedule
from dilib.parameterisation import COLOURS, Pixels, Spectrum, SpectrumSettings
from dilib.recipe import Recipe

SETTINGS = SpectrumSettings(deviation=1.0, contrast=1.0)
PLAIN = Preprocessing((0.0,) * 3, (1.0,) * 3, 32)  # normalised images are pixels from 0 to 1
CPU = torch.device("cpu")


def values_of(spectrum):
    """What goes into the sigmoid."""
    return torch.logit(spectrum().detach().double())


@pytest.mark.parametrize("size", [32, (15, 9), (8, 28)])
def test_waves_of_unit_deviation_add_up_to_values_of_unit_deviation(size):
    grey = Preprocessing((0.0,), (1.0,), size)
    assert values_of(Spectrum.noise(3000, size, grey, SETTINGS, 0, CPU)).var().item() == pytest.approx(1, abs=0.03)


def test_a_wave_of_twice_the_frequency_is_half_as_high():
    heights = []
    for frequency in (2, 4):
        waves = torch.zeros(1, 1, 16, 9, 2)
        waves[0, 0, 0, frequency, 0] = 1
        values = values_of(Spectrum(waves, 16, Preprocessing((0.0,), (1.0,), 16), SETTINGS))
        cosine = torch.cos(2 * torch.pi * frequency * torch.arange(16) / 16).double()
        torch.testing.assert_close(values[0, 0], (values.max() * cosine).expand(16, 16), atol=1e-5, rtol=1e-4)
        heights.append(values.max().item())
    assert heights[0] == pytest.approx(2 * heights[1], rel=1e-4)


def test_waves_of_one_length_are_as_high_in_each_direction():
    """On 16×64 pixels a wave of 8 pixels fits twice into the height and eight times into the width."""
    grey = Preprocessing((0.0,), (1.0,), (16, 64))
    heights = []
    for down, right in ((2, 0), (0, 8)):
        waves = torch.zeros(1, 1, 16, 33, 2)
        waves[0, 0, down, right, 0] = 1
        heights.append(values_of(Spectrum(waves, (16, 64), grey, SETTINGS)).max().item())
    # One in the first column stands for itself, another for its mirror image, too.
    assert 2 * heights[0] == pytest.approx(heights[1], rel=1e-3)


def test_the_mean_moves_as_far_as_its_level_says():
    """The longest wave swings by one amplitude to either side for itself and one for its mirror image."""
    for level in (1.0, 0.4):
        heights = []
        for frequency in (0, 1):
            waves = torch.zeros(1, 1, 16, 9, 2)
            waves[0, 0, 0, frequency, 0] = 1
            settings = replace(SETTINGS, level=level)
            heights.append(values_of(Spectrum(waves, 16, Preprocessing((0.0,), (1.0,), 16), settings)).max().item())
        assert heights[0] == pytest.approx(level * heights[1] / 2, rel=1e-4)


@pytest.mark.parametrize("part", range(3))
def test_a_part_of_the_spectrum_is_one_direction_of_colours(part):
    waves = torch.zeros(1, 3, 32, 17, 2)
    waves[:, part] = torch.randn(32, 17, 2, generator=torch.Generator().manual_seed(0))
    seen = values_of(Spectrum(waves, 32, PLAIN, SETTINGS)).flatten(2)[0]
    colours = torch.tensor(COLOURS, dtype=torch.float64)[:, part]
    torch.testing.assert_close(seen * colours.norm() ** 2, colours[:, None] * (colours @ seen), atol=1e-4, rtol=1e-3)


def test_at_another_resolution_images_go_on_as_pixels():
    spectrum = Spectrum.noise(2, 16, PLAIN, SETTINGS, 0, CPU)
    assert spectrum.at(16) is spectrum
    larger = spectrum.at((32, 32))
    assert isinstance(larger, Pixels)
    assert torch.equal(larger()[..., 6:8, 10:12], spectrum().detach()[..., 3:4, 5:6].expand(2, 3, 2, 2))


def test_a_pool_s_images_begin_as_waves_where_its_recipe_says_so(teacher):
    objective = Objective(alpha_tv=0.0, alpha_l2=0.0, alpha_f=1.0, alpha_c=0.0)
    plain = Recipe(teacher, (0, 1, 2, 3), 8, objective, (Schedule(((32, 20), (64, 20)), jitter=0),))
    waved = replace(plain, spectrum=SpectrumSettings())
    made, again = waved.make(1), waved.make(1)
    assert torch.equal(made.images, again.images)
    assert not torch.equal(made.images, waved.make(2).images)
    feature = made.history[:, 2]
    assert feature[-5:].mean() < 0.8 * feature[:5].mean()
    brief = (Schedule(((32, 1), (64, 1)), lr=1e-9),)
    begun = [replace(recipe, schedules=brief).make(0).images for recipe in (waved, plain)]
    waves, noise = ((images.diff(dim=3).square().mean() / images.var()).item() for images in begun)
    assert waves < noise / 2, "neighbouring pixels are alike"
    for name in ("views", "memory"):  # reach the images
        assert not torch.equal(replace(plain, **{name: 0.3}).make(0).history[1:], plain.make(0).history[1:])
    assert "spectrum" not in plain.card
    assert waved.card["spectrum"] == vars(SpectrumSettings())
    with pytest.raises(ValueError, match="give schedules of two stages or more"):
        replace(waved, schedules=(Schedule(((32, 40),)),))
    with pytest.raises(ValueError, match=r"views 1\.5 is out of range"):
        replace(waved, views=1.5)
    with pytest.raises(ValueError, match="a spectrum is where images begin; set the shared start to None"):
        replace(waved, shared_start=AmortisedSettings())


def test_settings_that_make_no_images_are_refused():
    with pytest.raises(ValueError, match="contrast"):
        SpectrumSettings(contrast=0.0)
