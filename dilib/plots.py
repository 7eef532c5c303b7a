"""The study's figures: one palette, in which a method keeps its colour."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter
from PIL import Image
from torch import Tensor

_COLOURS = sns.color_palette("colorblind")  # safe for the colour-blind
PALETTE = {
    "Noise": _COLOURS[7],
    "DeepDream": _COLOURS[1],
    "DAFL": _COLOURS[4],
    "DeepInversion": _COLOURS[0],
    "Adaptive DeepInversion": _COLOURS[2],
    "teacher": "black",
    "textbook": _COLOURS[3],
    "floor": _COLOURS[8],
    "real": _COLOURS[5],
    "proxy": _COLOURS[6],
    "GAN": _COLOURS[9],
    "LwF.MC": _COLOURS[3],
    "Oracle (distill)": _COLOURS[5],
    "Oracle (classify)": _COLOURS[6],
}


GAP = 2  # white pixels between the images of a sheet


def set_style() -> None:
    """Seaborn's white grid with text that is readable at half size."""
    sns.set_theme(style="whitegrid", context="talk", font_scale=0.8, rc={"figure.dpi": 80, "savefig.dpi": 110})


def save(figure: Figure, path: Path, most: int = 300_000) -> None:
    """Write a figure as a PNG of at most so many bytes: with fewer colours, then smaller, where it would take more."""
    rendered = io.BytesIO()
    figure.savefig(rendered, dpi=110, bbox_inches="tight", pil_kwargs={"optimize": True})
    encoded, picture = rendered.getvalue(), Image.open(rendered).convert("RGB")
    shrink = 1.0
    while len(encoded) > most:
        smaller = picture.resize([round(side * shrink) for side in picture.size])
        encoded = _palette_png(smaller)
        shrink *= 0.9
    path.write_bytes(encoded)


