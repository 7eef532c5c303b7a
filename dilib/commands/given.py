"""What the commands for a network of one's own have in common: how it is named, read and tested."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dilib.classifier import Classifier, Preprocessing
from dilib.commands.status import status
from dilib.image_folders import class_names, decoded, listed
from dilib.networks import IMAGENET_CLASSES, imagenet_classifier
from dilib.provenance import default_device
from dilib.weights import load_weights, network_at


def parser_of(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that say what the teacher is."""
    parser = argparse.ArgumentParser(prog=f"dilib {name}", description=description)
    needed = "a network of your own, package.module:function, needs all of these; an ImageNet classifier its name alone"
    teacher = parser.add_argument_group("the teacher", needed)
    teacher.add_argument(
        "--teacher", required=True, help="package.module:function that makes it, or an ImageNet classifier's name"
    )
    teacher.add_argument("--weights", type=Path, help="its weights: safetensors, or a state dict that torch saved")
    teacher.add_argument("--mean", help="of pixels in [0, 1], by channel: 0.491,0.482,0.447")
    teacher.add_argument("--std", help="likewise: 0.247,0.243,0.262")
    teacher.add_argument("--size", help="its images' side in pixels, or height and width: 32 or 96,160")
    parser.add_argument("--folder", type=Path, required=True, help="where everything goes")
    parser.add_argument("--precision", help="float32 or bfloat16; default: whichever is faster here")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def add_test(parser: argparse.ArgumentParser) -> None:
    """An option for real images."""
    folders = "in a folder for each class that begins with its number: FOLDER/0-cat/"
    parser.add_argument("--test", type=Path, help=f"real images to measure with, if there are any, {folders}")


def teacher_of(options: argparse.Namespace) -> Classifier:
    """The teacher that the options describe. Raises ValueError where they do not, and Unreachable without weights."""
    device = default_device()
    if ":" not in options.teacher:
        if options.weights or options.mean or options.std or options.size:
            raise ValueError(f"{options.teacher} has weights and preprocessing of its own; leave those options out")
        return imagenet_classifier(options.teacher, device)
    for option in ("weights", "mean", "std", "size"):
        if not getattr(options, option):
            raise ValueError(f"--{option} is needed for a network of your own; `--help` shows how it is written")
    mean, std, size = (_numbers(options, name) for name in ("mean", "std", "size"))
    preprocessing = Preprocessing(mean, std, int(size[0]) if len(set(size)) == 1 else tuple(map(int, size)))
    network = load_weights(network_at(options.teacher), options.weights).to(device)
    return Classifier(network, preprocessing, type(network).__name__)


def _numbers(options: argparse.Namespace, name: str) -> tuple[float, ...]:
    text = getattr(options, name)
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        example = "32 or 96,160" if name == "size" else "0.5,0.5,0.5"
        raise ValueError(f"--{name} {text!r} is no list of numbers; write it as in {example}") from error


def class_names_of(options: argparse.Namespace, teacher: Classifier) -> Sequence[str] | None:
    """The names given, or ImageNet's for a classifier that goes by name."""
    if options.names:
        return options.names.split(",")
    return IMAGENET_CLASSES if ":" not in options.teacher else None


def real_images(options: argparse.Namespace, teacher: Classifier) -> tuple[Tensor, Tensor] | None:
    """Images of --test/CLASS/ with their labels, by the number that folders begin with, or else by name.

    Raises ValueError for a poor folder.
    """
    folder, size = options.test, teacher.preprocessing.size
    if folder is None:
        return None
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give one with a folder of images for each class")
    if isinstance(size, tuple):
        raise ValueError("--test takes square images alone; test the student from Python")
    names, classes = in_order(class_names(folder)), teacher.structure().classes
    if len(names) != classes:
        raise ValueError(f"{folder} has {len(names)} classes and the teacher {classes}; give a folder for each")
    return decoded(listed(folder, names), teacher.preprocessing.channels, size, options.folder / "decoded")


def in_order(names: Sequence[str]) -> list[str]:
    """Class folders by the number that all begin with, from 0, or else by name. Raises ValueError for other numbers."""
    numbers = [int(found[0]) for name in names if (found := re.match(r"\d+", name))]
    if len(numbers) < len(names):
        return sorted(names)
    if sorted(numbers) != list(range(len(names))):
        raise ValueError(f"class folders are numbered {sorted(numbers)}; number them from 0 to {len(names) - 1}")
    return [name for _, name in sorted(zip(numbers, names, strict=True))]


def answered(work: Callable[[], Sequence[str]]) -> int:
    """Do the work and print what it says at the end; 0 on success, 2 on bad input, which takes one line."""
    sys.path.insert(0, "")  # a console script does not look for modules where it is started
    torch.set_flush_denormal(True)  # denormal numbers, common in vanishing gradients, slow a CPU down many times

    def said() -> None:
        for line in work():
            print(line)

    return status(said)
