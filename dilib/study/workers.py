"""Work side by side, one process of one thread a core: narrow networks gain little from threads.

joblib's workers would do as much, but live on, computing, when their parent is killed.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from dilib import progress


def side_by_side(calls: Sequence[Callable[[], object]], jobs: int) -> list:
    """What these calls return, in order, made by as many processes as `jobs` allows.

    Calls must be picklable. Results do not depend on the number of processes. When one call fails, those that have
    begun are finished, the others are dropped, and its error is raised.
    """
    jobs = min(jobs, len(calls))
    if jobs <= 1:
        return [call() for call in calls]
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(reports,))
    with pool, progress.drawn(reports):
        futures = [pool.submit(call) for call in calls]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(reports) -> None:
    """Set up a worker: one thread, bars that the parent draws, and an end when the parent ends, however it does."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    progress.draw_elsewhere(reports)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
