"""Every notebook at smoke scale, through the command that users run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from dilib.artifacts import digest
from dilib.commands.reproduce import _keep, main
from dilib.experiments import catalogue
from dilib.experiments.teachers import trained
from dilib.study import notebooks
from dilib.study.cells import Study
from dilib.study.claims import VERDICTS
from dilib.study.criteria import CLAIMS

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def reproduce(*arguments):
    command = [sys.executable, "-m", "dilib.commands.reproduce", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}  # so that cells are made side by side
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    done = reproduce("--scale", "smoke", "--results", folder / "results", "--artifacts", folder / "artifacts")
    assert done.returncode == 0, done.stderr[-3000:]
    return done, folder / "results" / "smoke" / "digits"


def test_every_notebook_runs_and_leaves_no_debris(run):
    done, results = run
    assert f"The report is {results / 'REPORT.md'}" in done.stdout.splitlines()
    for source in SOURCES:
        place = results.with_name("imagenet") if "imagenet" in source.name else results
        path = place / "notebooks" / source.name
        executed = nbformat.read(path, as_version=4)
        outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
        assert not [output for output in outputs if output.output_type in ("stream", "error")]
        assert "/tmp/" not in nbformat.writes(executed)
        assert path.stat().st_size < 2_000_000


def test_cells_keep_their_names_and_settings(run):
    """A cell whose settings change is made anew: committed results are read only while these stay as they are."""
    _, results = run
    asked = {
        place.name: {path.stem: digest(json.loads(path.read_text())["settings"]) for path in place.glob("cells/*.json")}
        for place in (results, results.with_name("imagenet"))
    }
    assert asked == json.loads((ROOT / "tests" / "data" / "smoke_cells.json").read_text())


def test_the_catalogue_has_what_the_notebooks_ask_for(run):
    """So that whoever makes cells without notebooks, and tests/test_committed_results.py, speak of the same."""
    _, results = run
    for dataset in ("digits", "imagenet"):
        study = Study.open("smoke", dataset, results.parents[1], results.parents[2] / "artifacts")
        made = {path.stem for path in study.results.glob("cells/*.json")}
        ran = [name for name in catalogue.CELLS if (name == "07_imagenet") == (dataset == "imagenet")]
        asked = {f"{cell.name}--seed{cell.seed}" for name in ran for cell in catalogue.cells(study, name)}
        assert made == asked


def test_a_teacher_of_another_width_leaves_the_study_its_own(run):
    _, results = run
    study = Study.open("smoke", "digits", results.parents[1], results.parents[2] / "artifacts")
    assert trained(study, "vgg11_bn", 0)


def test_tables_are_complete(run):
    _, results = run
    entries_of = {1: 21, 4: 9, 5: 24, 6: 16, 7: 18, 8: 10, 9: 12, 10: 6, 11: 15, 12: 18}
    for number, entries in entries_of.items():
        table = f"table{number}"
        tidy = pd.read_csv(results / f"{table}.csv")
        assert len(tidy) == entries
        assert list(tidy)[:7] == ["table", "row", "column", "metric", "ours", "ours_std", "seeds"]
    claims = pd.read_csv(results / "claims.csv", index_col="claim")
    assert len(claims) == 18
    assert set(claims["verdict"]) <= set(VERDICTS)
    assert (claims.loc[[1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18], "verdict"] != "not run").all()


def test_tables_hold_the_numbers_of_their_cells(run):
    """A table entry is its cell's number, to the second decimal."""
    _, results = run
    top1 = {path.stem: json.loads(path.read_text())["metrics"]["top1"] for path in results.glob("cells/t*--seed0.json")}
    pair = "VGG-11-BN to ResNet-18"
    for number, row, column, cell in (
        (1, "teacher", pair, "teacher--vgg11_bn"),
        (1, "Noise (L)", pair, "transfer--vgg11_bn--resnet18--noise"),
        (1, "Adaptive DeepInversion (+R_compete)", pair, "transfer--vgg11_bn--resnet18--adaptive"),
        (4, "GAN", "top-1 at -20% filters", "tuned--filters-0.2--taylor-kl-deepinversion--gan"),
    ):
        entry = pd.read_csv(results / f"table{number}.csv").set_index(["row", "column"]).loc[row, column]
        assert entry["ours"] == pytest.approx(top1[f"{cell}--seed0"], abs=0.0051)


def test_verdicts_are_shown_whole(run):
    """pandas cuts long text; the statement, and the evidence that claims.csv has, stand in the notebook in full."""
    _, results = run
    evidence = pd.read_csv(results / "claims.csv", index_col="claim").loc[3, "evidence"]
    text = (results / "notebooks" / "02_table1_transfer.ipynb").read_text()
    assert CLAIMS[3].statement in text
    assert evidence in text


