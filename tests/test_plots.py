import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from dilib.experiments.table1_transfer import METHODS
from dilib.study import plots
from dilib.study.plots import GAP, PALETTE

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def noise_figure():
    figure, axis = plt.subplots(figsize=(4, 2))
    axis.imshow(np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8), interpolation="nearest")
    return figure


def test_a_figure_over_the_limit_is_shrunk_to_it_and_keeps_its_shape(tmp_path):
    plots.save(noise_figure(), tmp_path / "whole.png", most=10_000_000)
    plots.save(noise_figure(), tmp_path / "small.png", most=20_000)
    assert 10_000 < (tmp_path / "small.png").stat().st_size <= 20_000 < (tmp_path / "whole.png").stat().st_size
    with Image.open(tmp_path / "whole.png") as whole, Image.open(tmp_path / "small.png") as small:
        whole.load()
        small.load()
        assert whole.format == small.format == "PNG"
        assert small.width < whole.width
        assert small.width / small.height == pytest.approx(whole.width / whole.height, rel=0.03)
        # The same picture: grey levels of 3×3 parts agree.
        parts = [np.asarray(each.convert("L").resize((3, 3), Image.Resampling.BOX), float) for each in (whole, small)]
    assert np.ptp(parts[0]) > 30
    np.testing.assert_allclose(*parts, atol=10)


def test_images_stand_where_their_row_and_column_say():
    side, (row, column), (y, x) = 8, (1, 2), (3, 6)
    marked = torch.zeros(6, 3, side, side, dtype=torch.uint8)
    marked[3 * row + column, :, y, x] = torch.tensor([255, 7, 9])
    grey = torch.full((3, 1, side, side), 50, dtype=torch.uint8)
    grey[1, 0, 0, 5] = 120
    figure = plots.image_rows({"Adaptive DeepInversion": marked, "Noise": grey}, ["T-shirt/top", "sea lion", "cat"])

    colour, second = (np.asarray(axis.images[0].get_array()) for axis in figure.axes)
    place = GAP + row * (side + GAP) + y, GAP + column * (side + GAP) + x
    assert colour[place].tolist() == [255, 7, 9]
    black, white = ((colour == value).all(-1).sum() for value in (0, 255))
    height, width = 2 * (side + GAP) + GAP, 3 * (side + GAP) + GAP
    assert colour.shape == (height, width, 3)
    assert (black, white) == (6 * side**2 - 1, height * width - 6 * side**2), "black images, white gaps, one mark"
    assert second[GAP, GAP + side + GAP + 5].tolist() == [120] * 3

    centres = [GAP + index * (side + GAP) + (side - 1) / 2 for index in range(3)]
    assert figure.axes[0].get_xticks() == pytest.approx(centres, abs=0.5)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["T-shirt/\ntop", "sea\nlion", "cat"]
    assert [axis.get_ylabel() for axis in figure.axes] == ["Adaptive\nDeepInversion", "Noise"]


def test_every_method_has_a_colour_of_its_own():
    colours = [to_rgb(colour) for colour in PALETTE.values()]
    names = [plots.short_name(method) for method in METHODS.values()]
    assert names == ["Noise", "DeepDream", "DeepInversion", "Adaptive DeepInversion", "DAFL", "Amortised DeepInversion"]
    assert [colours.count(to_rgb(PALETTE[name])) for name in names] == [1] * 6


def test_a_bar_a_source():
    rows = [("No finetune", "50 %", 2, np.nan), ("DeepInversion", "50 %", 56, 1.5), ("real", "50 %", 70, 0.5)]
    rows += [("No finetune", "20 %", 17, np.nan), ("real", "20 %", 90, 2)]
    figure = plots.bars_by_source(pd.DataFrame(rows, columns=["row", "column", "ours", "ours_std"]), teacher=93)

    half, fifth = figure.axes
    assert (half.get_title(), fifth.get_title()) == ("50 %", "20 %")
    assert [bar.get_height() for bar in half.patches] == [2, 56, 70]
    assert [bar.get_height() for bar in fifth.patches] == [17, 90]
    assert [label.get_text() for label in fifth.get_xticklabels()] == ["No finetune", "real"]
    expected = [to_rgb("lightgray"), PALETTE["DeepInversion"], PALETTE["real"]]
    assert [bar.get_facecolor()[:3] for bar in half.patches] == expected
    for axis in (half, fifth):
        assert [list(line.get_ydata()) for line in axis.lines if line.get_linestyle() == "--"] == [[93, 93]]
        assert axis.get_ylim() == (0, 100)


@pytest.mark.filterwarnings("error")
def test_names_of_any_letters_are_shown(tmp_path):
    """No formula between two dollars, no box and no warning for letters that no font here has."""
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    plots.set_style()
    figure = plots.image_rows({"$x_1$": images}, ["$5 bills$", "été", "\U000f0000"])
    plots.save(figure, tmp_path / "names.png")
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["\\$5\nbills\\$", "été", r"\U000f0000"]
    assert axis.get_ylabel() == r"\$x_1\$"
