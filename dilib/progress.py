"""Bars for long work: a widget in JupyterLab, text on the terminal while papermill runs the notebook."""

import os
import re
import sys

TERMINAL_BARS = "DILIB_TERMINAL_BARS"  # set by dilib.reproduce for the kernels it starts


def bar(total: int, label: str):
    """A tqdm bar with an estimate of the time left; it vanishes when closed."""
    if os.environ.get(TERMINAL_BARS):
        from tqdm import tqdm

        return tqdm(total=total, desc=label, leave=False, file=sys.stderr, ncols=110, mininterval=2)
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=label, leave=False)


def without_bars(text: str) -> str:
    """Captured terminal text less the bars drawn in it."""
    return re.sub(r"\r[^\r\n]*", "", text)
