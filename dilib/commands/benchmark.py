"""Time a synthesis step, and a transfer from a shared start, into results/bench/DEVICE.json: `make bench`."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from dilib import precision
from dilib.artifacts import damaged, read_json, write_atomically
from dilib.experiments.step_times import WORKLOADS, Row, Throughput, Workload, measure, throughput
from dilib.experiments.transfer_times import Transfer, transfer
from dilib.provenance import commit, default_device, provenance
from dilib.study import plots

PARTS = [kind.part for kind in (Row, Throughput, Transfer)]


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for; 0 on success, 2 where what there is already is damaged."""
    parser = argparse.ArgumentParser(prog="python -m dilib.commands.benchmark", description=__doc__)
    parser.add_argument("--results", default="results", help="folder for results")
    parser.add_argument("--only", choices=PARTS, help="one part; the others keep what they have")
    options = parser.parse_args(arguments)
    plots.set_style()
    torch.set_flush_denormal(True)
    device = default_device()
    dtype = precision.fastest(device)
    most = torch.get_num_threads() if device.type == "cpu" else torch.cuda.device_count()
    parts = {
        "rows": (measure(workload, device, dtype) for workload in WORKLOADS if _can_be_built(workload)),
        "processes": ([throughput(WORKLOADS[0], device, dtype, count)] for count in range(1, most + 1)),
        "transfers": ([transfer(device, dtype)] for _ in range(1)),
    }
    described = {**provenance(device), "commit": commit(), "precision": precision.name(dtype)}
    name = described.pop("device")
    path = Path(options.results) / "bench" / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    try:
        content = read_json(path) if path.exists() else {"device": name, "measured_with": {}}
        if not isinstance(content.get("measured_with"), dict):
            raise damaged(path, "it has no measured_with")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for part, found in parts.items():
        if options.only not in (None, part):
            continue
        content["measured_with"][part], content[part] = described, []
        for rows in found:
            print(as_table(rows), "\n", flush=True)
            # Written after each, so that stopping early loses only the one being timed.
            content[part] += [asdict(row) for row in rows]
            write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    if content.get("rows"):
        plots.save(plots.step_times(pd.DataFrame(content["rows"])), path.with_suffix(".png"))
    print(f"The benchmark is {path}")
    return 0


def _can_be_built(workload: Workload) -> bool:
    if not workload.available():
        print(f"{workload.name}: left out, as {workload.package} is not installed", flush=True)
    return workload.available()


def as_table(rows: Sequence[Row | Throughput | Transfer]) -> str:
    """The rows as a Markdown table."""
    return pd.DataFrame([asdict(row) for row in rows]).to_markdown(index=False, floatfmt=".3g")


if __name__ == "__main__":
    sys.exit(main())
