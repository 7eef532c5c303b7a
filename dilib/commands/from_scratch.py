"""Teach one student of Table 6 by all processes that torchrun starts.

torchrun --nproc-per-node N -m dilib.commands.from_scratch --source deepinversion --schedule long
"""

import argparse
import sys

import torch

from dilib import distributed
from dilib.artifacts import plain
from dilib.checks import check_seed
from dilib.commands.status import status
from dilib.experiments.image_sources import SOURCES
from dilib.experiments.table6_from_scratch import SCHEDULES, student_cell, taught
from dilib.study.cells import Study


def main(arguments: list[str] | None = None) -> int:
    """Make the student's cell; 0 on success, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m dilib.commands.from_scratch", description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="deepinversion", help=f"one of {', '.join(SOURCES)}")
    parser.add_argument("--schedule", default="short", help=f"one of {', '.join(SCHEDULES)}")
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--dataset", help="a data set's name or folder:PATH; default: the scale's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", default="results", help="folder for results")
    parser.add_argument("--artifacts", default="artifacts", help="folder for weights, image pools and data")
    options = parser.parse_args(arguments)
    return status(lambda: _taught(options))


def _taught(options: argparse.Namespace) -> None:
    with distributed.processes() as rank:
        print(_teach_together(options, rank), end="")


def _teach_together(options: argparse.Namespace, rank: int) -> str:
    if options.schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {options.schedule!r}; choose from {', '.join(SCHEDULES)}")
    check_seed(options.seed)
    # The study's artifacts, which all processes share, say its precision.
    study = Study.open(options.scale, options.dataset, options.results, options.artifacts)
    settings = study.scale.from_scratch
    task = (options.source, settings.images, getattr(settings, options.schedule))
    cell = student_cell(study, *task, options.seed)
    # Only the first process writes the cell; where it is there, none has anything to do.
    if rank and not study.has(cell):
        taught(study, *task, plain(cell.settings), options.seed)
    return "" if rank else f"top-1 {study.result(cell)['metrics']['top1']:.2f}\n"


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    sys.exit(main())
