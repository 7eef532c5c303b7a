"""Seconds and memory of one synthesis step: as anyone writes it first, at its floor, and ours. `make bench`.

A network's methods take turns within one process, so that whatever else the machine does meets all of them alike.
Memory is read in a process for each, as one that has used memory keeps some of it.
"""

import argparse
import copy
import gc
import json
import math
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from dilib import models, plots
from dilib.artifacts import write_atomically
from dilib.inversion import Objective, Schedule, compute_dtype, updates, views
from dilib.statistics import batchnorm_layers, frozen_copy
from dilib.study import commit, provenance

RGB = models.Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=32)
OBJECTIVE = Objective()
TURNS, STEPS = 11, 2  # turns a method takes, and the steps of a turn; the time of a turn is that of its quickest step


@dataclass(frozen=True)
class Row:
    """One line of results/bench/DEVICE.json.

    Times and ratios are medians over turns; a ratio is of times within one turn, as a machine's speed changes between
    turns. `peak_mib` is memory that the method added, null where unknown.
    """

    network: str
    method: str
    batch: int
    seconds: float
    images_per_second: float
    speedup_over_textbook: float
    ratio_to_floor: float
    peak_mib: float | None


@dataclass(frozen=True)
class Workload:
    """A network with random weights and the batch that it is timed on; a step takes as long as with trained ones."""

    name: str
    build: Callable[[], nn.Module]
    batch: int
    size: int
    classes: int


@dataclass(frozen=True)
class Throughput:
    """Images × updates a second of so many processes, each at DeepInversion steps of its own."""

    network: str
    processes: int
    image_updates_per_second: float


PARTS = {Row: "rows", Throughput: "processes"}  # of results/bench/DEVICE.json; either can be measured anew by itself
WORKLOADS = (
    *(
        Workload(models.NAMES[name], partial(models.create, name, 10), batch, 32, 10)
        for name, batch in (("vgg11_bn", 256), ("resnet18", 64), ("resnet34", 64))
    ),
    Workload("ResNet-50", torchvision.models.resnet50, 16, 224, 1000),
    Workload("EfficientNet-Lite0", partial(EfficientNet.from_name, "efficientnet-lite0"), 16, 224, 1000),
)


def textbook(
    network: nn.Module,
    preprocessing: models.Preprocessing,
    labels: Tensor,
    objective: Objective,
    schedule: Schedule,
    *,
    seed: int = 0,
) -> Iterator[Tensor]:
    """DeepInversion as anyone writes it first: fp32, weight gradients and all, a hook with two moments a layer.

    Yields the images (N, C, H, W) after each update. From the same noise as `inversion.updates`, with the same jitter
    and flips, at one resolution.
    """
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    found: list[Tensor] = []

    def keep_distance(layer, inputs, _):
        features = inputs[0]
        mean = features.mean(dim=(0, 2, 3))
        variance = features.var(dim=(0, 2, 3), unbiased=False)
        found.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())

    for layer in batchnorm_layers(network):
        layer.register_forward_hook(keep_distance)
    ((size, count),) = schedule.stages
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(labels), preprocessing.channels, size, size, generator=generator)
    images = images.to(labels.device).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=schedule.lr)
    for step, view in enumerate(views(images, schedule, size, count, generator)):
        if schedule.decay == "cosine":
            optimizer.param_groups[0]["lr"] = schedule.lr * (1 + math.cos(math.pi * step / count)) / 2
        found.clear()
        network.zero_grad()
        optimizer.zero_grad()
        loss = F.cross_entropy(network(view), labels) + objective.alpha_f * sum(found)
        across, down = view[..., 1:] - view[..., :-1], view[..., 1:, :] - view[..., :-1, :]
        falling, rising = view[..., 1:, 1:] - view[..., :-1, :-1], view[..., 1:, :-1] - view[..., :-1, 1:]
        loss = loss + objective.alpha_tv * (across.norm() + down.norm() + falling.norm() + rising.norm())
        loss = loss + objective.alpha_l2 * view.norm()
        loss.backward()
        optimizer.step()
        if schedule.clip:
            with torch.no_grad():
                images.copy_(preprocessing.clip(images))
        yield images.detach()


def floor(network: nn.Module, labels: Tensor, size: int) -> Iterator[None]:
    """What no step can do without: forward pass and input gradient, at our precision and memory format."""
    dtype = compute_dtype(labels.device)
    frozen = frozen_copy(network, dtype)
    images = torch.randn(len(labels), 3, size, size, device=labels.device)
    images = images.to(dtype, memory_format=torch.channels_last).requires_grad_()
    while True:
        images.grad = None
        F.cross_entropy(frozen(images).float(), labels).backward()
        yield


def ours(objective: Objective, network: nn.Module, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The study's own loop, competing with a copy of the network where the objective asks for it."""
    return updates(network, RGB, labels, objective, _schedule(size), student=network)


def _schedule(size: int) -> Schedule:
    return Schedule(stages=((size, 10_000),), jitter=2)


METHODS: dict[str, Callable[[nn.Module, Tensor, int], Iterator]] = {
    "textbook": lambda network, labels, size: textbook(network, RGB, labels, OBJECTIVE, _schedule(size)),
    "floor": floor,
    "DeepDream": lambda *args: ours(OBJECTIVE.deepdream(), *args),
    "DeepInversion": lambda *args: ours(OBJECTIVE.deepinversion(), *args),
    "Adaptive DeepInversion": lambda *args: ours(OBJECTIVE, *args),
}


def measure(workload: Workload, device: torch.device, turns: int = TURNS) -> list[Row]:
    """One row a method: seconds of a step over so many turns, and peak memory of the first steps."""
    peak = {name: peak_memory(workload, name, device) for name in METHODS}
    seconds = step_seconds(workload, device, turns)

    def ratio(over: str, under: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))

    return [
        Row(
            network=workload.name,
            method=name,
            batch=workload.batch,
            seconds=statistics.median(seconds[name]),
            images_per_second=workload.batch / statistics.median(seconds[name]),
            speedup_over_textbook=ratio("textbook", name),
            ratio_to_floor=ratio(name, "floor"),
            peak_mib=peak[name],
        )
        for name in METHODS
    ]


