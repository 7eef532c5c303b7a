"""Seconds and memory of one synthesis step: the textbook loop's, the least possible (the floor), and ours.

A network's methods take turns within one process, so that whatever else the machine does meets all of them alike.
A CPU's memory is read in a process for each, as one that has used memory keeps some of it.
"""

import gc
import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from dilib import networks
from dilib.artifacts import damaged, read_json
from dilib.baselines.textbook import textbook
from dilib.classifier import Classifier, Preprocessing
from dilib.inversion import Objective, Schedule, updates
from dilib.precision import fastest
from dilib.study.scratch import note_read
from dilib.timing import wall_seconds

if TYPE_CHECKING:
    import pandas

RGB = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=32)
OBJECTIVE = Objective()
TURNS, STEPS = 11, 2  # turns a method takes, and the steps of a turn; the time of a turn is that of its quickest step


@dataclass(frozen=True)
class Row:
    """One line of results/bench/DEVICE.json.

    Times and ratios are medians over turns; a ratio is of times within one turn, as a machine's speed changes between
    turns. `peak_mib` is memory that the method added, null where unknown.
    """

    part = "rows"  # of the file
    network: str
    method: str
    batch: int
    seconds: float
    images_per_second: float
    speedup_over_textbook: float
    ratio_to_floor: float
    peak_mib: float | None


@dataclass(frozen=True)
class Throughput:
    """Images × updates per second of several processes, each running DeepInversion steps of its own."""

    part = "processes"
    network: str
    processes: int
    image_updates_per_second: float


@dataclass(frozen=True)
class Workload:
    """A network with random weights and the batch that it is timed on; a step takes as long as with trained ones."""

    name: str
    build: Callable[[], nn.Module]
    batch: int
    size: int
    classes: int
    package: str = "torch"  # that it takes to build it

    def available(self) -> bool:
        """Whether that package is installed."""
        return find_spec(self.package) is not None

    def prepared(self, device: torch.device, precision: torch.dtype) -> tuple[Classifier, Tensor]:
        """The network, with the same random weights each time, and labels for its batch."""
        torch.manual_seed(0)
        labels = torch.arange(self.batch, device=device) % self.classes
        return Classifier(self.build().to(device).eval(), RGB, self.name, precision), labels


LITE = "efficientnet_lite_pytorch"
WORKLOADS = (
    *(
        Workload(networks.title(name), partial(networks.create, name, 10), batch, 32, 10)
        for name, batch in (("vgg11_bn", 256), ("resnet18", 64), ("resnet34", 64))
    ),
    Workload("ResNet-50", torchvision.models.resnet50, 16, 224, 1000),
    Workload(
        "EfficientNet-Lite0", partial(networks.untrained_imagenet_network, "efficientnet_lite0"), 16, 224, 1000, LITE
    ),
)


def floor(teacher: Classifier, labels: Tensor, size: int) -> Iterator[None]:
    """What no step can do without: forward pass and input gradient, at our precision and memory format.

    On a GPU the study's own steps are recorded as a graph, and this one is not, so that they may take less.
    """
    frozen = teacher.frozen()
    images = torch.randn(len(labels), 3, size, size, device=labels.device)
    images = images.to(teacher.precision, memory_format=torch.channels_last).requires_grad_()
    while True:
        images.grad = None
        F.cross_entropy(frozen(images), labels).backward()
        yield


def our_steps(objective: Objective, teacher: Classifier, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The study's own loop, competing with a copy of the network where the objective asks for it."""
    return updates(teacher, labels, objective, _schedule(size), student=teacher.network)


def _schedule(size: int) -> Schedule:
    return Schedule(stages=((size, 10_000),), jitter=2)


LOOPS: dict[str, Callable[[Classifier, Tensor, int], Iterator]] = {
    "textbook": lambda teacher, labels, size: textbook(teacher, labels, OBJECTIVE, _schedule(size)),
    "floor": floor,
    "DeepDream": partial(our_steps, OBJECTIVE.deepdream()),
    "DeepInversion": partial(our_steps, OBJECTIVE.deepinversion()),
    "Adaptive DeepInversion": partial(our_steps, OBJECTIVE),
}


def measure(workload: Workload, device: torch.device, precision: torch.dtype, turns: int = TURNS) -> list[Row]:
    """One row per method: seconds of a step over `turns` turns, and peak memory of the first steps."""
    peak = {name: peak_memory(workload, name, device, precision) for name in LOOPS}
    seconds = step_seconds(workload, device, precision, turns)

    def ratio(over: str, under: str) -> float:
        return median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))

    return [
        Row(
            network=workload.name,
            method=name,
            batch=workload.batch,
            seconds=median(seconds[name]),
            images_per_second=workload.batch / median(seconds[name]),
            speedup_over_textbook=ratio("textbook", name),
            ratio_to_floor=ratio(name, "floor"),
            peak_mib=peak[name],
        )
        for name in LOOPS
    ]


