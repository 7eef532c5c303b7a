"""The study's figures: one palette, in which a method keeps its colour, and what several notebooks draw."""

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import LogLocator, ScalarFormatter
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from dilib.artifacts import write_atomically
from dilib.study.cells import Study

COLOURS = sns.color_palette("colorblind")  # safe for the colour-blind
PALETTE = {
    "Noise": COLOURS[7],
    "DeepDream": COLOURS[1],
    "DAFL": COLOURS[4],
    "DeepInversion": COLOURS[0],
    "Adaptive DeepInversion": COLOURS[2],
    "Amortised DeepInversion": COLOURS[8],
    "teacher": "black",
    "textbook": COLOURS[3],
    "floor": "slategray",
    "real": COLOURS[5],
    "proxy": COLOURS[6],
    "second proxy": tuple((1 + part) / 2 for part in COLOURS[6]),
    "GAN": COLOURS[9],
    "LwF.MC": COLOURS[3],
    "Oracle (distill)": COLOURS[5],
    "Oracle (classify)": COLOURS[6],
}
SCRIPTS = (  # fonts that are looked for where DejaVu Sans has no letter
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Micro Hei",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Sans Bengali",
    "Arial Unicode MS",
)
GAP = 2  # white pixels between the images of a sheet


def set_style() -> None:
    """Seaborn's white grid with text that is readable at half size."""
    sns.set_theme(style="whitegrid", context="talk", font_scale=0.8, rc={"figure.dpi": 80, "savefig.dpi": 110})
    plt.rcParams["font.sans-serif"] = list(_fonts())


@lru_cache
def _fonts() -> dict[str, FT2Font]:
    """DejaVu Sans, which comes with matplotlib, and those of SCRIPTS that are installed, by name."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    names = ["DejaVu Sans", *(name for name in SCRIPTS if name in installed)]
    return {name: FT2Font(font_manager.findfont(name)) for name in names}


def in_print(name: str) -> str:
    """Somebody's name as a figure can show it: `$` escaped, letters that no installed font has as their code points."""

    def letter(character: str) -> str:
        known = any(font.get_char_index(ord(character)) for font in _fonts().values())
        return character if known else character.encode("ascii", "backslashreplace").decode()

    return "".join(map(letter, name)).replace("$", r"\$")


def save_figure(study: Study, figure: Figure, name: str) -> None:
    """Save a figure beside the study's tables, as NAME.png."""
    save(figure, study.results / f"{name}.png")


def save(figure: Figure, path: Path, most: int = 300_000) -> None:
    """Write a figure as a PNG of at most `most` bytes, with fewer colours and then smaller if need be."""
    rendered = io.BytesIO()
    figure.savefig(rendered, dpi=110, bbox_inches="tight", pil_kwargs={"optimize": True})
    encoded, picture = rendered.getvalue(), Image.open(rendered).convert("RGB")
    shrink = 1.0
    while len(encoded) > most:
        encoded = _palette_png(picture.resize([round(side * shrink) for side in picture.size]))
        shrink *= min(0.95, (most / len(encoded)) ** 0.5)
    write_atomically(path, encoded)


def _palette_png(picture: Image.Image) -> bytes:
    encoded, palette = io.BytesIO(), picture.quantize(256)
    dithered = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)  # no bands in smooth places
    dithered.save(encoded, "png", optimize=True)
    return encoded.getvalue()


def short_name(method: str) -> str:
    """A method's name in figures: the paper's row label less what stands in brackets."""
    return method.split(" (")[0]


def source_name(source: str) -> str:
    """An image source's name in figures."""
    names = {
        "gan": "GAN",
        "deepinversion": "DeepInversion",
        "amortised": "Amortised DeepInversion",
        "second_proxy": "second proxy",
    }
    return names.get(source, source)