def test_imagenet_results_have_a_place_of_their_own(run):
    _, results = run
    place = results.with_name("imagenet")
    table2, table3 = (pd.read_csv(place / f"table{number}.csv").set_index(["row", "column"]) for number in (2, 3))
    assert table2.loc[("EfficientNet-Lite2", "DeepInversion top-1"), "seeds"] == 1
    assert table2.loc[("VGG-11", "DeepInversion top-1"), "paper"] == 80.1
    assert table3.loc[("BigGAN (256), quoted", "Inception Score"), "seeds"] == 0
    assert 1 <= table3.loc[("DeepInversion", "Inception Score"), "ours"] <= 10
    assert max(path.stat().st_size for path in place.glob("*.png")) <= 300_000
    claims = pd.read_csv(place / "claims.csv", index_col="claim")
    assert (claims.loc[[5, 6], "verdict"] != "not run").all()


def test_the_report_shows_tables_figures_and_verdicts(run):
    _, results = run
    text = (results / "REPORT.md").read_text()
    assert "**Table 1.**" in text
    assert "**Table 8.**" in text
    for figure in ("figure2", "figure3", "figure4"):
        assert f"({figure}.png)" in text
        assert (results / f"{figure}.png").stat().st_size < 300_000


def test_what_each_notebook_took_is_kept(run):
    _, results = run
    ran = []
    for place in (results, results.with_name("imagenet")):
        made = pd.read_csv(place / "runs.csv")
        assert made["cells made"].sum() == len(list(place.glob("**/cells/*.json")))
        ran += list(made["notebook"])
    keeps_no_cells = "12_your_own_network"
    assert sorted(ran) == [source.stem for source in SOURCES if source.stem != keeps_no_cells]


def test_a_second_run_reads_its_cells_and_changes_nothing(run):
    _, results = run
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    executed = results / "notebooks" / "02_table1_transfer.ipynb"
    written = executed.stat().st_mtime_ns
    again = reproduce(
        "--scale",
        "smoke",
        "--only",
        "table1",
        "--results",
        results.parents[1],
        "--artifacts",
        results.parents[2] / "none",
    )
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before
    assert executed.stat().st_mtime_ns == written, "only its live runs could differ"


def test_an_executed_notebook_is_written_anew_where_what_it_is_made_from_changed(tmp_path, monkeypatch):
    kept, code = tmp_path / "n.ipynb", tmp_path / "code.py"
    monkeypatch.setattr(notebooks, "CODE", tmp_path)
    code.touch()

    def keep(source, read, output):
        shown = nbformat.v4.new_output("display_data", {"text/plain": output})
        executed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, outputs=[shown])])
        _keep(kept, notebooks.stamped(nbformat.writes(executed), [read]))
        return nbformat.read(kept, as_version=4).cells[0].outputs[0].data["text/plain"]

    assert keep("x", "cell 1", "first") == "first"
    assert keep("x", "cell 1", "a live run differs") == "first"
    assert keep("x", "cell 2", "another cell") == "another cell"
    assert keep("y", "cell 2", "another source") == "another source"
    code.write_text("z")
    assert keep("y", "cell 2", "other code") == "other code"
    kept.write_bytes(b"\xff\xfe")
    assert keep("y", "cell 2", "damaged before") == "damaged before"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "huge"], "unknown scale 'huge'; choose from smoke, laptop, overnight, paper"),
        (["--dataset", "minst"], "unknown data set 'minst'; choose from digits"),
        (["--only", "table99"], "no notebook matches 'table99'; choose from"),
        (["--seeds", "one"], "seeds 'one' are not whole numbers"),
        (["--added", "minst"], "unknown data set 'minst'; choose from digits"),
        (["--results", ""], "--results and --artifacts can't be empty; give a folder"),
        (["--seeds", str(2**64)], "seed 18446744073709551616 is out of range"),
        (["--pairs", "4"], "pairs 4 is out of range; choose 1, 2 or 3"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(tmp_path, capsys, arguments, message):
    places = ["--results", str(tmp_path / "results"), "--artifacts", str(tmp_path / "artifacts")]
    assert main([*places, *arguments]) == 2
    printed = capsys.readouterr().err
    assert len(printed.strip().splitlines()) == 1
    assert message in printed
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_source_notebooks_carry_parameters_first_and_no_outputs(source):
    notebook = nbformat.read(source, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "parameters" in code[0].metadata.tags
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    headings = [cell.source.splitlines() for cell in notebook.cells if cell.cell_type == "markdown"]
    headings = [line for lines in headings for line in lines if line.startswith("## ")]
    assert "## In a few lines" in headings, "the method, live, at toy size"
    assert headings[-1] == "## Conclusion"
