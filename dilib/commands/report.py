"""Write one report over every study there is, from the results alone: `make report`."""

import argparse
import sys
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from dilib.artifacts import write_atomically
from dilib.experiments import step_times
from dilib.study.overview import overview, studies, summaries

DIFFERENCES = "## What differs from the paper"


def main(arguments: list[str] | None = None) -> int:
    """REPORT.md and REPORT.html, and the README's summaries; 0 on success, 2 where there are no results."""
    parser = argparse.ArgumentParser(prog="python -m dilib.commands.report", description=__doc__)
    parser.add_argument("--results", default="results", help="folder of all results")
    parser.add_argument("--readme", help="a README whose summary of the claims is renewed and whose differences quoted")
    options = parser.parse_args(arguments)
    results, readme = Path(options.results), Path(options.readme) if options.readme else None
    found = studies(results)
    if not found:
        print(f"error: no results in {results}; run `make reproduce` first", file=sys.stderr)
        return 2
    if readme:
        write_atomically(readme, _renewed(readme.read_text(), summaries(found)).encode())
    text = overview(found, step_times.measured(results), _section(readme.read_text(), DIFFERENCES) if readme else "")
    write_atomically(results / "REPORT.md", text.encode())
    write_atomically(results / "REPORT.html", _as_page(text).encode())
    print(f"The report is {results / 'REPORT.md'}, and as a page {results / 'REPORT.html'}")
    return 0


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


def _as_page(markdown: str) -> str:
    """A page for the browser, whose pictures and links stay where they are."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown, id="report")])
    notebook.metadata["title"] = "Dreaming to Distill, replicated"
    page, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    return page


if __name__ == "__main__":
    sys.exit(main())