def step_seconds(workload: Workload, device: torch.device, turns: int) -> dict[str, list[float]]:
    """The seconds of a step by method, one number a turn."""
    network, labels = _prepared(workload, device)
    running = {name: method(network, labels, workload.size) for name, method in METHODS.items()}
    seconds = {name: [] for name in METHODS}
    for turn in range(-1, turns):  # the first turn, not counted, is for what is set up once
        for name, steps in running.items():
            quickest = min(timed(steps, device) for _ in range(STEPS))
            if turn >= 0:
                seconds[name].append(quickest)
    return seconds


def _prepared(workload: Workload, device: torch.device) -> tuple[nn.Module, Tensor]:
    """The network, with the same random weights each time, and labels for its batch."""
    torch.manual_seed(0)
    labels = torch.arange(workload.batch, device=device) % workload.classes
    return workload.build().to(device).eval(), labels


def timed(steps: Iterator, device: torch.device) -> float:
    """Seconds of the next step."""
    started = time.perf_counter()
    next(steps)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peak_memory(workload: Workload, method: str, device: torch.device) -> float | None:
    """MiB that a method's first steps add at their peak, in a process of their own; None where that can't be read."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_added_at_peak, workload, method, device).result()


def _added_at_peak(workload: Workload, method: str, device: torch.device) -> float | None:
    torch.set_flush_denormal(True)
    network, labels = _prepared(workload, device)
    compute_dtype(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        _forget_peak()
        before = _process_memory("VmRSS")
    steps = METHODS[method](network, labels, workload.size)
    for _ in range(2):
        next(steps)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _process_memory("VmHWM")
    return None if before is None else (peak - before) / 2**20


def throughput(workload: Workload, device: torch.device, processes: int, steps: int = 20) -> Throughput:
    """What so many processes make together: on a CPU each has a thread, otherwise each has a device of its own."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, initializer=_meet_at, initargs=(together,)) as pool:
        places = [torch.device(device.type, rank if device.type == "cuda" else None) for rank in range(processes)]
        seconds = list(pool.map(_seconds_of_steps, [workload] * processes, places, [steps] * processes))
    return Throughput(workload.name, processes, workload.batch * steps * sum(1 / each for each in seconds))


def _meet_at(together) -> None:
    global _together
    _together = together
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _seconds_of_steps(workload: Workload, device: torch.device, count: int) -> float:
    network, labels = _prepared(workload, device)
    steps = METHODS["DeepInversion"](network, labels, workload.size)
    next(steps)
    _together.wait()
    return sum(timed(steps, device) for _ in range(count))


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _process_memory(entry: str) -> int | None:
    """Bytes of resident memory now (VmRSS) or at most (VmHWM); None on systems without /proc."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(re.search(rf"{entry}:\s+(\d+) kB", status)[1]) * 1024


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dilib.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--results", default="results", help="folder for results")
    parser.add_argument("--only", choices=[*PARTS.values()], help="one part; the other keeps what it has")
    options = parser.parse_args(arguments)
    plots.set_style()
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    described = {**provenance(device), "commit": commit(), "precision": str(compute_dtype(device))}
    name = described.pop("device")
    path = Path(options.results) / "bench" / f"{_slug(name)}.json"
    content = json.loads(path.read_text()) if path.exists() else {"device": name, "measured_with": {}}
    for part, rows in (("rows", _steps(device)), ("processes", _processes(device))):
        if options.only in (None, part):
            content["measured_with"][part], content[part] = described, []
            for found in rows:
                print(as_table(found), "\n", flush=True)
                # Written after each, so that stopping early loses only the one being timed.
                content[part] += [asdict(row) for row in found]
                write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    steps = pd.DataFrame(content.get("rows", []))
    if len(steps):
        plots.save(plots.step_times(steps), path.with_suffix(".png"))
    print(f"The benchmark is {path}")


def _steps(device: torch.device) -> Iterator[list[Row]]:
    return (measure(workload, device) for workload in WORKLOADS)


def _processes(device: torch.device) -> Iterator[list[Throughput]]:
    most = torch.get_num_threads() if device.type == "cpu" else torch.cuda.device_count()
    return ([throughput(WORKLOADS[0], device, processes)] for processes in range(1, most + 1))


def measured(results: Path, kind: type[Row] | type[Throughput] = Row) -> pd.DataFrame:
    """What `make bench` found on every device so far, one line a row of that kind."""
    files = [json.loads(path.read_text()) for path in sorted((results / "bench").glob("*.json"))]
    rows = [{"device": content["device"], **row} for content in files for row in content.get(PARTS[kind], [])]
    return pd.DataFrame(rows, columns=["device", *(field.name for field in fields(kind))])


def as_table(rows: Sequence[Row | Throughput]) -> str:
    """The rows as a Markdown table."""
    return pd.DataFrame([asdict(row) for row in rows]).to_markdown(index=False, floatfmt=".3g")


def _slug(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


if __name__ == "__main__":
    main()
