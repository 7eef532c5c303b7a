"""One report over every study there is, from the results alone: nothing is run.

python -m dilib.overall --results results --readme README.md
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert import HTMLExporter

from dilib import benchmark, data, report
from dilib.artifacts import write_atomically
from dilib.paper import CLAIMS, EXPERIMENTS, Experiment
from dilib.scales import SCALES

CI = "smoke"  # the scale whose numbers say only that everything runs
MARKS = ("<!-- claims: written by `make report` -->", "<!-- end of claims -->")  # around the README's summary
DIFFERENCES = "## What differs from the paper"
WAITING = {  # scales and what they wait for, where there are no results at one
    "gpu": "one CUDA GPU, half an hour for each column of a table",
    "paper": "CUDA GPUs for days, and ImageNet's training images",
}


@dataclass(frozen=True)
class Results:
    """What a study left behind: the folder, its scale, and its data set's name in print."""

    folder: Path
    scale: str
    title: str

    @property
    def name(self) -> str:
        return f"{self.title}, {self.scale}"

    @property
    def place(self) -> str:
        """The folder, as a link from the report."""
        return f"{self.scale}/{self.folder.name}"

    def shows(self, experiment: Experiment) -> bool:
        """Whether its table is there with a number of ours in it, its figure, or a verdict on its claim."""
        path = self.folder / experiment.file
        if experiment.claim:
            return report.claims_in(self.folder).loc[experiment.claim, "verdict"] != report.NOT_RUN
        return path.exists() and (path.suffix != ".csv" or bool((pd.read_csv(path)["seeds"] > 0).any()))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dilib.overall", description=__doc__.splitlines()[0])
    parser.add_argument("--results", default="results", help="folder of all results")
    parser.add_argument("--readme", help="a README whose summary of the claims is renewed and whose differences quoted")
    options = parser.parse_args(arguments)
    results, readme = Path(options.results), Path(options.readme) if options.readme else None
    found = studies(results)
    if not found:
        print(f"error: no results in {results}; run `make reproduce` first", file=sys.stderr)
        return 2
    if readme:
        write_atomically(readme, _renewed(readme.read_text(), summary(found)).encode())
    text = overall(found, results, _section(readme.read_text(), DIFFERENCES) if readme else "")
    write_atomically(results / "REPORT.md", text.encode())
    write_atomically(results / "REPORT.html", _as_page(text).encode())
    print(f"The report is {results / 'REPORT.md'}, and as a page {results / 'REPORT.html'}")
    return 0


def studies(results: Path) -> list[Results]:
    """All studies that have a cell, by scale; CI's is left out."""
    scales = [name for name in SCALES if name != CI]
    cells = [path.parent for scale in scales for path in sorted(results.glob(f"{scale}/*/cells/*.json"))]
    folders = [path.parent for path in dict.fromkeys(cells)]
    return [Results(folder, folder.parent.name, _title(folder)) for folder in folders]


def _title(folder: Path) -> str:
    """The data set's name as its cells have it."""
    titles = [cell.get("title") for cell in report.cells(folder)]
    return next(filter(None, titles), data.TITLES.get(folder.name, folder.name))


def summary(found: Sequence[Results]) -> str:
    """A table of the verdicts on every claim, one column a study."""
    verdicts = {each.name: report.claims_in(each.folder)["verdict"] for each in found}
    table = pd.DataFrame({"claim": [f"{number}. {words}" for number, words in CLAIMS.items()]}, index=CLAIMS)
    return table.join(pd.DataFrame(verdicts).replace(report.NOT_RUN, "")).to_markdown(index=False)


