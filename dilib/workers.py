"""Independent cells side by side, one process of one thread a core: narrow networks gain little from threads."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from dilib import progress
from dilib.study import Study


def side_by_side(work: Callable[..., dict], study: Study, arguments: Sequence[tuple]) -> list[dict]:
    """`work(study, *each)` for each of `arguments`, in order, over as many processes as `study.jobs` allows.

    `work` must be importable. Results do not depend on the number of processes. When one call fails, calls that have
    begun go on to their end, the others are dropped, and its error is raised.
    """
    jobs = min(study.jobs, len(arguments))
    if jobs <= 1:
        return [work(study, *each) for each in arguments]
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(reports,))
    with pool, progress.drawn(reports):
        futures = [pool.submit(work, study, *each) for each in arguments]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def cells_side_by_side(
    work: Callable[..., dict], key: Callable[..., tuple[str, dict, int]], study: Study, arguments: Iterable[tuple]
) -> list[dict]:
    """The cells `work(study, *each)`, in order; those that are not there yet are made side by side first.

    `key(study, *each)` is the cell's name, settings and seed.
    """
    arguments = list(arguments)
    missing = [each for each in arguments if not study.has(*key(study, *each))]
    side_by_side(work, study, missing)
    return [work(study, *each) for each in arguments]


def _begin(reports) -> None:
    """Set up a worker: one thread, bars drawn by the parent, and no life after the parent's, however that ends."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    progress.draw_elsewhere(reports)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
