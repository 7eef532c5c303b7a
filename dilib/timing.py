"""Stop-watches."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Meanwhile torch computes on so many threads: what it takes on one does not depend on how many cores are free."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wall_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until `work` is done, on the device, too."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def processor_seconds(work: Callable[[], object], device: torch.device) -> float:
    """On a CPU this thread's own processor time, which no other process lengthens; elsewhere as `wall_seconds`."""
    if device.type != "cpu":
        return wall_seconds(work, device)
    started = time.thread_time()
    work()
    return time.thread_time() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