def overall(found: Sequence[Results], results: Path, differences: str) -> str:
    """The whole report as Markdown."""
    parts = [
        "# Dreaming to Distill, replicated",
        "Every table, figure and claim of the paper, with ours beside it. All of it is written from the cells in "
        "`cells/` by `make report`; each study also has a report of its own.",
        "## Claims\n\nVerdicts by study; an empty field is one that the study says nothing about.",
        summary(found),
        _evidence(found),
        _experiments(found),
        _tables(found),
        _figures(found),
        _speed(results),
        f"## What differs from the paper\n\n{differences}" if differences else "",
        _provenance(found),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _evidence(found: Sequence[Results]) -> str:
    """What each verdict rests on."""
    claims = {each.name: report.claims_in(each.folder) for each in found}
    lines = ["### Evidence"]
    for number, words in CLAIMS.items():
        rows = [(name, table.loc[number]) for name, table in claims.items()]
        said = [f"- {name}: **{row.verdict}**. {row.evidence}" for name, row in rows if row.verdict != report.NOT_RUN]
        lines.append(f"**{number}. {words}.**\n\n" + "\n".join(said or ["- not run"]))
    return "\n\n".join(lines)


def _experiments(found: Sequence[Results]) -> str:
    """For each experiment of the paper: its notebook, and where it was run."""
    rows = [
        {
            "the paper's": each.name,
            "what it shows": each.shows,
            "notebook": f"[{each.notebook}](../notebooks/{each.notebook}.ipynb)",
            "run": _where(found, each),
        }
        for each in EXPERIMENTS
    ]
    missing = [scale for scale in WAITING if scale not in {each.scale for each in found}]
    waiting = [f"- `{scale}` scale has not been run: it waits for {WAITING[scale]}." for scale in missing]
    table = pd.DataFrame(rows).to_markdown(index=False)
    return "\n\n".join(["## Every experiment", table, "\n".join(waiting)])


def _where(found: Sequence[Results], each: Experiment) -> str:
    ran = [study for study in found if study.shows(each)]
    return ", ".join(f"[{study.name}]({study.place}/REPORT.md)" for study in ran) or "not run"


def _tables(found: Sequence[Results]) -> str:
    """All tables, by number, of each study that has them."""
    paths = [path for each in found for path in each.folder.glob("table*.md")]
    named = {each.folder: each.name for each in found}
    paths.sort(key=lambda path: (report.table_number(path), list(named).index(path.parent)))
    parts = ["## Tables"]
    for path in paths:
        study = f"[{named[path.parent]}]({path.relative_to(path.parents[2]).with_suffix('.csv')})"
        parts.append(f"### Table {report.table_number(path)}: {study}\n\n{path.read_text().strip()}")
    return "\n\n".join(parts)


def _figures(found: Sequence[Results]) -> str:
    parts = ["## Figures"]
    for name, caption in report.FIGURES.items():
        for each in found:
            if (each.folder / f"{name}.png").exists():
                parts.append(f"![{caption}]({each.place}/{name}.png)\n\n*{caption} {each.name}.*")
    return "\n\n".join(parts)


def _speed(results: Path) -> str:
    rows = benchmark.measured(results)
    if not len(rows):
        return ""
    table = rows.to_markdown(index=False, floatfmt=".3g")
    return f"## A step's time\n\nBy `make bench`; the floor is the network's bare forward and backward pass.\n\n{table}"


def _provenance(found: Sequence[Results]) -> str:
    """Number and minutes of each study's cells, by device."""
    made = pd.concat([pd.DataFrame(report.cells(each.folder)).assign(study=each.name) for each in found])
    by_device = made.groupby(["study", "device"], sort=False)
    table = by_device.agg(cells=("seconds", "count"), minutes=("seconds", "sum"), commits=("commit", "nunique"))
    table["minutes"] = (table["minutes"] / 60).round(1)
    words = "Minutes are those of all cells, one after another; cells that run side by side take one core each."
    return f"## How it was made\n\n{words}\n\n{table.reset_index().to_markdown(index=False)}"


def _section(markdown: str, heading: str) -> str:
    """The text under a heading, up to the next one of its kind."""
    _, _, after = markdown.partition(f"{heading}\n")
    return after.split("\n## ")[0].strip()


def _renewed(readme: str, text: str) -> str:
    """The README with `text` between its marks; as it is where it has none."""
    begin, end = MARKS
    if begin not in readme or end not in readme:
        return readme
    before, _, rest = readme.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def _as_page(markdown: str) -> str:
    """A page for the browser, whose pictures and links stay where they are."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown)])
    notebook.metadata["title"] = "Dreaming to Distill, replicated"
    page, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    return page


if __name__ == "__main__":
    sys.exit(main())
