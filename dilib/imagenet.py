"""Sec. 4.2 as cells: images from an ImageNet classifier, judged by networks that did not make them (Tables 2 and 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dilib.artifacts import digest, load_tensors, save_tensors
from dilib.classifiers import CLASSES, Classifier, load_classifier, resampled
from dilib.data import Unreachable, imagenet_validation
from dilib.evaluation import inception_score, top1
from dilib.inversion import Inversion
from dilib.pool import ImagePool, save_contact_sheet, save_pictures
from dilib.progress import bar
from dilib.recipe import Recipe
from dilib.scales import ImageNet
from dilib.study import TILES, Study, plain
from dilib.workers import cells_side_by_side

PROGRESS = "progress.safetensors"  # in a pool's folder: the first image along its updates
VARIANTS = {  # each differs from DeepInversion in one thing
    "deepinversion": "DeepInversion",
    "deepdream": "DeepDream",
    "no_prior": "no prior",
    "no_flips": "no flips",
    "no_clipping": "no clipping",
    "no_first_layer": "no first-layer weight",
    "single_resolution": "one resolution",
}


def variant(settings: ImageNet, name: str) -> ImageNet:
    """`settings` with what VARIANTS says left out, at equal cost. Raises ValueError for another name."""
    objective, (schedule,) = settings.objective, settings.schedules
    size, pixels = schedule.stages[-1][0], sum(updates * size**2 for size, updates in schedule.stages)
    single = replace(schedule, stages=((size, -(-pixels // size**2)),))
    changes = {
        "deepinversion": {},
        "deepdream": {"objective": objective.deepdream()},
        "no_prior": {"objective": replace(objective, alpha_tv=0.0, alpha_l2=0.0)},
        "no_flips": {"schedules": (replace(schedule, flip=False),)},
        "no_clipping": {"schedules": (replace(schedule, clip=False),)},
        "no_first_layer": {"first_layer": 1.0},
        "single_resolution": {"schedules": (single,)},
    }
    if name not in changes:
        raise ValueError(f"unknown variant {name!r}; choose from {', '.join(VARIANTS)}")
    if name not in ("deepinversion", "deepdream"):
        settings = replace(settings, classes=settings.classes[: settings.compared])
    return replace(settings, **changes[name])


def run_variants(study: Study, names: Sequence[str], seed: int) -> dict[str, dict]:
    """The cells of several variants, by name, made side by side where they are not there yet, the longest first."""
    longest_first = sorted(names, key=lambda name: -len(variant(study.scale.imagenet, name).classes))
    found = cells_side_by_side(variant_cell, _variant_key, study, [(name, seed) for name in longest_first])
    return dict(zip(longest_first, found, strict=True))


def variant_cell(study: Study, name: str, seed: int) -> dict:
    """Images by one variant, and what their teacher and the other networks make of them.

    Its samples are the images: DeepInversion's in full, after TILES snapshots of the first, others' at half the size.
    """
    key, settings, _ = _variant_key(study, name, seed)
    return study.cell(key, settings, lambda: _variant_metrics(study, name, seed), seed)


def _variant_key(study: Study, name: str, seed: int) -> tuple[str, dict, int]:
    return f"imagenet--{name}", plain({"imagenet": variant(study.scale.imagenet, name)}), seed


def _variant_metrics(study: Study, name: str, seed: int) -> dict:
    settings = variant(study.scale.imagenet, name)
    teacher = load_classifier(settings.teacher, study.device)
    pool, pixels = synthesise(study, teacher, settings, seed, VARIANTS[name])
    metrics = _judged(study, settings, pixels, torch.tensor(settings.classes))
    if name != "deepinversion":
        return {**metrics, "samples": resampled(pixels, pixels.shape[-1] // 2)}
    progress = load_tensors(pool.folder / PROGRESS, pool.card)[0]
    return {
        **metrics,
        "history": pool.history(0).tolist(),
        "snapshots_after": progress["after"].tolist(),
        "samples": torch.cat([teacher.preprocessing.to_pixels(progress["images"]), pixels]),
    }


def real_cell(study: Study) -> dict | None:
    """Real validation images of the same classes before the same networks; None with neither the cell nor images.

    The cell keeps their mean colours, not the images: they are not ours to publish.
    """
    settings = study.scale.imagenet
    real, key = imagenet_validation(study.data_folder, settings.classes), _real_key(settings)
    if real is None and not study.has(*key):
        return None

    def metrics() -> dict:
        return {**_judged(study, settings, real.pixels, real.labels), "colours": mean_colours(real.pixels)}

    name, settings_of_cell, seed = key
    return study.cell(name, settings_of_cell, metrics, seed)


def _real_key(settings: ImageNet) -> tuple[str, dict, int]:
    networks = [settings.teacher, *settings.judges, settings.scorer]
    return "imagenet--real", plain({"networks": networks, "classes": settings.classes}), 0


def synthesise(
    study: Study, teacher: Classifier, settings: ImageNet, seed: int, label: str
) -> tuple[ImagePool, Tensor]:
    """A pool of batches, one image a class, and its pixels (N, 3, H, W), uint8, which are also beside it as PNG files.

    Goes on from the last finished batch. The pool's folder also holds a contact sheet, and PROGRESS.
    """
    parts = (settings.classes, settings.batch_size, settings.objective, settings.schedules, settings.first_layer)
    recipe = Recipe(teacher, *parts, seed)
    pool = ImagePool(study.pools / digest(recipe.card), recipe.card)
    pool.claim()
    batches = -(-len(settings.classes) // settings.batch_size)
    updates = [recipe.schedule(index).updates() for index in range(batches)]
    pixels: list[Tensor] = []
    with bar(sum(updates), label) as progress:
        for index in pool.fill(batches, partial(_make_batch, pool, recipe, progress)):
            progress.update(sum(updates[: index + 1]) - progress.n)
            pixels.append(teacher.preprocessing.to_pixels(pool.load(index)[0]))
            first = index * settings.batch_size
            save_pictures(pool.folder / "images", pixels[-1], recipe.labels(index), CLASSES, first)
            save_contact_sheet(pool.folder / "contact.png", torch.cat(pixels))
    return pool, torch.cat(pixels)[: len(settings.classes)]


def _make_batch(pool: ImagePool, recipe: Recipe, progress, index: int) -> Inversion:
    """One batch of the pool, and from the first one PROGRESS."""
    snapshots = Snapshots(recipe.schedule(index).updates())

    def watch(done: int, images: Tensor) -> None:
        progress.update()
        snapshots(done, images)

    made = recipe.make(index, watch)
    if index == 0:
        save_tensors(pool.folder / PROGRESS, snapshots.tensors(made.images.shape[-1]), pool.card)
    return made


class Snapshots:
    """TILES copies of a batch's first image along its updates, close together at first."""

    def __init__(self, updates: int):
        self.after = [max(1, round(updates * (tile / TILES) ** 2)) for tile in range(1, TILES + 1)]
        self.images: list[Tensor] = []

    def __call__(self, done: int, images: Tensor) -> None:
        self.images += [images[:1].detach().float().clone()] * self.after.count(done)

    def tensors(self, size: int) -> dict[str, Tensor]:
        """The numbers of updates, and the images at one resolution."""
        return {
            "after": torch.tensor(self.after),
            "images": torch.cat([F.interpolate(image, size) for image in self.images]),
        }


