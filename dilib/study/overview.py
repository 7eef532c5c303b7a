"""What all studies found, side by side, from their results alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dilib import data
from dilib.artifacts import read_json, read_text
from dilib.study import claims, report
from dilib.study.criteria import CLAIMS
from dilib.study.paper import EXPERIMENTS, Experiment
from dilib.study.scales import SCALES
from dilib.study.tables import NOT_RUN, in_markdown, markdown, read_csv

CI = "smoke"  # the scale whose numbers say only that everything runs
MAIN = ("fashion_mnist", "cifar10", "imagenet")  # the data sets whose conclusions docs/findings.md has
WAITING = {  # scales and what they wait for, where there are no results at one
    "overnight": "one GPU, or two CPU cores for a night a column of Table 1",
    "paper": "CUDA GPUs for days, and ImageNet's training images",
}
ENTRY = {"row": str, "column": str, "ours": float, "ours_std": float, "seeds": int, "paper": float}  # of a table
_PAIR, _HALF, _TUNED = "VGG-11-BN to VGG-11-BN", "top-1 at -50% filters", "3 bits, tuned"
KEY_NUMBERS = {  # what the README shows of each study: number of the table, row and column
    "Teacher, VGG-11-BN": (1, "teacher", _PAIR),
    "Student on optimised noise": (1, "Noise (L)", _PAIR),
    "Student on DeepDream's images": (1, "DeepDream (+R_prior)", _PAIR),
    "Student on DeepInversion's images": (1, "DeepInversion (+R_feature)", _PAIR),
    "Student on Adaptive DeepInversion's images": (1, "Adaptive DeepInversion (+R_compete)", _PAIR),
    "Student on amortised images (not the paper's)": (1, "Amortised DeepInversion", _PAIR),
    "From scratch, longer, on 4,000 of DeepInversion's": (6, "DeepInversion, long, with mixup", "student top-1"),
    "From scratch, longer, on 4,000 real images": (6, "real images, long, with mixup", "student top-1"),
    "Half of ResNet-18's filters removed": (4, "No finetune", _HALF),
    "Half removed, tuned on DeepInversion's images": (4, "DeepInversion", _HALF),
    "Half removed, tuned on adaptive ones, too": (4, "Adaptive DeepInversion", _HALF),
    "Half removed, tuned on real images": (4, "real", _HALF),
    "Digits added by LwF.MC, over all classes": (7, "+ Digits: LwF.MC", "combined"),
    "Digits added, with DeepInversion's old images": (7, "+ Digits: DeepInversion", "combined"),
    "Digits added, with real old images": (7, "+ Digits: Oracle (distill)", "combined"),
    "ResNet-18 on 3 bits, tuned on DeepInversion's": (12, "DeepInversion", _TUNED),
    "ResNet-18 on 3 bits, tuned on real images": (12, "real", _TUNED),
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
            return claims.read(self.folder).loc[experiment.claim, "verdict"] != NOT_RUN
        return path.exists() and (path.suffix != ".csv" or bool((read_csv(path, {"seeds": float})["seeds"] > 0).any()))


def studies(results: Path) -> list[Results]:
    """All studies that have a cell, by scale; CI's is left out."""
    scales = [name for name in SCALES if name != CI]
    cells = [path.parent for scale in scales for path in sorted(results.glob(f"{scale}/*/cells/*.json"))]
    folders = [path.parent for path in dict.fromkeys(cells)]
    return [Results(folder, folder.parent.name, _title(folder)) for folder in folders]


def _title(folder: Path) -> str:
    """The data set's name as its cells have it."""
    titles = [data.in_one_line(str(cell.get("title", ""))) for cell in report.cells(folder)]
    return next(filter(None, titles), data.TITLES.get(folder.name, data.in_one_line(folder.name)))


