"""Notebooks executed headlessly by papermill: what came out, or in one line what went wrong."""

import json
import logging
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import papermill_io

from dilib.artifacts import digest
from dilib.progress import without_bars

MADE_FROM, CODE = "made_from", Path(__file__).parents[1]
MEMORY = "memory:"  # in place of a folder, where papermill is to write to
KERNEL = [  # what a cell raises is shown all the same; that a kernel ends amid a request is no news
    "--IPKernelApp.log_level=50",
    "--IPKernelApp.exec_lines=__import__('logging').getLogger('asyncio').setLevel('CRITICAL')",
]


class NotebookFailed(RuntimeError):
    """A notebook that did not come to its end: why, in one line; where a cell failed, with what was executed."""

    def __init__(self, why: str, executed: str | None = None):
        super().__init__(why)
        self.executed = executed


class _InMemory:
    """What papermill writes as it goes on is kept here: a killed run leaves no file, and a full disk does no harm."""

    def __init__(self):
        self.texts: dict[str, str] = {}

    def write(self, text: str, path: str) -> None:
        self.texts[path] = text

    def pretty_path(self, path: str) -> str:
        return path


_written = _InMemory()
papermill_io.register(MEMORY, _written)
logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it would tell of a dead kernel at length


def execute(notebook: Path, parameters: dict) -> str:
    """The executed notebook, as it is to be kept. Raises NotebookFailed."""
    output = f"{MEMORY}{notebook.name}"
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            stderr_file=sys.stderr,
            extra_arguments=KERNEL,
            start_timeout=600,  # on a busy machine
        )
    except PapermillExecutionError as error:
        why = error.evalue if error.ename == "WorkerDied" else f"{error.ename}: {error.evalue}"
        if error.ename in ("OSError", "PermissionError"):
            why += "; mend that, and the same command goes on"
        raise NotebookFailed(" ".join(why.split()), _cleaned(_written.texts[output])) from error
    except RuntimeError as error:
        why = str(error)
        if "Kernel died" in why:
            why = "its kernel died, most often because memory ran out; the same command goes on from what is finished"
        raise NotebookFailed(why) from error
    return _cleaned(_written.texts[output])


def stamped(executed: str, read: Iterable[str]) -> str:
    """An executed notebook that says what it was made from: its sources, what it `read` of the results, our code."""
    notebook = nbformat.reads(executed, as_version=4)
    sources = [cell.source for cell in notebook.cells]
    code = {str(path.relative_to(CODE)): path.read_text("utf-8") for path in CODE.rglob("*.py")}
    notebook.metadata[MADE_FROM] = digest({"sources": sources, "read": sorted({*read}), "code": code})
    return nbformat.writes(notebook) + "\n"


def made_from(executed: bytes) -> str | None:
    """What an executed notebook says that it was made from; None where it does not, or is damaged."""
    try:
        return json.loads(executed)["metadata"].get(MADE_FROM)
    except (ValueError, LookupError, AttributeError, TypeError):
        return None


def _cleaned(text: str) -> str:
    """An executed notebook without progress bars and without a path of this machine."""
    notebook = nbformat.reads(text, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_without_bars, cell.outputs) if output is not None]
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub(r"^(results|artifacts) = .*\n?", "", cell.source, flags=re.MULTILINE)
            cell.source = re.sub(r"folder:[^'\"]*/", "folder:", cell.source)
    return nbformat.writes(notebook) + "\n"


def _without_bars(output):
    if output.output_type != "stream" or output.name != "stderr":
        return output
    output.text = without_bars(output.text)
    return output if output.text.strip() else None
