"""Make the results that the notebooks read, without a notebook, the most telling first: for hosts without Jupyter.

Any number of processes may fill one folder of results, each on one thread: on a host, one for each core.
"""

import argparse
import sys
import time
from collections.abc import Iterator

from filelock import Timeout

from dilib.checks import check_seed
from dilib.downloads import Unreachable
from dilib.experiments import catalogue, estimates
from dilib.study.cells import Cell, Study
from dilib.study.scales import SCALES
from dilib.study.scales.settings import PAIRS

TIMED = ("growth", "latency", "speeds", "resolution")  # cells that say how long something takes, beside nothing else


def main(arguments: list[str] | None = None) -> int:
    """Make what is missing and fits into the time; 0 on success, 2 on bad input."""
    options = _parse(arguments)
    try:
        study = Study.open(options.scale, options.dataset, options.results, options.artifacts)
        wanted = list(_wanted(study, options))
        missing = [cell for cell in wanted if not study.has(cell)]
        print(f"{len(wanted) - len(missing)} of {len(wanted)} results are in {study.results}")
        for line in _filled(study, missing, options.minutes):
            print(line, flush=True)
    except (ValueError, FloatingPointError, Unreachable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; mend that, and the same command goes on", file=sys.stderr)
        return 2
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dilib fill", description=__doc__)
    parser.add_argument("--scale", default="laptop", help=f"one of {', '.join(SCALES)}")
    parser.add_argument("--dataset", help="a data set's name or folder:PATH; default: the scale's own")
    parser.add_argument("--only", default="", help="only what notebooks ask for whose file name contains this")
    parser.add_argument("--seeds", default="0", help="comma-separated seeds, as in 0,1,2")
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="how many of Table 1's pairs: 1, 2 or 3")
    parser.add_argument("--minutes", type=float, help="begin nothing that would not end in so many; default: no limit")
    parser.add_argument("--results", default="results", help="folder for results")
    parser.add_argument("--artifacts", default="artifacts", help="folder for weights, image pools and data")
    return parser.parse_args(arguments)


def _wanted(study: Study, options: argparse.Namespace) -> Iterator[Cell]:
    """The cells of the notebooks that are asked for, each once, seed by seed within a notebook."""
    notebooks = [name for name in catalogue.CELLS if options.only in name]
    if not notebooks:
        raise ValueError(f"no notebook is called {options.only!r}; choose a part of {', '.join(catalogue.CELLS)}")
    if not 1 <= options.pairs <= len(PAIRS):
        raise ValueError(f"there are no {options.pairs} pairs; choose from 1 to {len(PAIRS)}")
    found = {}
    for notebook in notebooks:
        for seed in _seeds(options.seeds):
            for cell in catalogue.cells(study, notebook, seed, options.pairs):
                if not cell.name.startswith(TIMED):
                    found[cell.name, cell.seed] = cell
    return iter(found.values())


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"seeds {text!r} are not whole numbers; write them as in 0,1,2") from error
    for seed in seeds:
        check_seed(seed)
    return seeds


def _filled(study: Study, missing: list[Cell], minutes: float | None) -> Iterator[str]:
    """A line on each cell: made, left to another process, or left as there is no time for it."""
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    for number, cell in enumerate(missing):
        name = f"{cell.name}, seed {cell.seed}"
        if (left := end - time.monotonic()) <= 0:
            yield f"{len(missing) - number} results are left, and no time"
            return
        if study.has(cell):
            continue  # another process has made it meanwhile
        if minutes is not None and not (needed := estimates.seconds_of(study, cell) or float("inf")) < left:
            yield f"{name}: left, as it needs {_in_minutes(needed)} and there are {_in_minutes(left)}"
            continue
        try:
            made = study.result(cell, wait=False)
        except Timeout:
            yield f"{name}: another process makes it"
            continue
        top1 = f"{made['metrics']['top1']:.2f} %, " if "top1" in made["metrics"] else ""
        yield f"{name}: {top1}{_in_minutes(made['seconds'])}"


def _in_minutes(seconds: float) -> str:
    return "an unknown time" if seconds == float("inf") else f"{seconds / 60:.1f} minutes"


if __name__ == "__main__":
    sys.exit(main())
