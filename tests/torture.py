"""A smoke run killed at a hundred random moments, again and again until it is done: `make torture`, for an hour.

What is killed, with SIGKILL, is drawn anew each time: all processes, the run, its kernel, or one of its workers. A run
that came to its end must equal, in all that two undisturbed ones agree on, those two.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
from processes import alive, descendants, kernels, said, start, until, workers

TARGETS = ("all", "run", "kernel", "worker")
LONGEST = 30  # seconds between two kills


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("artifacts/torture"))
    options = parser.parse_args()
    folder, chance = options.folder.resolve(), random.Random(options.seed)
    shutil.rmtree(folder, ignore_errors=True)
    expected = undisturbed(folder / "first")
    other = undisturbed(folder / "second", like=folder / "first")
    expected = {name: value for name, value in expected.items() if other.get(name) == value}
    print(f"{len(expected)} of {len(other)} numbers and pictures are the same in two undisturbed runs", flush=True)
    kills, good, finished = [], 0, 0
    while len(kills) < options.kills or finished == 0:
        kills_of_this = tortured(folder / "killed", folder / "first", options.kills - len(kills), chance)
        found, finished = results(folder / "killed"), finished + 1
        wrong = [name for name, value in expected.items() if found.get(name) != value]
        kills += kills_of_this
        good += 0 if wrong else len(kills_of_this)
        print(f"run {finished}: {len(kills_of_this)} kills, {len(wrong)} differences {wrong[:5]}", flush=True)
    by_target = ", ".join(f"{target} {kills.count(target)}" for target in TARGETS)
    print(f"{good} of {len(kills)} kills ({by_target}) ended in an equal run, {finished} runs in all")
    return 0 if good == len(kills) else 1


def undisturbed(folder, like=None):
    """The results of a run that nobody kills, with another's table of measured latencies."""
    prepare(folder, like)
    run = start(folder)
    assert run.wait() == 0, said(folder)
    return results(folder)


def tortured(folder, like, most, chance):
    """Kill and start again until the run comes to its end; what was killed."""
    shutil.rmtree(folder, ignore_errors=True)
    prepare(folder, like)
    kills, run = [], start(folder)
    while len(kills) < most and not ends(run, chance.uniform(0, LONGEST)):
        others = descendants(run.pid)
        kills.append(kill(run, chance))
        if not ends(run, 20):
            continue  # what was killed had done its work
        until(lambda others=others: not any(map(alive, others)), seconds=30)
        if run.returncode == 0:
            break
        if kills[-1] in ("kernel", "worker"):
            one_line = [line for line in said(folder) if "the same command goes on from what is finished" in line]
            assert run.returncode == 1 and said(folder) == one_line, (kills[-1], run.returncode, said(folder))
        run = start(folder)
    assert run.wait() == 0, said(folder)
    return kills


def ends(run, seconds):
    with suppress(subprocess.TimeoutExpired):
        run.wait(seconds)
    return run.returncode is not None


def kill(run, chance):
    """Kill what is drawn, or, where there is no such process at the moment, the run; its name."""
    groups = {"all": [*descendants(run.pid), psutil.Process(run.pid)], "run": [psutil.Process(run.pid)]}
    groups |= {"kernel": kernels(run.pid)[:1], "worker": workers(run.pid)[:1]}
    target = chance.choice(TARGETS)
    target = target if groups[target] else "run"
    for process in groups[target]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    return target


def prepare(folder, like):
    for table in like.glob("artifacts/smoke/*/latency/*.json") if like else ():
        target = folder / table.relative_to(like)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(table, target)


def results(folder):
    """Every number of every cell, every picture, every table, by name."""
    found = {}
    for path in sorted((folder / "results").rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found |= {f"{name}: {key}": value for key, value in json.loads(path.read_text())["metrics"].items()}
        elif path.suffix in (".png", ".csv") and path.name != "runs.csv":
            found[name] = path.read_bytes()
    return found


if __name__ == "__main__":
    sys.exit(main())
