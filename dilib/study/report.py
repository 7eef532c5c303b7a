"""One study's report, from its results alone, and what its notebooks took."""

from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from dilib import data
from dilib.artifacts import read_text, write_atomically
from dilib.provenance import provenance
from dilib.study import claims
from dilib.study.cells import Study, read_cell
from dilib.study.tables import in_markdown, markdown, read_csv

RUNS, TABLES, CHOICES = "runs.csv", "table[0-9]*.md", "choices.md"

FIGURES = {  # in the report's order; a file that is not there is left out
    "teachers": "Distance of a batch's statistics to the teacher's stored ones, by layer.",
    "figure2": "Figure 2. What competition does, on a plane.",
    "table1": "Table 1 as a picture: student top-1 by method.",
    "figure3": "Figure 3. Images by method, from VGG-11-BN.",
    "figure3_resnet34": "Figure 3. Images by method, from ResNet-34.",
    "figure3_recognised": "How many images like Figure 3's other networks name, in percent by class.",
    "figure4": "Figure 4. Accuracy on fresh images and on real images as transfer proceeds.",
    "amortised": "Accuracy against time, with a shared start and without.",
    "amortised_ingredients": "What each part of amortised DeepInversion adds.",
    "amortised_images": "Images that begin where earlier ones led, beside the paper's methods'.",
    "latency": "Latency looked up in a table of operators against the measured one.",
    "table4": "Table 4 as a picture: accuracy regained by pruned networks, by image source.",
    "table9": "Table 9 as a picture: accuracy at equal latency.",
    "figure7": "Figure 7. Features of real and of synthesised images on two principal components.",
    "figure8": "Figure 8. Synthesised images and their nearest real ones.",
    "figure8_distances": "How far images are from the nearest real one.",
    "table6_images": "Images that networks were taught on from scratch, by source.",
    "figure6": "Figure 6. Some of the images that a student was taught on from scratch.",
    "table6": "Students taught from scratch, by the size of their pool and the length of their schedule.",
    "table7_dreams": "Images dreamt by the network that classes are added to.",
    "table7": "Accuracy on old and on new classes while a network learns the new ones, by method.",
    "table7_confusion": "What is taken for what, before and after new classes are learnt.",
    "table8": "Table 8 as a picture: student top-1 by source of the feature statistics.",
    "table8_images": "DeepInversion images by source of the feature statistics.",
    "figure5": "Figure 5. Images of ImageNet classes, made from a classifier alone.",
    "figure5_more": "Figure 5, continued.",
    "pictures": "The same classes, made to be looked at (not the paper's way).",
    "pictures_more": "The same, continued.",
    "longer": "The same, made with three times the updates.",
    "longer_more": "The same, continued.",
    "gallery_1": "A gallery: images made to be looked at, one of each class, not chosen.",
    "gallery_2": "The gallery, continued.",
    "gallery_3": "The gallery, continued.",
    "imagenet_deepdream": "DeepInversion beside DeepDream.",
    "imagenet_progress": "One image along its updates, and its batch's loss.",
    "imagenet_variants": "What each part of the method does to the same images.",
    "imagenet_colours": "Mean colours of synthesised and real images of the same class.",
    "growth": "How the time of an update grows with the number of images and their resolution.",
    "growth_quality": "How many images a judge names, against the seconds that they took, by scheme.",
    "growth_images": "Images made at a single resolution and at several.",
    "quantization": "A network on few bits, by the images that set its ranges.",
    "frontier": "How few updates a batch will do: student top-1 by schedule.",
    "own_network_images": "Images that a network of one's own remembers, beside real ones.",
    "own_network_distance": "The distance to the stored statistics while they are made.",
    "choices": "What was chosen on validation images, and from which values.",
}


def write_report(study: Study) -> Path:
    """REPORT.md: the study's tables, its figures and the verdict on every claim."""
    parts = [f"# {in_markdown(data.title(study.dataset))} at {study.scale.name} scale\n"]
    parts += [read_text(path) for path in sorted(study.results.glob(TABLES), key=table_number)]
    for name, caption in FIGURES.items():
        if (study.results / f"{name}.png").exists():
            parts.append(f"![{caption}]({name}.png)\n\n*{caption}*\n")
    verdicts = claims.read(study.results)
    shown = markdown(verdicts.reset_index(), index=False)
    parts.append(f"## Claims\n\n{claims.SPREAD}\n\n{shown}\n\n{claims.in_a_sentence(verdicts)}\n")
    if (choices := study.results / CHOICES).exists():
        parts.append(read_text(choices))
    parts.append(_how_it_was_made(study))
    path = study.results / "REPORT.md"
    write_atomically(path, "\n".join(parts).encode())
    return path


def cells(results: Path) -> list[dict]:
    """All cells of one study's results. Raises ValueError, which names the file, for a damaged one."""
    return [read_cell(path) for path in sorted((results / "cells").glob("*.json"))]


def table_number(path: Path) -> int:
    """7 for table7.md."""
    return int("".join(filter(str.isdigit, path.stem)))


def _how_it_was_made(study: Study) -> str:
    """Number and seconds of the cells behind the report, by device and commit, and what their notebooks took."""
    if not (every := cells(study.results)):
        return "No cell has been run.\n"
    made = pd.DataFrame(every).groupby(["device", "commit"])["seconds"].agg(cells="count", seconds="sum").reset_index()
    parts = ["## How it was made", markdown(made, index=False)]
    if len(runs := runs_in(study.results)):
        parts += ["Notebooks, whenever they made cells:", markdown(runs, index=False)]
    return "\n\n".join(parts) + "\n"


def write_run(study: Study, notebook: str, made: int, seconds: float) -> None:
    """Add to runs.csv that executing a notebook took `seconds` and made `made` cells."""
    run = {
        "notebook": notebook,
        "cells made": made,
        "minutes": round(seconds / 60, 1),
        "device": provenance(study.device)["device"],
        "commit": study.commit,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with study.lock("runs"):
        every = pd.concat([runs_in(study.results), pd.DataFrame([run])])
        write_atomically(study.results / RUNS, every.to_csv(index=False).encode())


def runs_in(results: Path) -> pd.DataFrame:
    """Executions of notebooks that made cells, in order."""
    path = results / RUNS
    columns = {"notebook": str, "cells made": int, "minutes": float, "finished": str}
    return read_csv(path, columns) if path.exists() else pd.DataFrame()
