"""Tables, claims and the report: from cells to what people read."""

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from dilib import data, plots
from dilib.artifacts import write_atomically
from dilib.paper import CLAIMS
from dilib.study import Study, provenance

NOT_RUN = "not run"
RUNS = "runs.csv"
VERDICTS = ("confirmed", "refuted", "mixed", NOT_RUN)


def entry(table: str, row: str, column: str, cells: Sequence[dict], paper: float | None, metric: str = "top1") -> dict:
    """One entry of a table: mean and deviation over the seeds of `cells`, beside the paper's number."""
    values = pd.Series([cell["metrics"][metric] for cell in cells], dtype=float)
    return {
        "table": table,
        "row": row,
        "column": column,
        "metric": metric,
        "ours": values.mean(),
        "ours_std": values.std(),
        "seeds": len(values),
        "paper": paper,
    }


def write_table(study: Study, number: int, entries: list[dict], caption: str) -> pd.DataFrame:
    """Write tableN.csv (tidy) and tableN.md (as printed); the printed form."""
    tidy = pd.DataFrame(entries)
    _write(study.results / f"table{number}.csv", tidy.to_csv(index=False, float_format="%.2f"))
    shown = tidy.assign(text=[_text(row) for row in tidy.itertuples()]).pivot(
        index="row", columns="column", values="text"
    )
    shown = shown.loc[tidy["row"].unique(), tidy["column"].unique()].rename_axis(index=None, columns=None).fillna("")
    markdown = f"**Table {number}.** {caption}\n\n{shown.to_markdown()}\n"
    _write(study.results / f"table{number}.md", markdown)
    return shown


def _text(row) -> str:
    missing = "–" if "quoted" in row.row else NOT_RUN
    ours = missing if row.seeds == 0 else f"{row.ours:.2f}"
    if row.seeds > 1:
        ours += f" ± {row.ours_std:.2f} ({row.seeds} seeds)"
    return f"{ours} (paper: {row.paper:.2f})" if pd.notna(row.paper) else f"{ours} (paper: –)"


def verdict(direction: bool | None, size: bool) -> str:
    """ "confirmed" if the claim's direction and size hold, "mixed" if only its direction does, else "refuted".

    `direction` None means that the numbers are not there.
    """
    return NOT_RUN if direction is None else "refuted" if not direction else "confirmed" if size else "mixed"


def write_claim(study: Study, claim: int, outcome: str, evidence: str) -> None:
    """Put a verdict on one claim into claims.csv; the other claims keep theirs."""
    if outcome not in VERDICTS:
        raise ValueError(f"verdict {outcome!r} is unknown; choose from {', '.join(VERDICTS)}")
    path = study.results / "claims.csv"
    with study.lock("claims"):
        claims = read_claims(study)
        claims.loc[claim, ["verdict", "evidence"]] = [outcome, evidence]
        _write(path, claims.reset_index().to_csv(index=False))


def read_claims(study: Study) -> pd.DataFrame:
    """All claims of the paper, by number, with their verdicts so far."""
    return claims_in(study.results)


def claims_in(results: Path) -> pd.DataFrame:
    """The same from a folder of results."""
    claims = pd.DataFrame({"statement": CLAIMS, "verdict": NOT_RUN, "evidence": ""}).rename_axis("claim")
    path = results / "claims.csv"
    if path.exists():
        claims.update(pd.read_csv(path, keep_default_na=False).set_index("claim")[["verdict", "evidence"]])
    return claims