def _judged(study: Study, settings: ImageNet, pixels: Tensor, labels: Tensor) -> dict:
    """What teacher and judges name each image, their top-1 in percent, and the Inception Score; or why one can't."""
    found: dict = {"top1": {}, "named": {}, "not_run": {}}
    for name in dict.fromkeys((settings.teacher, *settings.judges, settings.scorer)):
        try:
            network = load_classifier(name, study.device)
        except Unreachable as error:
            found["not_run"][name] = str(error)
            continue
        logits = network.logits(pixels)
        found["top1"][name] = top1(logits, labels)
        found["named"][name] = logits.argmax(1).tolist()
        if name == settings.scorer:
            found["inception_score"] = inception_score(logits)
    return found


def mean_colours(images: Tensor) -> list[list[float]]:
    """Mean of each channel of each image (N, 3, H, W), uint8: N times 3 numbers, 0 to 255."""
    return images.float().mean((2, 3)).tolist()


def colours_by_class(colours: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str]) -> pd.DataFrame:
    """Mean colours of several sets of images, one a class: a row a class and channel, a column a set."""
    frame = pd.DataFrame([(name, channel) for name in names for channel in ("red", "green", "blue")])
    frame.columns = ["class", "channel"]
    return frame.assign(**{kind: [value for colour in found for value in colour] for kind, found in colours.items()})
