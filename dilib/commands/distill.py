"""Teach a student what a trained network knows, without its data."""

import argparse
from collections.abc import Iterator

import torch

from dilib.calls import distill as call
from dilib.calls.plans import METHODS
from dilib.commands.given import add_test, answered, parser_of, real_images, teacher_of
from dilib.weights import network_at


def main(arguments: list[str] | None = None) -> int:
    """Teach what is asked for; 0 on success, 2 on bad input."""
    parser = parser_of("distill", __doc__)
    parser.add_argument("--student", required=True, help="package.module:function that makes it")
    parser.add_argument("--method", default=METHODS[0], help=f"how images are made: {', '.join(METHODS)}")
    parser.add_argument("--minutes", type=float, default=12.0, help="about how long it may take (default: 12)")
    rounds = "of the student, in place of minutes; in whole rounds (of 150, with other methods of 100)"
    parser.add_argument("--updates", type=int, help=rounds)
    add_test(parser)
    options = parser.parse_args(arguments)
    return answered(lambda: _taught(options))


def _taught(options: argparse.Namespace) -> Iterator[str]:
    teacher = teacher_of(options)
    test = real_images(options, teacher)
    torch.manual_seed(options.seed)
    student = network_at(options.student)
    how = {name: getattr(options, name) for name in ("method", "minutes", "updates", "precision", "seed")}
    taught = call.distill(teacher, student, options.folder, test=test, **how)
    yield str(taught)
    yield f"Its weights are {options.folder / call.STUDENT}, the last images {options.folder / call.CONTACT}"
