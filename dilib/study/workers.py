"""Work side by side, one process of one thread a core: narrow networks gain little from threads.

joblib's workers would do as much, but live on, computing, when their parent is killed.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from dilib import progress
from dilib.study.worker_process import begin

CORES = torch.get_num_threads()  # or what OMP_NUM_THREADS says: asked before this process is put on one thread


class WorkerDied(RuntimeError):
    """A worker process ended before its work did."""


def side_by_side(calls: Sequence[Callable[[], object]], jobs: int) -> list:
    """What these calls return, in order, made by as many processes as `jobs` allows.

    Calls must be picklable. Results do not depend on the number of processes. When one call fails, those that have
    begun are finished, the others are dropped, and its error is raised; an interrupt stops all of them at once.
    Raises WorkerDied where a process is killed.
    """
    jobs = min(jobs, len(calls))
    if jobs <= 1:
        return [call() for call in calls]
    context, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    reports = context.Queue()
    reports.cancel_join_thread()  # whoever is killed may hold its lock
    pool = ProcessPoolExecutor(jobs, context, initializer=begin, initargs=(reports,))
    with pool, progress.drawn(reports):
        try:
            with _interrupts_held_back():
                futures = [pool.submit(call) for call in calls]
            return [future.result() for future in futures]
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise WorkerDied(
                    "a worker process died, most often because memory ran out; the same command goes on from what is "
                    "finished, and with OMP_NUM_THREADS=1 it takes less memory"
                ) from None
            if not isinstance(error, Exception):
                for process in multiprocessing.active_children():
                    if process not in others:
                        process.terminate()
            raise


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Meanwhile Ctrl-C waits; processes begun now never hear of it, and are stopped by their parent instead."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
