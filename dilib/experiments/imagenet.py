"""Tables 2 and 3: images from an ImageNet classifier, judged by networks that did not make them. Sec. 4.2."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dilib import networks
from dilib.artifacts import load_tensors, save_tensors, without_unset
from dilib.calls.plans import MEMORY, VIEWS
from dilib.classifier import resampled
from dilib.data import imagenet_validation
from dilib.downloads import Unreachable
from dilib.evaluation import inception_score, top1
from dilib.inversion import Schedule
from dilib.networks import IMAGENET_CLASSES, imagenet_classifier
from dilib.parameterisation import SpectrumSettings
from dilib.pool import ImagePool, save_contact_sheet, save_pictures
from dilib.progress import bar
from dilib.recipe import FOR_PICTURES, Recipe
from dilib.study.cells import TILES, Cell, Study, read_cell
from dilib.study.scales.settings import ImageNet

if TYPE_CHECKING:
    import pandas

PROGRESS = "progress.safetensors"  # in a pool's folder: the first image along its updates
PARTS = 3  # of the gallery
LONGER = 3  # times the updates
WHOLE = ("deepinversion", "deepdream", "pictures", "longer")  # of which there are images of all classes
VARIANTS = {  # each but the last three differs from DeepInversion in one thing
    "deepinversion": "DeepInversion",
    "deepdream": "DeepDream",
    "no_prior": "no prior",
    "no_flips": "no flips",
    "no_clipping": "no clipping",
    "no_first_layer": "no first-layer weight",
    "single_resolution": "one resolution",
    "waves": "begun as waves",
    "views": "random views",
    "averages": "averaged statistics",
    "waves_and_views": "waves, random views",
    "pictures": "waves, views, averages, smoother",
    "longer": "all of it, longer",
}


def variant(settings: ImageNet, name: str) -> ImageNet:
    """`settings` with what VARIANTS says changed, with as many pixels to update, or LONGER times as many for "longer".

    Raises ValueError for another name.
    """
    objective, (schedule,) = settings.objective, settings.schedules
    size, pixels = schedule.stages[-1][0], _pixels(schedule)
    single = replace(schedule, stages=((size, -(-pixels // size**2)),))
    waves, views, averages = {"spectrum": SpectrumSettings()}, {"views": VIEWS}, {"memory": MEMORY}
    laid_out = schedule
    if len(schedule.stages) == 1:  # waves are for the first of several resolutions
        laid_out = replace(schedule, stages=tuple((side, pixels // 2 // side**2) for side in (size // 4, size)))
        waves["schedules"] = (laid_out,)
    smoother = replace(laid_out, lr=schedule.lr / 2)
    longer = replace(smoother, stages=tuple((side, LONGER * updates) for side, updates in smoother.stages))
    pictures = waves | views | averages | {"objective": replace(objective, alpha_tv=1.5 * objective.alpha_tv)}
    changes = {
        "deepinversion": {},
        "deepdream": {"objective": replace(objective.deepdream(), alpha_tv=settings.deepdream_tv)},
        "no_prior": {"objective": replace(objective, alpha_tv=0.0, alpha_l2=0.0)},
        "no_flips": {"schedules": (replace(schedule, flip=False),)},
        "no_clipping": {"schedules": (replace(schedule, clip=False),)},
        "no_first_layer": {"first_layer": 1.0},
        "single_resolution": {"schedules": (single,)},
        "waves": waves,
        "views": views,
        "averages": averages,
        "waves_and_views": waves | views,
        "pictures": pictures | {"schedules": (smoother,)},
        "longer": pictures | {"schedules": (longer,)},
    }
    if name not in changes:
        raise ValueError(f"unknown variant {name!r}; choose from {', '.join(VARIANTS)}")
    if name not in WHOLE:
        settings = replace(settings, classes=settings.classes[: settings.compared])
    return replace(settings, **changes[name])


def _pixels(schedule: Schedule) -> int:
    """How many pixels are updated for one image."""
    return sum(updates * size**2 for size, updates in schedule.stages)


def variants(settings: ImageNet) -> list[str]:
    """Those of VARIANTS that change something in `settings`."""
    same = {name: replace(variant(settings, name), classes=settings.classes) == settings for name in VARIANTS}
    return [name for name in VARIANTS if name == "deepinversion" or not same[name]]


def longest_first(settings: ImageNet) -> list[str]:
    """Its variants by what they cost, so that no core waits for another at the end."""
    made = {name: variant(settings, name) for name in variants(settings)}
    return sorted(made, key=lambda name: -len(made[name].classes) * _pixels(made[name].schedules[0]))


def variant_cell(study: Study, name: str, seed: int = 0) -> Cell:
    """Images by one variant, and what their teacher and the other networks make of them.

    Its samples are the images: DeepInversion's in full, after TILES snapshots of the first, those for pictures in full,
    others' at half the size.
    """
    settings = _used(variant(study.scale.imagenet, name))
    return Cell(f"imagenet--{name}", settings, partial(_variant_metrics, study, name, seed), seed)


def gallery_cells(study: Study) -> list[Cell]:
    """The gallery in PARTS, each with a seed of its own: images made for pictures, and what the networks make of them.

    Their samples are the images at half the size.
    """
    whole = variant(study.scale.imagenet, "pictures")
    parts = [replace(whole, classes=whole.gallery[part::PARTS]) for part in range(PARTS if whole.gallery else 0)]
    return [
        Cell("gallery", _used(each), partial(_gallery_metrics, study, each, part), part)
        for part, each in enumerate(parts)
    ]


def _used(settings: ImageNet) -> dict:
    """The settings that images depend on."""
    unused = {"transfer", "deepdream_tv", "alpha_c", "gallery"}
    used = {name: value for name, value in vars(settings).items() if name not in unused}
    return {"imagenet": without_unset(used, FOR_PICTURES)}


def _gallery_metrics(study: Study, settings: ImageNet, seed: int) -> dict:
    _, pixels, seconds = _synthesised(study, settings, seed, f"gallery {seed + 1} of {PARTS}")
    judged = _judged(study, settings, pixels, torch.tensor(settings.classes))
    return {**judged, "seconds": seconds, "samples": resampled(pixels, pixels.shape[-1] // 2)}


def _variant_metrics(study: Study, name: str, seed: int) -> dict:
    settings = variant(study.scale.imagenet, name)
    pool, pixels, seconds = _synthesised(study, settings, seed, VARIANTS[name])
    metrics = {**_judged(study, settings, pixels, torch.tensor(settings.classes)), "seconds": seconds}
    if name in ("pictures", "longer"):
        return {**metrics, "samples": pixels}
    if name != "deepinversion":
        return {**metrics, "samples": resampled(pixels, pixels.shape[-1] // 2)}
    progress = load_tensors(pool.folder / PROGRESS, pool.card)[0]
    snapshots = pool.recipe.teacher.preprocessing.to_pixels(progress["images"])
    return {
        **metrics,
        "history": pool.history(0).tolist(),
        "snapshots_after": progress["after"].tolist(),
        "samples": torch.cat([snapshots, pixels]),
    }


def real_result(study: Study) -> dict | None:
    """Real validation images of the same classes before the same networks; None with neither the cell nor images.

    The cell keeps their mean colours, not the images: they are not ours to publish.
    """
    return study.result(real_cell(study)) if has_real(study) else None


def has_real(study: Study) -> bool:
    """Whether there is the cell of real images, or the images."""
    found = study.has(real_cell(study))
    return found or imagenet_validation(study.data_folder, study.scale.imagenet.classes) is not None


def real_cell(study: Study) -> Cell:
    """What the networks make of real images, where there are any."""
    settings = study.scale.imagenet
    networks = [settings.teacher, *settings.judges, settings.scorer]
    return Cell("imagenet--real", {"networks": networks, "classes": settings.classes}, partial(_real_metrics, study))


def _real_metrics(study: Study) -> dict:
    settings = study.scale.imagenet
    real = imagenet_validation(study.data_folder, settings.classes)
    return {**_judged(study, settings, real.pixels, real.labels), "colours": mean_colours(real.pixels)}


def _synthesised(study: Study, settings: ImageNet, seed: int, label: str) -> tuple[ImagePool, Tensor, float]:
    """A pool of batches, one image a class, its pixels (N, 3, H, W), uint8, and the seconds that they took.

    Goes on from the last finished batch. The pool's folder also holds a contact sheet, PNG files, and PROGRESS.
    """
    teacher = imagenet_classifier(settings.teacher, study.device, study.precision)
    parts = (settings.classes, settings.batch_size, settings.objective, settings.schedules, settings.first_layer)
    pictures = {name: getattr(settings, name) for name in FOR_PICTURES}
    pool = study.pool(Recipe(teacher, *parts, seed, **pictures))
    batches = -(-len(settings.classes) // settings.batch_size)
    updates = [pool.recipe.schedule(index).updates() for index in range(batches)]
    snapshots, pixels, seconds = Snapshots(updates[0]), [], 0.0
    if load_tensors(pool.folder / PROGRESS, pool.card) is None:
        pool.path(0).unlink(missing_ok=True)  # they are taken while it is made
    with bar(sum(updates), label) as progress:

        def watch(index: int, done: int, images: Tensor) -> None:
            progress.update()
            if index == 0 and snapshots(done, images):
                save_tensors(pool.folder / PROGRESS, snapshots.tensors(images.shape[-1]), pool.card)

        for index in pool.fill(batches, watch):
            progress.update(sum(updates[: index + 1]) - progress.n)
            batch = pool.load(index)
            pixels.append(teacher.preprocessing.to_pixels(batch.images))
            seconds += batch.seconds
            save_pictures(
                pool.folder / "images", pixels[-1], batch.labels, IMAGENET_CLASSES, index * settings.batch_size
            )
            save_contact_sheet(pool.folder / "contact.png", torch.cat(pixels))
    return pool, torch.cat(pixels)[: len(settings.classes)], seconds


class Snapshots:
    """TILES copies of a batch's first image along its updates, close together at first; true once it has them all."""

    def __init__(self, updates: int):
        self.after = [max(1, round(updates * (tile / TILES) ** 2)) for tile in range(1, TILES + 1)]
        self.images: list[Tensor] = []

    def __call__(self, done: int, images: Tensor) -> bool:
        self.images += [images[:1].detach().float().clone()] * self.after.count(done)
        return done == self.after[-1]

    def tensors(self, size: int) -> dict[str, Tensor]:
        """The numbers of updates, and the images at one resolution."""
        images = torch.cat([F.interpolate(image, size) for image in self.images])
        return {"after": torch.tensor(self.after), "images": images}


