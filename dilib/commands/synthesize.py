"""Fill a pool with images from a trained network, by one process or, with torchrun, by many."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dilib import distributed
from dilib.checks import check_seed
from dilib.commands.status import status
from dilib.experiments.teachers import imagenet_maker, maker_of
from dilib.networks import IMAGENET_CLASSES, check_imagenet_name
from dilib.pool import ImagePool, check_card, save_contact_sheet, save_pictures
from dilib.progress import bar
from dilib.provenance import commit
from dilib.recipe import Recipe
from dilib.study.cells import Study
from dilib.study.scales import SCALES, check_scale


def main(arguments: list[str] | None = None) -> int:
    """Make what the pool lacks; 0 on success, 2 on bad input."""
    options = _parse(arguments)
    return status(lambda: _synthesize(options))


def _synthesize(options: argparse.Namespace) -> None:
    distributed.use_own_accelerator()
    recipe, names = _recipe(options)
    pool = ImagePool(Path(options.pool), recipe)
    _fill(pool, names, -(-options.images // recipe.batch_size))
    there = len(list(pool.folder.glob("batch-*.safetensors"))) * recipe.batch_size
    pool.note(names=names, images=there, commit=commit())


def _fill(pool: ImagePool, names: Sequence[str], batches: int) -> None:
    """All batches, a PNG file for each image, and a contact sheet of the first hundred."""
    size, to_pixels = pool.recipe.batch_size, pool.recipe.teacher.preprocessing.to_pixels
    with bar(batches, f"process {os.environ.get('RANK', 0)}") as progress:
        for index in pool.fill(batches):
            batch = pool.load(index)
            save_pictures(pool.folder / "images", to_pixels(batch.images), batch.labels, names, index * size)
            progress.update()
    shown = [to_pixels(pool.load(index).images) for index in range(min(batches, -(-100 // size)))]
    save_contact_sheet(pool.folder / "contact.png", torch.cat(shown)[:100])


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dilib.commands.synthesize", description=__doc__)
    parser.add_argument("--pool", required=True, help="folder that the images go to")
    parser.add_argument("--images", type=int, required=True, help="how many, rounded up to whole batches")
    parser.add_argument("--teacher", help="an ImageNet classifier, or with --dataset one of the study's networks")
    parser.add_argument("--dataset", help="make 32×32 images from a teacher trained on this data set")
    parser.add_argument("--classes", help="comma-separated class indices; default: every class in turn")
    parser.add_argument("--scale", default="laptop", help=f"settings of one of {', '.join(SCALES)}")
    parser.add_argument("--batch-size", type=int, help="images a batch; default: the scale's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--artifacts", default="artifacts", help="folder with the study's teachers")
    return parser.parse_args(arguments)


def _recipe(options: argparse.Namespace) -> tuple[Recipe, Sequence[str]]:
    """What the options ask for, and the names of the teacher's classes."""
    check_scale(options.scale)
    for option in ("images", "batch_size"):
        if (value := getattr(options, option)) is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')} is {value}; give at least 1")
    scale = SCALES[options.scale]
    name = options.teacher or ("vgg11_bn" if options.dataset else scale.imagenet.teacher)
    if options.dataset and name not in scale.schedule:
        raise ValueError(f"unknown teacher {name!r}; choose from {', '.join(scale.schedule)}")
    if not options.dataset:
        check_imagenet_name(name)
    # All that can be refused is, before the teacher is loaded, or even trained.
    check_seed(options.seed)
    check_card(Path(options.pool), {"teacher": name, "seed": options.seed})
    study = Study.open(options.scale, options.dataset or "imagenet", options.artifacts, options.artifacts)
    names = study.data.classes if options.dataset else IMAGENET_CLASSES
    classes = tuple(range(len(names))) if options.classes is None else _indices(options.classes, len(names))
    maker = maker_of(study, name, options.seed) if options.dataset else imagenet_maker(study, name)
    recipe = maker.recipe(options.seed)
    return replace(recipe, classes=classes, batch_size=options.batch_size or recipe.batch_size), names


def _indices(text: str, count: int) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) < count for part in parts):
        raise ValueError(f"--classes {text!r} are not whole numbers from 0 to {count - 1}; write them as in 1,9,22")
    return tuple(int(part) for part in parts)


if __name__ == "__main__":
    # One thread a process: the order of a sum must not depend on how many processes there are.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    sys.exit(main())
