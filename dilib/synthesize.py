"""Fill a pool with images from a trained network, by one process or by many: `torchrun … -m dilib.synthesize`."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dilib import parallel
from dilib.classifiers import CLASSES, check_name
from dilib.data import Unreachable
from dilib.pool import ImagePool, save_contact_sheet, save_pictures
from dilib.progress import bar
from dilib.recipe import Recipe
from dilib.scales import SCALES, check_scale
from dilib.study import Study, commit
from dilib.subject import of_imagenet, of_study


def main(arguments: list[str] | None = None) -> int:
    """Make what the pool lacks; 0 on success, 2 on bad input."""
    options = _parse(arguments)
    parallel.use_own_accelerator()
    try:
        recipe, names = _recipe(options)
        batches = -(-options.images // recipe.batch_size)
        pool = ImagePool(Path(options.pool), recipe.card)
        pool.claim()
        _fill(pool, recipe, names, batches)
        there = len(list(pool.folder.glob("batch-*.safetensors"))) * recipe.batch_size
        pool.claim(names=names, images=there, commit=commit())
    except (ValueError, FloatingPointError, Unreachable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; finished batches are whole: mend that, and run this again", file=sys.stderr)
        return 2
    return 0


def _fill(pool: ImagePool, recipe: Recipe, names: list[str], batches: int) -> None:
    """All batches, a PNG file for each image, and a contact sheet of the first hundred."""

    def pixels(index: int) -> Tensor:
        return recipe.teacher.preprocessing.to_pixels(pool.load(index)[0])

    with bar(batches, f"process {os.environ.get('RANK', 0)}") as progress:
        for index in pool.fill(batches, recipe.make):
            first = index * recipe.batch_size
            save_pictures(pool.folder / "images", pixels(index), recipe.labels(index), names, first)
            progress.update()
    shown = min(batches, -(-100 // recipe.batch_size))
    save_contact_sheet(pool.folder / "contact.png", torch.cat([pixels(index) for index in range(shown)])[:100])


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dilib.synthesize", description=__doc__)
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


def _recipe(options: argparse.Namespace) -> tuple[Recipe, list[str]]:
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
        check_name(name)
    # A pool of another teacher's is refused before this one is loaded, or even trained.
    ImagePool(Path(options.pool), {"teacher": name}).check()
    if options.dataset:
        study = Study(options.scale, options.dataset, options.artifacts, options.artifacts)
        recipe, names = of_study(study, name).recipe(), list(study.data.classes)
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        recipe, names = of_imagenet(scale, name, device).recipe(), list(CLASSES)
    if options.classes:
        recipe = replace(recipe, classes=_indices(options.classes, len(names)))
    return replace(recipe, batch_size=options.batch_size or recipe.batch_size, seed=options.seed), names


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