def write_run(study: Study, notebook: str, made: int, seconds: float) -> None:
    """Add to runs.csv that a notebook was executed in `seconds`, in which it made so many of its cells."""
    run = {
        "notebook": notebook,
        "cells made": made,
        "minutes": round(seconds / 60, 1),
        "device": provenance(study.device)["device"],
        "commit": study.commit,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with study.lock("runs"):
        _write(study.results / RUNS, pd.concat([runs_in(study.results), pd.DataFrame([run])]).to_csv(index=False))


def runs_in(results: Path) -> pd.DataFrame:
    """Executions of notebooks that made cells, in order."""
    return pd.read_csv(results / RUNS) if (results / RUNS).exists() else pd.DataFrame()


def save_figure(study: Study, figure, name: str) -> Path:
    """Save a figure beside the tables, as PNG."""
    path = study.results / f"{name}.png"
    plots.save(figure, path)
    return path


FIGURES = {  # in the report's order; a file that is not there is left out
    "teachers": "Distance of a batch's statistics to the teacher's stored ones, by layer.",
    "figure2": "Figure 2. What competition does, on a plane.",
    "table1": "Table 1 as a picture: student top-1 by method.",
    "figure3": "Figure 3. Images by method, from VGG-11-BN.",
    "figure3_resnet34": "Figure 3. Images by method, from ResNet-34.",
    "figure3_recognised": "How many images like Figure 3's other networks name, in percent by class.",
    "figure4": "Figure 4. Accuracy on fresh images and on real images as transfer proceeds.",
    "latency": "Latency looked up in a table of operators against the measured one.",
    "table4": "Table 4 as a picture: accuracy regained by pruned networks, by image source.",
    "table9": "Table 9 as a picture: accuracy at equal latency.",
    "figure7": "Figure 7. Features of real and of synthesised images on two principal components.",
    "figure8": "Figure 8. Synthesised images and their nearest real ones.",
    "figure8_distances": "How far images are from the nearest real one.",
    "table6_images": "Images that networks were taught on from scratch, by source.",
    "table6": "Students taught from scratch, by the size of their pool and the length of their schedule.",
    "table7_dreams": "Images dreamt by the network that classes are added to.",
    "table7": "Accuracy on old and on new classes while a network learns the new ones, by method.",
    "table7_confusion": "What is taken for what, before and after new classes are learnt.",
    "table8": "Table 8 as a picture: student top-1 by source of the feature statistics.",
    "table8_images": "DeepInversion images by source of the feature statistics.",
    "figure5": "Figure 5. Images of ImageNet classes, made from a classifier alone.",
    "figure5_more": "Figure 5, continued.",
    "figure6": "Figure 6. DeepInversion beside DeepDream.",
    "imagenet_progress": "One image along its updates, and its batch's loss.",
    "imagenet_variants": "What each part of the method does to the same images.",
    "imagenet_colours": "Mean colours of synthesised and real images of the same class.",
    "growth": "How the time of an update grows with the number of images and their resolution.",
    "growth_images": "Images made at a single resolution and at several.",
    "quantization": "A network on few bits, by the images that set its ranges.",
    "frontier": "How few updates a batch will do: student top-1 by schedule.",
}


def write_report(study: Study) -> Path:
    """REPORT.md: the study's tables, its figures and the verdict on every claim."""
    parts = [f"# {data.title(study.dataset)} at {study.scale.name} scale\n"]
    parts += [path.read_text() for path in sorted(study.results.glob("table*.md"), key=table_number)]
    for name, caption in FIGURES.items():
        if (study.results / f"{name}.png").exists():
            parts.append(f"![{caption}]({name}.png)\n\n*{caption}*\n")
    parts.append(f"## Claims\n\n{read_claims(study).reset_index().to_markdown(index=False)}\n")
    parts.append(_how_it_was_made(study))
    path = study.results / "REPORT.md"
    _write(path, "\n".join(parts))
    return path


def cells(results: Path) -> list[dict]:
    """All cells of one study's results."""
    return [json.loads(path.read_text()) for path in sorted((results / "cells").glob("*.json"))]


def table_number(path: Path) -> int:
    """7 for table7.md."""
    return int("".join(filter(str.isdigit, path.stem)))


def _how_it_was_made(study: Study) -> str:
    """Number and seconds of the cells behind the report, by device and commit, and what their notebooks took."""
    if not (every := cells(study.results)):
        return "No cell has been run.\n"
    made = pd.DataFrame(every).groupby(["device", "commit"])["seconds"].agg(cells="count", seconds="sum").reset_index()
    parts = ["## How it was made", made.to_markdown(index=False)]
    if len(runs := runs_in(study.results)):
        parts += ["Notebooks, whenever they made cells:", runs.to_markdown(index=False)]
    return "\n\n".join(parts) + "\n"


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode())
