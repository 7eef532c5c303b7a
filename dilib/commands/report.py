"""Write one report over every study there is, from the results alone: `make report`."""

import argparse
import sys
import textwrap
from pathlib import Path

import pandas as pd

from dilib.artifacts import write_atomically
from dilib.experiments import (
    imagenet,
    own_network,
    own_network_224,
    own_student_224,
    step_times,
    students_so_far,
)
from dilib.study import page, setting_table
from dilib.study.overview import overview, studies, summaries
from dilib.study.tables import markdown

SETTINGS = "docs/settings.md"  # beside the README
DIFFERENCES = "## What differs from the paper"
NO_STUDENTS = "None: every study has its table."


def main(arguments: list[str] | None = None) -> int:
    """The report and its page, the summaries in README and docs; 0 on success, 2 where results are damaged."""
    parser = argparse.ArgumentParser(prog="python -m dilib.commands.report", description=__doc__)
    parser.add_argument("--results", default="results", help="folder of all results")
    parser.add_argument(
        "--readme",
        help="a README whose summaries, and those of docs/ beside it, are renewed; differences are quoted from there",
    )
    options = parser.parse_args(arguments)
    results, readme = Path(options.results), Path(options.readme) if options.readme else None
    try:
        _write(results, readme)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"The report is {results / 'REPORT.md'}, and as a page {results / 'REPORT.html'}")
    return 0


def _write(results: Path, readme: Path | None) -> None:
    found = studies(results)
    if not found:
        raise ValueError(f"no results in {results}; run `make reproduce` first")
    documents = [readme, *sorted((readme.parent / "docs").glob("*.md"))] if readme else []
    texts = {path: path.read_text("utf-8") for path in documents}
    measured, differences = step_times.measured(results), _section("".join(texts.values()), DIFFERENCES)
    write_atomically(results / "REPORT.md", overview(found, measured, differences).encode())
    write_atomically(results / "REPORT.html", page.report_page(found, measured, differences, results).encode())
    for executed in (path for each in found for path in (each.folder / "notebooks").glob("*.ipynb")):
        write_atomically(executed.with_suffix(".html"), page.notebook_page(executed).encode())
    if readme:
        own = own_network.finished(results)
        said = summaries(found) | {
            "ten lines": own_network.ten_lines(own),
            "picture": imagenet.captioned(results),
            "own": _table(pd.DataFrame(map(own_network.row, own))),
            "own 224": _explained(own_network_224.WORDS, own_network_224.rows(results)),
            "own student 224": _explained(own_student_224.WORDS, own_student_224.rows(results)),
            "students": _table(students_so_far.table(results)) or NO_STUDENTS,
        }
        for path, text in texts.items():
            write_atomically(path, _renewed(text, {name: words for name, words in said.items() if words}).encode())
        write_atomically(readme.parent / SETTINGS, setting_table.as_markdown().encode())


def _table(rows: pd.DataFrame) -> str:
    """Rows as Markdown; "" where there are none."""
    return markdown(rows.round(1).fillna(""), index=False) if len(rows) else ""


def _explained(words: str, rows: list[dict]) -> str:
    """What a table shows, and the table; "" where it has no rows."""
    return f"{textwrap.fill(words, 140)}\n\n{_table(pd.DataFrame(rows))}" if rows else ""


def marks(name: str) -> tuple[str, str]:
    """What stands around a summary in the README."""
    return f"<!-- {name}: written by `make report` -->", f"<!-- end of {name} -->"


def _section(markdown: str, heading: str) -> str:
    """The text under a heading, up to the next one of its kind."""
    _, _, after = markdown.partition(f"{heading}\n")
    return after.split("\n## ")[0].strip()


def _renewed(readme: str, texts: dict[str, str]) -> str:
    """The README with each text between its marks, where it has them."""
    for name, text in texts.items():
        begin, end = marks(name)
        if begin in readme and end in readme:
            before, _, rest = readme.partition(begin)
            readme = f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
    return readme


if __name__ == "__main__":
    sys.exit(main())