def _palette_png(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.quantize(256, kmeans=2).save(encoded, "png", optimize=True)
    return encoded.getvalue()


def short_name(method: str) -> str:
    """A method's name in figures: the paper's row label less what stands in brackets."""
    return method.split(" (")[0]


def source_name(source: str) -> str:
    """An image source's name in figures."""
    return {"gan": "GAN", "deepinversion": "DeepInversion"}.get(source, source)


def image_rows(rows: Mapping[str, Tensor], columns: Sequence[str]) -> Figure:
    """One labelled block of images a method, one column a class; uint8 images (N, C, H, W), N a multiple of columns."""
    counts = [len(images) // len(columns) for images in rows.values()]
    figure, axes = plt.subplots(
        len(rows),
        1,
        figsize=(0.85 * len(columns) + 1.5, 0.85 * sum(counts) + 0.25 * len(rows) + 0.5),
        height_ratios=counts,
        squeeze=False,
        layout="constrained",
    )
    for axis, (label, images) in zip(axes[:, 0], rows.items(), strict=True):
        side = images.shape[-1] + GAP
        axis.imshow(_mosaic(images, len(columns)), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_xticks([side * (i + 0.5) for i in range(len(columns))], [])
        axis.set_yticks([])
        axis.set_ylabel(label.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize="small")
        axis.grid(False)
        axis.tick_params(length=0)
        sns.despine(ax=axis, left=True, bottom=True)
    names = [name.replace("/", "/\n").replace(" ", "\n") for name in columns]
    axes[0, 0].xaxis.tick_top()
    axes[0, 0].set_xticks(axes[0, 0].get_xticks(), names, fontsize="x-small")
    return figure


def _mosaic(images: Tensor, columns: int) -> np.ndarray:
    """Tiles with white gaps, (rows·(H + GAP), columns·(W + GAP)[, 3])."""
    tiles = F.pad(images, (0, GAP, 0, GAP), value=255).unflatten(0, (-1, columns))
    rows, columns, channels, height, width = tiles.shape
    sheet = tiles.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels).numpy()
    return sheet[..., 0] if channels == 1 else sheet


def transfer_bars(entries: pd.DataFrame) -> Figure:
    """Student top-1 by method for each pair, the paper's number as a hollow mark and the teacher as a line."""
    columns = list(entries["column"].unique())
    figure, axes = plt.subplots(
        1, len(columns), figsize=(5.2 * len(columns), 5), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, column in zip(axes[0], columns, strict=True):
        shown = entries[entries["column"] == column].set_index("row")
        teacher, shown = shown.loc["teacher", "ours"], shown.drop(index="teacher")
        names, places = shown.index.map(short_name), np.arange(len(shown))
        axis.bar(places, shown["ours"], yerr=shown["ours_std"], color=[PALETTE[name] for name in names], capsize=4)
        axis.scatter(places, shown["paper"], marker="D", facecolor="white", edgecolor="black", zorder=3, label="paper")
        axis.axhline(teacher, color=PALETTE["teacher"], linestyle="--", label="our teacher")
        axis.set(title=column.replace(" to ", " → "), xlim=(-0.6, len(shown) - 0.4), ylim=(0, 100))
        axis.set_xticks(places, [name.replace(" ", "\n") for name in names], rotation=35, ha="right")
        axis.grid(False, axis="x")
    axes[0, 0].set_ylabel("student top-1, %")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def transfer_progress(histories: pd.DataFrame) -> Figure:
    """Fig. 4: accuracy on each fresh batch (left) and on real test images (right) as transfer proceeds."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.2), layout="constrained")
    panels = (
        ("student_on_fresh", "student on fresh images, %"),
        ("student_on_test", "student on real test images, %"),
    )
    for axis, (value, label) in zip(axes, panels, strict=True):
        sns.lineplot(histories, x="round", y=value, hue="method", palette=PALETTE, marker="o", errorbar=None, ax=axis)
        axis.set(xlabel="batches of images so far", ylabel=label, ylim=(0, 103))
        axis.get_legend().remove()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    for method, rows in histories.groupby("method"):
        mean = rows.groupby("round")["teacher_on_fresh"].mean()
        axes[0].plot(mean.index, mean, color=PALETTE[method], linestyle=":", linewidth=1.5)
    axes[0].set_title("synthesised (dotted: the teacher)")
    axes[1].set_title("real")
    return figure


def statistics_sources(entries: pd.DataFrame) -> Figure:
    """Table 8 as a picture: student top-1 against where the feature statistics come from."""
    methods = {"DI top-1": "DeepInversion", "ADI top-1": "Adaptive DeepInversion"}
    shown = entries.assign(method=entries["column"].map(methods))
    figure, axis = plt.subplots(figsize=(9, 5))
    for method, rows in shown.groupby("method", sort=False):
        axis.errorbar(
            rows["row"],
            rows["ours"],
            yerr=rows["ours_std"],
            color=PALETTE[method],
            marker="o",
            capsize=4,
            label=method,
        )
        axis.plot(
            rows["row"],
            rows["paper"],
            color=PALETTE[method],
            linestyle=":",
            marker="D",
            mfc="white",
            alpha=0.7,
        )
    axis.plot([], [], color="gray", linestyle=":", marker="D", mfc="white", label="paper (CIFAR-10)")
    axis.set(xlabel="feature statistics from", ylabel="student top-1, %")
    axis.set_xticks(range(shown["row"].nunique()), [row.replace(" ", "\n", 1) for row in shown["row"].unique()])
    axis.legend()
    figure.tight_layout()
    return figure


def frontier(students: pd.DataFrame) -> Figure:
    """Student top-1 against updates a batch, and against minutes a transfer: one line a family of schedules."""
    families = list(students["family"].unique())
    shades = dict(zip(families, sns.light_palette(PALETTE["DeepInversion"], len(families) + 1)[1:], strict=True))
    figure, axes = plt.subplots(1, 2, figsize=(13, 5), sharey=True)
    for name, rows in students.groupby("family", sort=False):
        points = rows.groupby("updates").agg(top1=("top1", "mean"), spread=("top1", "std"), seconds=("seconds", "mean"))
        style = {"color": shades[name], "marker": "os^"[families.index(name)], "capsize": 4, "label": name}
        axes[0].errorbar(points.index, points["top1"], yerr=points["spread"], **style)
        axes[1].errorbar(points["seconds"] / 60, points["top1"], yerr=points["spread"], **style)
    axes[0].set(xscale="log", xlabel="updates a batch", ylabel="student top-1, %")
    axes[0].set_xticks(sorted(students["updates"].unique()), sorted(students["updates"].unique()), minor=False)
    axes[0].minorticks_off()
    axes[1].set(xlabel="minutes, images and student together")
    axes[0].legend()
    figure.tight_layout()
    return figure


def students_of_pools(sizes: pd.DataFrame, lengths: pd.DataFrame, teacher: float) -> Figure:
    """Student top-1 against the images in its pool (left) and the length of its schedule (right), by source."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.8), sharey=True)
    panels = ((sizes, "images", "images in the pool"), (lengths, "updates", "updates of the student, with mixup"))
    for axis, (frame, column, label) in zip(axes, panels, strict=True):
        for source, rows in frame.groupby("source"):
            points = rows.groupby(column)["top1"].agg(["mean", "std"])
            style = {"color": PALETTE[source], "marker": {"real": "D"}.get(source, "o"), "capsize": 4, "label": source}
            axis.errorbar(points.index, points["mean"], yerr=points["std"], **style)
        axis.axhline(teacher, color=PALETTE["teacher"], linestyle="--", label="teacher")
        axis.set(xscale="log", xlabel=label, ylabel="student top-1, %")
        axis.set_xticks(sorted(frame[column].unique()), [f"{value:,}" for value in sorted(frame[column].unique())])
        axis.minorticks_off()
    axes[1].legend(loc="lower right")
    figure.tight_layout()
    return figure


def learning_new_classes(along: pd.DataFrame) -> Figure:
    """Top-1 on old and on new classes along training, one line a method; one column of panels a task."""
    tasks = list(along["task"].unique())
    figure, axes = plt.subplots(2, len(tasks), figsize=(4.6 * len(tasks) + 1, 7), sharey=True, squeeze=False)
    for column, task in enumerate(tasks):
        for axis, which in zip(axes[:, column], ("old", "new"), strict=True):
            shown = along[(along["task"] == task) & (along["classes"] == which)]
            sns.lineplot(
                shown,
                x="updates",
                y="top1",
                hue="method",
                style="method",
                palette=PALETTE,
                markers=True,
                dashes=False,
                errorbar=None,
                ax=axis,
            )
            axis.set(ylim=(0, 102), xlabel="updates", ylabel=f"{which} classes, top-1, %")
            axis.get_legend().remove()
        axes[0, column].set_title(task, fontsize="small")
    figure.tight_layout()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=5, fontsize="small")
    figure.subplots_adjust(bottom=0.17)
    return figure


def _percentages(axis, shares: Sequence, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Percentages as a heat map with their numbers in it."""
    how = {"vmin": 0, "vmax": 100, "annot": True, "fmt": ".0f", "cmap": "Blues", "cbar": False}
    sns.heatmap(np.asarray(shares), xticklabels=columns, yticklabels=rows, ax=axis, **how)
    axis.set_xticks(axis.get_xticks(), columns, rotation=30, ha="right")
    axis.tick_params(axis="y", rotation=0)


def recognition(shares: pd.DataFrame) -> Figure:
    """A heat map of percentages recognised: images by method (rows) and class (columns)."""
    figure, axis = plt.subplots(figsize=(13, 0.6 * len(shares) + 1.6))
    _percentages(axis, shares, shares.index, shares.columns)
    return figure


def confusion(panels: Mapping[str, Sequence], names: Sequence[str]) -> Figure:
    """One heat map a panel: how many percent of each data set's images (rows) are taken for each one's classes."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels) + 1, 3.8), squeeze=False, sharey=True)
    for axis, (title, shares) in zip(axes[0], panels.items(), strict=True):
        _percentages(axis, shares, names, names)
        axis.set_title(title, fontsize="small")
        axis.set_xlabel("taken for")
        axis.tick_params(axis="y", rotation=0)
    axes[0, 0].set_ylabel("images of")
    figure.tight_layout()
    return figure


def latencies(looked_up: Sequence[float], measured: Sequence[float], r2: float) -> Figure:
    """Measured latency of pruned networks against the looked-up one, in ms, one point a network."""
    figure, axis = plt.subplots(figsize=(6, 5.4))
    axis.scatter(looked_up, measured, color=PALETTE["DeepInversion"], zorder=3, label=f"{len(measured)} networks")
    most = 1.05 * max(*looked_up, *measured)
    axis.plot([0, most], [0, most], color="gray", linestyle="--", label="equal")
    axis.set(xlim=(0, most), ylim=(0, most), xlabel="looked up, ms", ylabel="measured, ms", title=f"R² = {r2:.4f}")
    axis.legend()
    figure.tight_layout()
    return figure


def tuning_sources(entries: pd.DataFrame, teacher: float) -> Figure:
    """Table 4 as a picture: top-1 by image source, one panel a column."""
    columns = list(entries["column"].unique())
    width = 6.2 if len(columns) < 3 else 3.6
    figure, axes = plt.subplots(1, len(columns), figsize=(width * len(columns), 4.8), sharey=True, squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        shown = entries[entries["column"] == column]
        colours = [PALETTE.get(row, "lightgray") for row in shown["row"]]
        axis.bar(shown["row"], shown["ours"], yerr=shown["ours_std"], color=colours, capsize=4)
        axis.axhline(teacher, color=PALETTE["teacher"], linestyle="--", label="whole network")
        axis.set(title=column, ylim=(0, 100))
        axis.set_xticks(range(len(shown)), shown["row"], rotation=35, ha="right")
        axis.grid(False, axis="x")
    axes[0, 0].set_ylabel("top-1, %")
    axes[0, 0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.1))
    figure.tight_layout()
    return figure


def at_equal_latency(points: pd.DataFrame) -> Figure:
    """Table 9 as a picture: top-1 against measured latency, one line a ranking."""
    figure, axis = plt.subplots(figsize=(8, 5))
    styles = {"Taylor": (PALETTE["textbook"], "s"), "Hardware-aware Taylor": (PALETTE["DeepInversion"], "o")}
    for ranking, rows in points.groupby("ranking", sort=False):
        colour, marker = styles[ranking]
        axis.plot(rows["milliseconds"], rows["top1"], color=colour, marker=marker, label=ranking)
    axis.set(xlabel="measured latency of a batch, ms", ylabel="top-1 after tuning, %")
    axis.legend()
    figure.tight_layout()
    return figure


def feature_plane(points: pd.DataFrame) -> Figure:
    """Fig. 7: images as points on the plane of two principal components of real features, with marginals."""
    colours = dict(zip(points["images"].unique(), _by_round(points["images"].nunique() - 1), strict=True))
    grid = sns.JointGrid(points, x="first", y="second", hue="images", palette=colours, height=8)
    grid.plot_joint(sns.scatterplot, style=points["images"], s=22, alpha=0.7)
    grid.plot_marginals(sns.kdeplot, common_norm=False)
    grid.set_axis_labels("first principal component", "second principal component")
    sns.move_legend(grid.ax_joint, "best", title=None, markerscale=1.5, fontsize="small")
    return grid.figure


def distances_to_real(distances: pd.DataFrame) -> Figure:
    """How far images are from their nearest real one, by kind of image, beside real ones from each other."""
    colours = dict(zip(distances["images"].unique(), _by_round(distances["images"].nunique() - 1), strict=True))
    figure, axis = plt.subplots(figsize=(8, 4.4))
    sns.ecdfplot(distances, x="distance", hue="images", palette=colours, ax=axis)
    axis.set(xlabel="distance to the nearest (other) real image, in features", ylabel="share of images")
    sns.move_legend(axis, "lower right", title=None)
    figure.tight_layout()
    return figure


def _by_round(rounds: int) -> list:
    """Colours for real images, DeepInversion's and those of each adaptive round."""
    adaptive = sns.light_palette(PALETTE["Adaptive DeepInversion"], rounds + 1)[2:]
    return [PALETTE["real"], PALETTE["DeepInversion"], *adaptive]


def growth(images: pd.DataFrame, sizes: pd.DataFrame) -> Figure:
    """Seconds of an update against images a batch and resolution, with straight lines in images and in pixels."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.8))
    panels = ((images, "images", 1, "images in a batch"), (sizes, "size", 2, "resolution, pixels a side"))
    for axis, (frame, column, power, label) in zip(axes, panels, strict=True):
        measured = frame[column] ** power
        slope, intercept = np.polyfit(measured, frame["seconds"], 1)
        along = np.linspace(frame[column].min(), frame[column].max(), 100)
        axis.plot(along, slope * along**power + intercept, color="gray", linestyle="--", label="line it should follow")
        axis.scatter(frame[column], frame["seconds"], color=PALETTE["DeepInversion"], zorder=3, label="measured")
        axis.set(xlabel=label, ylabel="seconds an update", ylim=(0, None), xticks=frame[column])
    axes[0].legend()
    figure.tight_layout()
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


def labelled_images(images: Tensor, names: Sequence[str], columns: int = 5) -> Figure:
    """A grid of colour images (N, 3, H, W), uint8, each under its name."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.95 * rows), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, name in zip(axes.flat, images, names, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.set_title(name, fontsize="x-small", pad=3)
    return figure


def along_updates(images: Tensor, after: Sequence[int], terms: pd.DataFrame) -> Figure:
    """One image (N, 3, H, W), uint8, after so many updates each, and below it the loss terms (a column each)."""
    figure = plt.figure(figsize=(1.15 * len(images), 5.2), layout="constrained")
    grid = figure.add_gridspec(2, len(images), height_ratios=[1, 2.2])
    for place, (image, done) in enumerate(zip(images, after, strict=True)):
        axis = figure.add_subplot(grid[0, place])
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.set_title(str(done), fontsize="x-small")
        axis.axis("off")
    axis = figure.add_subplot(grid[1, :])
    for number, name in enumerate(terms):
        style = ("-", "--", ":", "-.")[number]
        axis.plot(terms.index, terms[name], color=_COLOURS[number], linestyle=style, label=name)
    axis.set(yscale="log", xlabel="updates", ylabel="loss term")
    axis.legend()
    return figure


def colours(means: pd.DataFrame) -> Figure:
    """Mean red, green and blue of synthesised against real images of the same class, one point a class and channel."""
    figure, axis = plt.subplots(figsize=(5.5, 5.2))
    channels = {"red": _COLOURS[3], "green": _COLOURS[2], "blue": _COLOURS[0]}
    sns.scatterplot(means, x="real", y="synthesised", hue="channel", style="channel", palette=channels, ax=axis)
    axis.plot([0, 255], [0, 255], color="gray", linestyle="--", linewidth=1)
    axis.set(xlim=(0, 255), ylim=(0, 255), xlabel="mean of a real image", ylabel="mean of a synthesised image")
    figure.tight_layout()
    return figure
