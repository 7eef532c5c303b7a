"""How a worker process begins: what it needs to import is light, so that it soon notices when its parent ends."""

import multiprocessing
import os
import threading

from dilib import progress


def begin(reports) -> None:
    """One thread, bars that the parent draws, and an end when the parent ends, however it does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch  # takes seconds

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    progress.draw_elsewhere(reports)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
