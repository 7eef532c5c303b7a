"""Make images from a trained network, as PNG files by class; many processes may fill one folder (torchrun)."""

import argparse
from collections.abc import Iterator

from dilib import distributed
from dilib.calls.images import CONTACT, make_images
from dilib.commands.given import answered, class_names_of, parser_of, teacher_of


def main(arguments: list[str] | None = None) -> int:
    """Make what is asked for; 0 on success, 2 on bad input."""
    parser = parser_of("invert", __doc__)
    parser.add_argument("--images", type=int, required=True, help="how many, rounded up to whole batches")
    parser.add_argument("--method", default="deepinversion", help="deepinversion or amortised")
    parser.add_argument("--classes", help="comma-separated class indices; default: every class in turn")
    parser.add_argument("--names", help="comma-separated names of all classes, for the folders")
    parser.add_argument("--minutes", type=float, help="about how long it may take; default: the usual updates")
    options = parser.parse_args(arguments)
    return answered(lambda: _made(options))


def _made(options: argparse.Namespace) -> Iterator[str]:
    distributed.use_own_accelerator()
    teacher = teacher_of(options)
    how = {name: getattr(options, name) for name in ("method", "minutes", "precision", "seed")}
    how |= {"classes": _indices(options.classes), "names": class_names_of(options, teacher)}
    pool = make_images(teacher, options.folder, options.images, **how)
    yield f"{len(pool)} images are in {options.folder / 'images'}, a hundred of them in {options.folder / CONTACT}"


def _indices(text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not all(part.isdecimal() for part in text.split(",")):
        raise ValueError(f"--classes {text!r} are not whole numbers; write them as in 1,9,22")
    return [int(part) for part in text.split(",")]