def _judged(study: Study, settings: ImageNet, pixels: Tensor, labels: Tensor) -> dict:
    """What teacher and judges name each image, their top-1 in percent, and the Inception Score; or why one can't."""
    found: dict = {"top1": {}, "named": {}, "not_run": {}}
    for name in dict.fromkeys((settings.teacher, *settings.judges, settings.scorer)):
        try:
            network = imagenet_classifier(name, study.device)
        except Unreachable as error:
            found["not_run"][name] = str(error)
            continue
        logits = network.logits(pixels)
        found["top1"][name] = top1(logits, labels)
        found["named"][name] = logits.argmax(1).tolist()
        if name == settings.scorer:
            found["inception_score"] = inception_score(logits)
    return found


def captioned(results: Path) -> str:
    """README's picture with its caption, from the cell that its images are in; "" where there is none."""
    folder = results / "laptop" / "imagenet"
    path = folder / "cells" / "imagenet--longer--seed0.json"
    if not path.exists():
        return ""
    cell = read_cell(path)
    settings, metrics = cell["settings"]["imagenet"], cell["metrics"]
    classes = [IMAGENET_CLASSES[label] for label in settings["classes"]]
    each, device = cell["seconds"] / len(classes), cell["device"].replace(" 1 threads", " one thread")
    named = [round(metrics["top1"][judge] * len(classes) / 100) for judge in settings["judges"]]
    picture = f"![{len(classes) // 2} images at 224×224, made from a classifier: {', '.join(classes[:4])}, …]"
    words = (
        f"*ImageNet classes as {networks.title(settings['teacher'])} remembers them, not chosen: the first "
        f"{len(classes) // 2} of {len(classes)}, {each:.0f} seconds each ({device}). In "
        f"brackets, how many of {len(named)} related networks recognise the class; of all {len(classes)} they "
        f"recognise {' and '.join(map(str, named))}. They are made to be looked at, not the paper's way, in {LONGER} "
        "times the updates of `dilib.make_images`, which takes more `minutes`, too: "
        "[07_imagenet](notebooks/07_imagenet.ipynb) has the paper's, that call's, and these.*"
    )
    return f"{picture}({results.name}/laptop/imagenet/longer.png)\n\n{textwrap.fill(words, 140)}"


def mean_colours(images: Tensor) -> list[list[float]]:
    """Mean of each channel of each image (N, 3, H, W), uint8: N times 3 numbers, 0 to 255."""
    return images.float().mean((2, 3)).tolist()


def colours_by_class(colours: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str]) -> "pandas.DataFrame":
    """Mean colours of several sets of images, one a class: a row a class and channel, a column a set."""
    import pandas as pd

    frame = pd.DataFrame([(name, channel) for name in names for channel in ("red", "green", "blue")])
    frame.columns = ["class", "channel"]
    return frame.assign(**{kind: [value for colour in found for value in colour] for kind, found in colours.items()})