def image_rows(rows: Mapping[str, Tensor], columns: Sequence[str]) -> Figure:
    """One labelled block of images a method, one column a class; uint8 images (N, C, H, W), N a multiple of columns."""
    counts = [len(images) // len(columns) for images in rows.values()]
    size = (0.85 * len(columns) + 1.5, 0.85 * sum(counts) + 0.25 * len(rows) + 0.5)
    figure, axes = plt.subplots(len(rows), 1, figsize=size, height_ratios=counts, squeeze=False, layout="constrained")
    for axis, (label, images) in zip(axes[:, 0], rows.items(), strict=True):
        side = images.shape[-1] + GAP
        grid = make_grid(images, nrow=len(columns), padding=GAP, pad_value=255)
        axis.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_xticks([GAP / 2 + side * (column + 0.5) for column in range(len(columns))], [])
        axis.set_yticks([])
        axis.set_ylabel(in_print(label).replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize="small")
        axis.grid(False)
        axis.tick_params(length=0)
        sns.despine(ax=axis, left=True, bottom=True)
    names = [in_print(name).replace("/", "/\n").replace(" ", "\n") for name in columns]
    axes[0, 0].xaxis.tick_top()
    axes[0, 0].set_xticks(axes[0, 0].get_xticks(), names, fontsize="x-small")
    return figure


def labelled_images(images: Tensor, names: Sequence[str], columns: int = 5) -> Figure:
    """A grid of colour images (N, 3, H, W), uint8, each under its name."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.95 * rows), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, name in zip(axes.flat, images, names, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.set_title(in_print(name), fontsize="x-small", pad=3)
    return figure


def percentages(axis: Axes, shares: Sequence, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Percentages as a heat map with their numbers in it."""
    rows, columns = list(map(in_print, rows)), list(map(in_print, columns))
    how = {"vmin": 0, "vmax": 100, "annot": True, "fmt": ".0f", "cmap": "Blues", "cbar": False}
    sns.heatmap(np.asarray(shares), xticklabels=columns, yticklabels=rows, ax=axis, **how)
    axis.set_xticks(axis.get_xticks(), columns, rotation=30, ha="right")
    axis.tick_params(axis="y", rotation=0)


def bars_by_source(entries: pd.DataFrame, teacher: float) -> Figure:
    """Top-1 by image source, one panel a column; `entries` as a Table has them, `teacher` the whole network's."""
    columns = list(entries["column"].unique())
    width = 6.2 if len(columns) < 3 else 3.6
    size = (width * len(columns), 4.8)
    figure, axes = plt.subplots(1, len(columns), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, column in zip(axes[0], columns, strict=True):
        shown = entries[entries["column"] == column]
        colours = [PALETTE.get(row, "lightgray") for row in shown["row"]]
        axis.bar(shown["row"], shown["ours"], yerr=shown["ours_std"], color=colours, capsize=4)
        axis.axhline(teacher, color=PALETTE["teacher"], linestyle="--", label="whole network")
        axis.set(title=column, ylim=(0, 100))
        axis.set_xticks(range(len(shown)), shown["row"], rotation=35, ha="right")
        axis.grid(False, axis="x")
    axes[0, 0].set_ylabel("top-1, %")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center")
    return figure


def step_times(rows: pd.DataFrame) -> Figure:
    """The benchmark as a picture: milliseconds of a step (log), and above each bar its ratio to the floor."""
    figure, axis = plt.subplots(figsize=(13, 5))
    sns.barplot(rows.assign(ms=1000 * rows["seconds"]), x="network", y="ms", hue="method", palette=PALETTE, ax=axis)
    for bars, (_, shown) in zip(axis.containers, rows.groupby("method", sort=False), strict=True):
        axis.bar_label(bars, [f"{ratio:.2f}" for ratio in shown["ratio_to_floor"]], fontsize="xx-small")
    axis.set(yscale="log", xlabel=None, ylabel="milliseconds a step")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.minorticks_off()
    axis.grid(False, axis="x")
    axis.legend(title="above: times the floor", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