def summary(found: Sequence[Results]) -> str:
    """A table of the verdicts on every claim, one column a study, and what each study finds as a whole."""
    verdicts = {each.name: claims.read(each.folder) for each in found}
    verdicts = {name: table for name, table in verdicts.items() if (table["verdict"] != NOT_RUN).any()}
    table = pd.DataFrame({"claim": [f"{number}. {claim.statement}" for number, claim in CLAIMS.items()]}, index=CLAIMS)
    columns = {name: table["verdict"] for name, table in verdicts.items()}
    shown = table.join(pd.DataFrame(columns).replace(NOT_RUN, ""))
    whole = [f"- {in_markdown(name)}: {claims.in_a_sentence(found)}" for name, found in verdicts.items()]
    return "\n".join([markdown(shown, index=False), "", *whole])


def key_numbers(found: Sequence[Results]) -> str:
    """A table of those KEY_NUMBERS that a study has, one column for each that has any, and the paper's beside them."""
    ours = {each.name: [_number(each.folder, *place) for place in KEY_NUMBERS.values()] for each in found}
    ours = {name: column for name, column in ours.items() if any(text for text, _ in column)}
    if not ours:
        return ""
    table = pd.DataFrame({name: [text for text, _ in column] for name, column in ours.items()}, index=KEY_NUMBERS)
    there = table.astype(bool).any(axis=1)
    paper = [next((quoted for _, quoted in row if quoted), "") for row in zip(*ours.values(), strict=True)]
    return markdown(table.assign(**{"the paper": paper})[there].rename_axis("top-1, %"))


def _number(folder: Path, table: int, row: str, column: str) -> tuple[str, str]:
    """One entry of a study's table and the paper's, as text; empty where there is none."""
    path = folder / f"table{table}.csv"
    if not path.exists():
        return "", ""
    entries = read_csv(path, ENTRY).set_index(["row", "column"])
    if (row, column) not in entries.index:
        return "", ""
    entry = entries.loc[row, column]
    deviation = f" ± {entry.ours_std:.1f}" if entry.seeds > 1 else ""
    return f"{entry.ours:.1f}{deviation}" if entry.seeds else "", f"{entry.paper:.1f}" if pd.notna(entry.paper) else ""


def conclusions(found: Sequence[Results]) -> str:
    """What the notebooks conclude, study by study, in the words of their executed copies."""
    parts = []
    for each in found:
        executed = sorted((each.folder / "notebooks").glob("*.ipynb"))
        said = {path.stem: words for path in executed if (words := _conclusion(read_json(path)))}
        if said:
            parts.append(f"{in_markdown(each.name)}:\n")
            parts += [f"- {words} ({notebook})" for notebook, words in said.items()] + [""]
    return "\n".join(parts).strip()


def _conclusion(notebook: dict) -> str:
    """The text that the cells under a notebook's last heading gave, in one line."""
    cells = notebook.get("cells", [])
    titled = [place for place, cell in enumerate(cells) if "## Conclusion" in "".join(cell["source"])]
    outputs = [output for cell in cells[titled[-1] :] for output in cell.get("outputs", [])] if titled else []
    texts = ["".join(output.get("data", {}).get("text/markdown", "")) for output in outputs]
    return in_markdown(" ".join(" ".join(texts).split()))


def summaries(found: Sequence[Results]) -> dict[str, str]:
    """What the README says of the results, by the name in its marks."""
    main = [each for each in found if each.folder.name in MAIN]
    return {"claims": summary(found), "numbers": key_numbers(found), "conclusions": conclusions(main)}


