"""Bars for long work: a widget in JupyterLab, text on the terminal while papermill runs the notebook."""

import os
import re
import sys
import threading
from contextlib import contextmanager

TERMINAL_BARS = "DILIB_TERMINAL_BARS"  # set by dilib.commands.reproduce for the kernels it starts
_reports = None  # in a worker process: the queue to the process that draws its bars


def bar(total: int, label: str):
    """A tqdm bar with an estimate of the time left; it vanishes when closed."""
    if _reports is not None:
        return _RemoteBar(total, label)
    if os.environ.get(TERMINAL_BARS):
        from tqdm import tqdm

        return tqdm(total=total, desc=label, leave=False, file=sys.stderr, ncols=110, mininterval=2)
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=label, leave=False)


@contextmanager
def counted(total: int, label: str):
    """Meanwhile a bar, as a function that is told how much is done in all."""
    with bar(total, label) as progress:
        yield lambda done, *_: progress.update(done - progress.n)


def without_bars(text: str) -> str:
    """Captured terminal text less the bars drawn in it."""
    return re.sub(r"\n*\r[^\r\n]*|\n*(\x1b\[A)+", "", text)


def draw_elsewhere(reports) -> None:
    """From now on this process's bars are drawn by the one that reads the queue `reports`, inside `drawn`."""
    global _reports
    _reports = reports


@contextmanager
def drawn(reports):
    """Meanwhile, draw the bars of the processes that report to this queue."""
    thread = threading.Thread(target=_draw, args=(reports,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        reports.put(None)
        thread.join(timeout=5)  # it waits for ever where a killed process held the queue's lock


def _draw(reports) -> None:
    bars = {}
    while (report := reports.get()) is not None:
        key, event, *values = report
        if event == "open":
            bars[key] = bar(*values)
        elif event == "update":
            bars[key].update(*values)
        else:
            bars.pop(key).close()
    for left in bars.values():
        left.close()


class _RemoteBar:
    """The part of tqdm that `bar`'s callers use, drawn in another process."""

    def __init__(self, total: int, label: str):
        self.n, self._key = 0, (os.getpid(), label)
        self._tell("open", total, label)

    def update(self, count: int = 1) -> None:
        self.n += count
        self._tell("update", count)

    def __enter__(self) -> "_RemoteBar":
        return self

    def __exit__(self, *error) -> None:
        self._tell("close")

    def _tell(self, *event) -> None:
        _reports.put((self._key, *event))
