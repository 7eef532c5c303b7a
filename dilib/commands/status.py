"""How a command ends: its exit status, with one line on what went wrong."""

import sys
from collections.abc import Callable

from dilib.downloads import Unreachable


def status(work: Callable[[], int | None]) -> int:
    """What the work returns, 0 where that is nothing, or 2 on bad input and where a file can't be written."""
    try:
        return work() or 0
    except (ValueError, FloatingPointError, Unreachable) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error}; mend that, and the same command goes on", file=sys.stderr)
    return 2
