"""What is run from a shell: dilib COMMAND. Ctrl-C and SIGTERM take one line, at any moment."""

import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn


def _stop(number: int, _) -> NoReturn:
    """End this process and all that it started, but for those that then clean up after them."""
    import psutil

    beneath = "\n" if sys.stderr.isatty() else ""  # a bar that stands there
    print(f"{beneath}Stopped; the same command goes on", file=sys.stderr, flush=True)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "resource_tracker" not in " ".join(process.cmdline()):
                process.kill()
    sys.exit(128 + number)


# By `python -m` or the console script, which import this before the command, whose own imports take seconds.
if sys.argv[0] == "-m" or Path(sys.argv[0]).stem == "dilib":
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