def step_seconds(
    workload: Workload, device: torch.device, precision: torch.dtype, turns: int
) -> dict[str, list[float]]:
    """The seconds of a step by method, one number a turn."""
    teacher, labels = workload.prepared(device, precision)
    running = {name: method(teacher, labels, workload.size) for name, method in LOOPS.items()}
    seconds = {name: [] for name in LOOPS}
    for turn in range(-1, turns):  # the first turn, not counted, is for what is set up once
        for name, steps in running.items():
            quickest = min(wall_seconds(steps.__next__, device) for _ in range(STEPS))
            if turn >= 0:
                seconds[name].append(quickest)
    return seconds


def peak_memory(workload: Workload, method: str, device: torch.device, precision: torch.dtype) -> float | None:
    """MiB that a method's first steps add at their peak; None where that can't be read.

    In a process of their own on a CPU; a GPU's allocator keeps count itself.
    """
    if device.type == "cuda":
        return _added_at_peak(workload, method, device, precision)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_added_at_peak, workload, method, device, precision).result()


def _added_at_peak(workload: Workload, method: str, device: torch.device, precision: torch.dtype) -> float | None:
    torch.set_flush_denormal(True)
    teacher, labels = workload.prepared(device, precision)
    fastest(device)  # sets the libraries up on a CPU
    if device.type == "cuda":
        next(floor(teacher, labels, workload.size))  # as this does there
    gc.collect()
    _forget_peak(device)
    before = _memory(device, "VmRSS")
    steps = LOOPS[method](teacher, labels, workload.size)
    for _ in range(2):
        next(steps)
    return None if before is None else (_memory(device, "VmHWM") - before) / 2**20


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def _memory(device: torch.device, entry: str) -> int | None:
    """Bytes that this process has on a GPU at most, or else in memory: now (VmRSS) or at most (VmHWM).

    None on systems without /proc; what `resource.getrusage` calls a process's peak is its parent's, if that is higher.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) if entry == "VmRSS" else torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    return int(re.search(rf"{entry}:\s+(\d+) kB", status.read_text())[1]) * 1024 if status.exists() else None


def throughput(
    workload: Workload, device: torch.device, precision: torch.dtype, processes: int, steps: int = 20
) -> Throughput:
    """Throughput of several processes together: on a CPU each has one thread, otherwise each has its own device."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, initializer=_meet_at, initargs=(together,)) as pool:
        places = [torch.device(device.type, rank if device.type == "cuda" else None) for rank in range(processes)]
        work = partial(_seconds_of_steps, workload, precision, steps)
        seconds = list(pool.map(work, places))
    return Throughput(workload.name, processes, workload.batch * steps * sum(1 / each for each in seconds))


def _meet_at(together) -> None:
    global _together
    _together = together
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _seconds_of_steps(workload: Workload, precision: torch.dtype, count: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    teacher, labels = workload.prepared(device, precision)
    steps = LOOPS["DeepInversion"](teacher, labels, workload.size)
    next(steps)
    _together.wait()
    return sum(wall_seconds(steps.__next__, device) for _ in range(count))


def measured(results: Path, kind: type = Row) -> "pandas.DataFrame":
    """What `make bench` found on every device so far, one line a row of that kind: Row, Throughput or Transfer."""
    import pandas as pd

    rows = []
    for path in sorted((results / "bench").glob("*.json")):
        content = read_json(path)
        note_read(path, content)
        try:
            rows += [{"device": content["device"], **row} for row in content.get(kind.part, [])]
        except (KeyError, TypeError) as error:
            raise damaged(path, error) from error
    return pd.DataFrame(rows, columns=["device", *(field.name for field in fields(kind))])