def overview(found: Sequence[Results], step_times: pd.DataFrame, differences: str) -> str:
    """The whole report as Markdown; `step_times` is what `make bench` measured."""
    parts = [
        "# Dreaming to Distill, replicated",
        "Every table, figure and claim of the paper, with ours beside it. All of it is written from the cells in "
        "`cells/` by `make report`; each study also has a report of its own.",
        f"## Claims\n\nVerdicts by study; an empty field is one that the study says nothing about. {claims.SPREAD}",
        summary(found),
        _evidence(found),
        f"## What the notebooks conclude\n\n{text}" if (text := conclusions(found)) else "",
        experiments_of(found),
        tables_of(found),
        figures_of(found),
        speed_of(step_times),
        f"## What differs from the paper\n\n{differences}" if differences else "",
        choices_of(found),
        provenance_of(found),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _evidence(found: Sequence[Results]) -> str:
    """What each verdict rests on."""
    verdicts = {each.name: claims.read(each.folder) for each in found}
    lines = ["### Evidence"]
    for number, claim in CLAIMS.items():
        rows = [(name, table.loc[number]) for name, table in verdicts.items()]
        rows = [(name, row.map(in_markdown)) for name, row in rows if row.verdict != NOT_RUN]
        said = [f"- {in_markdown(name)}: **{row.verdict}**. {row.evidence}" for name, row in rows]
        held = "; ".join(map(str, claim.criteria.values()))
        lines.append(f"**{number}. {claim.statement}.** Held to: {held}.\n\n" + "\n".join(said or ["- not run"]))
    return "\n\n".join(lines)


def experiments_of(found: Sequence[Results]) -> str:
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
    return ", ".join(f"[{in_markdown(study.name)}]({study.place}/REPORT.md)" for study in ran) or "not run"


def tables_of(found: Sequence[Results]) -> str:
    """All tables, by number, of each study that has them."""
    paths = [path for each in found for path in each.folder.glob(report.TABLES)]
    named = {each.folder: each.name for each in found}
    paths.sort(key=lambda path: (report.table_number(path), list(named).index(path.parent)))
    parts = ["## Tables"]
    for path in paths:
        study = f"[{in_markdown(named[path.parent])}]({path.relative_to(path.parents[2]).with_suffix('.csv')})"
        parts.append(f"### Table {report.table_number(path)}: {study}\n\n{read_text(path).strip()}")
    return "\n\n".join(parts)


def figures_of(found: Sequence[Results]) -> str:
    """Every figure that a study has, with its caption."""
    parts = ["## Figures"]
    for name, caption in report.FIGURES.items():
        for each in found:
            if (each.folder / f"{name}.png").exists():
                parts.append(f"![{caption}]({each.place}/{name}.png)\n\n*{caption} {in_markdown(each.name)}.*")
    return "\n\n".join(parts)


def choices_of(found: Sequence[Results]) -> str:
    """What was chosen on validation images, and from which values, by study."""
    paths = {each.name: each.folder / report.CHOICES for each in found}
    texts = [f"### {in_markdown(name)}\n\n{read_text(path)}" for name, path in paths.items() if path.exists()]
    return "\n\n".join(["## What was chosen", *texts]) if texts else ""


def speed_of(step_times: pd.DataFrame) -> str:
    """What `make bench` measured; "" where it was not run."""
    if not len(step_times):
        return ""
    table = markdown(step_times, index=False, floatfmt=".3g")
    return f"## A step's time\n\nBy `make bench`; the floor is the network's bare forward and backward pass.\n\n{table}"


def provenance_of(found: Sequence[Results]) -> str:
    """Number and minutes of each study's cells, by device, and what whole notebooks took."""
    made = pd.concat([pd.DataFrame(report.cells(each.folder)).assign(study=each.name) for each in found])
    by_device = made.groupby(["study", "device"], sort=False)
    table = by_device.agg(cells=("seconds", "count"), minutes=("seconds", "sum"), commits=("commit", "nunique"))
    table["minutes"] = (table["minutes"] / 60).round(1)
    words = "Minutes are the sum over cells, of one core each; images that several cells use count in each of them."
    parts = ["## How it was made", words, markdown(table.reset_index(), index=False)]
    runs = pd.concat([report.runs_in(each.folder).assign(study=each.name) for each in found])
    if len(runs):
        runs = runs[["study", *runs.columns.drop("study")]].sort_values("finished")
        parts += ["### Notebooks\n\nEach execution that made cells.", markdown(runs, index=False)]
    return "\n\n".join(parts)
