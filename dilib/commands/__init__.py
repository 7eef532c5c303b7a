"""What is run from a shell: python -m dilib.commands.NAME. Ctrl-C, too, is answered in one line, at any moment."""

import os
import sys


def _report(kind, error, traceback) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print("Stopped; the same command goes on", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(130)


sys.excepthook = _report  # here, as what the commands import takes seconds
