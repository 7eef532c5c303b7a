"""Make the results that the notebooks read, without a notebook, the most telling first: for hosts without Jupyter.

Any number of processes may fill one folder of results, each on one thread: on a host, one for each core.
"""

import argparse
import sys
import time

from filelock import Timeout

from dilib.calls.budget import check_budget
from dilib.checks import check_seed
from dilib.commands.status import status
from dilib.downloads import Unreachable
from dilib.experiments import amortisation, catalogue, estimates, own_network
from dilib.study.cells import Cell, Study
from dilib.study.scales import SCALES, Scale, check_scale
from dilib.study.scales.settings import PAIRS

# Left to the notebooks: what says how long something takes, or depends on that, is measured beside nothing else.
TIMED = (
    "growth",
    "resolution",
    "latency",
    "speeds",
    "pruned",
    "tuned",
    "choice--eta",
    own_network.NAME,
    amortisation.OTHER_WIDTH,
)
MARGIN = 1.3  # for what the timed steps leave out, and what else the machine does meanwhile
BUSY = "another process makes it"
FAILURES = (ValueError, FloatingPointError, Unreachable, ModuleNotFoundError)  # of one cell


def main(arguments: list[str] | None = None) -> int:
    """Make what is missing and fits into the time; 0 on success, 1 where a result failed, 2 on bad input."""
    options = _parse(arguments)
    return status(lambda: _filled(options))


def _filled(options: argparse.Namespace) -> int:
    check_scale(options.scale)
    notebooks, seeds = _notebooks(SCALES[options.scale], options.only), _seeds(options.seeds)
    check_budget("minutes", minutes=options.minutes)
    study = Study.open(options.scale, options.dataset, options.results, options.artifacts)
    wanted = _wanted(study, notebooks, seeds, options.pairs)
    missing = [cell for cell in wanted if not study.has(cell)]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} results are in {study.results}", flush=True)
    return _fill(study, missing, options.minutes)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dilib fill", description=__doc__)
    parser.add_argument("--scale", default="laptop", help=f"one of {', '.join(SCALES)}")
    parser.add_argument("--dataset", help="a data set's name or folder:PATH; default: the scale's own")
    parser.add_argument("--only", default="", help="only what notebooks ask for whose file name contains this")
    parser.add_argument("--seeds", default="0", help="comma-separated seeds, as in 0,1,2")
    every = range(1, len(PAIRS) + 1)
    parser.add_argument("--pairs", type=int, default=len(PAIRS), choices=every, help="how many of Table 1's pairs")
    parser.add_argument("--minutes", type=float, help="begin nothing that would not end in so many; default: no limit")
    parser.add_argument("--results", default="results", help="folder for results")
    parser.add_argument("--artifacts", default="artifacts", help="folder for weights, image pools and data")
    return parser.parse_args(arguments)


def _notebooks(scale: Scale, only: str) -> list[str]:
    every = [name for name in catalogue.CELLS if scale.has(name)]
    found = [name for name in every if only in name]
    if not found:
        raise ValueError(f"no notebook is called {only!r}; choose a part of {', '.join(every)}")
    return found


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"seeds {text!r} are not whole numbers; write them as in 0,1,2") from error
    for seed in seeds:
        check_seed(seed)
    return seeds


def _wanted(study: Study, notebooks: list[str], seeds: list[int], pairs: int) -> list[Cell]:
    """The cells of the notebooks, each once, seed by seed within a notebook."""
    tasks = [(notebook, seed) for notebook in notebooks for seed in seeds]
    every = [cell for task in tasks for cell in catalogue.cells(study, *task, pairs)]
    found = {(cell.name, cell.seed): cell for cell in every if not cell.name.startswith(TIMED)}
    if not found:
        raise ValueError(f"nothing of {', '.join(notebooks)} can be made here; use `make reproduce`, or other data")
    return list(found.values())


def _fill(study: Study, missing: list[Cell], minutes: float | None) -> int:
    """Make what there is time for, with a line on each cell; 1 where one failed, which stops no other."""
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    failed = 0
    for cell in missing:
        if time.monotonic() >= end:
            print("the others: left, as there is no time", flush=True)
            break
        if study.has(cell):
            continue  # another process has made it meanwhile
        name = f"{cell.name}, seed {cell.seed}"
        try:
            said = _why_left(study, cell, end) or _in_short(study.result(cell, wait=False))
            print(f"{name}: {said}", flush=True)
        except Timeout:
            print(f"{name}: {BUSY}", flush=True)
        except FAILURES as error:
            failed = 1
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
    return failed


def _why_left(study: Study, cell: Cell, end: float) -> str:
    """Why a cell is not begun; "" where nothing is against it."""
    if study.being_made(cell):
        return BUSY
    if end == float("inf"):
        return ""
    needed, left = estimates.seconds_of(study, cell), end - time.monotonic()
    if needed is None:
        return "left, as there is no telling how long it takes; call this without --minutes"
    needed *= MARGIN
    return "" if needed < left else f"left, as it needs {_in_minutes(needed)} and there are {_in_minutes(left)}"


def _in_short(made: dict) -> str:
    top1 = f"{made['metrics']['top1']:.2f} %, " if "top1" in made["metrics"] else ""
    return f"{top1}{_in_minutes(made['seconds'])}"


def _in_minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"


if __name__ == "__main__":
    sys.exit(main())
