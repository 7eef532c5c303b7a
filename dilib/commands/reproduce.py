"""Run the study's notebooks headlessly, in order, into results/SCALE/DATASET: `make reproduce`."""

import argparse
import contextlib
import os
import re
import sys
import time
from pathlib import Path

import papermill

from dilib import data
from dilib.artifacts import write_atomically
from dilib.checks import check_seed
from dilib.commands.status import status
from dilib.downloads import Unreachable
from dilib.progress import TERMINAL_BARS
from dilib.study import notebooks, report
from dilib.study.cells import Study
from dilib.study.scales import SCALES, Scale, check_scale
from dilib.study.scratch import MADE, READ, noted, scratch

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FALLBACK = "digits"  # comes with scikit-learn, so it is always there


def main(arguments: list[str] | None = None) -> int:
    """Run the notebooks that are asked for; 0 on success, 1 when one fails, 2 on bad input."""
    options = _parse(arguments)
    return status(lambda: _reproduced(options))


def _reproduced(options: argparse.Namespace) -> int:
    check_scale(options.scale)
    studies = _studies(_chosen(SCALES[options.scale], options.only), options)
    with scratch() as folder:
        os.environ[TERMINAL_BARS] = "1"
        # It cleans up after processes that are stopped, and says so.
        os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"
        if not all(_run(*task, options, folder) for task in studies.items()):
            return 1
    print()
    for study in dict.fromkeys(studies.values()):
        print(f"The report is {report.write_report(study)}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dilib.commands.reproduce", description=__doc__)
    parser.add_argument("--scale", default="laptop", help=f"one of {', '.join(SCALES)}")
    parser.add_argument("--dataset", help="a data set's name or folder:PATH; default: the scale's own")
    parser.add_argument("--only", help="run only the notebooks whose file name contains this")
    parser.add_argument("--seeds", default="0", help="comma-separated seeds, as in 0,1,2")
    parser.add_argument("--pairs", type=int, default=3, help="how many of Table 1's teacher-student pairs: 1, 2 or 3")
    parser.add_argument("--added", help="data sets that Table 7 adds, comma-separated, as in folder:PATH")
    parser.add_argument("--results", default="results", help="folder for results")
    parser.add_argument("--artifacts", default="artifacts", help="folder for weights, image pools and data")
    return parser.parse_args(arguments)


def _chosen(scale: Scale, only: str | None) -> list[Path]:
    every = [path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) if scale.has(path.stem)]
    chosen = [path for path in every if not only or only in path.stem]
    if not chosen:
        raise ValueError(f"no notebook matches {only!r}; choose from {', '.join(path.stem for path in every)}")
    return chosen


def _studies(sources: list[Path], options: argparse.Namespace) -> dict[Path, Study]:
    """Each notebook's study; those that take no data set are about ImageNet classifiers and have one of their own."""
    if not re.fullmatch(r"\d+(,\d+)*", options.seeds):
        raise ValueError(f"seeds {options.seeds!r} are not whole numbers; write them as in 0,1,2")
    for seed in _seeds(options):
        check_seed(seed)
    if not 1 <= options.pairs <= 3:
        raise ValueError(f"pairs {options.pairs} is out of range; choose 1, 2 or 3")
    for name in (options.results, options.artifacts, *filter(None, (options.dataset, options.added))):
        _check_name(name)
    _added(options)
    named = {path: "dataset" in papermill.inspect_notebook(path) for path in sources}
    study = _open_study(options) if any(named.values()) else None
    imagenet = (
        None if all(named.values()) else Study.open(options.scale, "imagenet", options.results, options.artifacts)
    )
    return {path: study if takes_name else imagenet for path, takes_name in named.items()}


def _check_name(name: str) -> None:
    """Raise ValueError for no name, and for one that notebooks, which are UTF-8, can't hold."""
    if not name:
        raise ValueError("--results and --artifacts can't be empty; give a folder, such as my-results")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r} can't be read in this locale; choose another name, or set PYTHONUTF8=1") from error


def _added(options: argparse.Namespace) -> list[str]:
    """Names of data sets; image folders by their whole path, since notebooks run elsewhere."""
    names = options.added.split(",") if options.added else []
    for name in names:
        data.check_name(name)
    return [f"folder:{Path(name[7:]).resolve()}" if name.startswith("folder:") else name for name in names]


def _open_study(options: argparse.Namespace) -> Study:
    """The study with its data at hand; without a network, the laptop default falls back to digits and says so."""
    study = Study.open(options.scale, options.dataset, options.results, options.artifacts)
    try:
        print(f"{study.scale.name} scale on {study.data.title}: results go to {study.results}", flush=True)
    except Unreachable as error:
        if options.dataset or study.scale.name != "laptop":
            raise
        print(f"{error}\nGoing on with {FALLBACK} instead.", file=sys.stderr)
        study = Study.open(options.scale, FALLBACK, options.results, options.artifacts)
        print(f"{study.scale.name} scale on {study.data.title}: results go to {study.results}", flush=True)
    return study


def _run(notebook: Path, study: Study, options: argparse.Namespace, run: Path) -> bool:
    """Execute one notebook and print the tables it wrote; whether it ran to its end."""
    print(f"\n{notebook.stem}", flush=True)
    tables, started = _versions(study.results, "table*.md"), time.perf_counter()
    made_before, read_before = len(noted(run, MADE)), len(noted(run, READ))
    root = f"{Path(options.results).resolve()}/"
    kept = study.results / "notebooks" / notebook.name
    try:
        executed = notebooks.execute(notebook, _parameters(notebook, study, options))
    except notebooks.NotebookFailed as error:
        print(f"error in {notebook.name}: {error}", file=sys.stderr)
        if error.executed:
            with contextlib.suppress(OSError):  # the first error is the one to be shown
                write_atomically(kept, error.executed.encode())
        return False
    read = [line.removeprefix(root) for line in noted(run, READ)[read_before:]]
    _keep(kept, notebooks.stamped(executed, read))
    seconds, made = time.perf_counter() - started, len(noted(run, MADE)) - made_before
    if made:
        report.write_run(study, notebook.stem, made, seconds)
    print(f"{made} cells made in {seconds / 60:.1f} minutes", flush=True)
    for path, _ in sorted(_versions(study.results, "table*.md") - tables):
        print(f"\n{path.read_text('utf-8')}", end="", flush=True)
    return True


def _keep(path: Path, executed: str) -> None:
    """Write an executed notebook, unless there is one made from the same: only its live runs could differ."""
    content = executed.encode()
    if not path.exists() or notebooks.made_from(path.read_bytes()) != notebooks.made_from(content):
        write_atomically(path, content)


def _seeds(options: argparse.Namespace) -> list[int]:
    return [int(seed) for seed in options.seeds.split(",")]


def _versions(folder: Path, pattern: str) -> set[tuple[Path, int]]:
    """Files and when they were written."""
    return {(path, path.stat().st_mtime_ns) for path in folder.glob(pattern)}


def _parameters(notebook: Path, study: Study, options: argparse.Namespace) -> dict:
    """Those of the options that the notebook takes."""
    offered = {
        "scale": study.scale.name,
        "dataset": study.dataset,
        "results": str(Path(options.results).resolve()),
        "artifacts": str(Path(options.artifacts).resolve()),
        "seeds": _seeds(options),
        "pairs": options.pairs,
        "added": _added(options),
    }
    taken = papermill.inspect_notebook(notebook)
    return {name: value for name, value in offered.items() if name in taken}


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # where the locale has no Greek letters
    sys.exit(main())
