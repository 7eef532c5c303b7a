import base64
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from dilib.commands import report
from dilib.experiments import students_so_far
from dilib.study import overview, page
from dilib.study.claims import FAILS, HOLDS, IN_PART
from dilib.study.criteria import CLAIMS
from dilib.study.paper import EXPERIMENTS
from dilib.study.tables import NOT_RUN

ROOT = Path(__file__).parent.parent
COLUMNS = ["table", "row", "column", "metric", "ours", "ours_std", "seeds", "paper"]


def study(results, place, title, verdicts, seeds):
    """A study's results as its notebooks would leave them: one cell, one table, claims."""
    folder = results / place
    (folder / "cells").mkdir(parents=True)
    cell = {"title": title, "metrics": {}, "settings": {}, "seconds": 90.0, "device": "a CPU", "commit": "abc"}
    (folder / "cells" / "teacher--seed0.json").write_text(json.dumps(cell))
    claims = pd.DataFrame({"verdict": NOT_RUN, "evidence": ""}, index=CLAIMS).rename_axis("claim")
    for claim, verdict in verdicts.items():
        claims.loc[claim, ["verdict", "evidence"]] = [verdict, f"measured in {title}"]
    claims.reset_index().to_csv(folder / "claims.csv", index=False)
    pd.DataFrame([["table1", "DAFL", "top-1", "top1", 50.0, 1.0, seeds, 92.22]], columns=COLUMNS).to_csv(
        folder / "table1.csv", index=False
    )
    (folder / "table1.md").write_text(f"**Table 1.** Of {title}.\n")


@pytest.fixture
def results(tmp_path):
    study(tmp_path, "laptop/digits", "Digits", {1: HOLDS, 3: FAILS}, seeds=2)
    study(tmp_path, "overnight/folder-mine", "My own (JPEG)", {1: IN_PART}, seeds=0)
    study(tmp_path, "smoke/digits", "Digits of CI", {2: HOLDS}, seeds=1)
    (tmp_path / "laptop" / "digits" / "choices.md").write_text("**What was chosen** of Digits.\n")
    return tmp_path


def test_every_study_but_ci_s_is_in_the_report_under_its_own_name(results):
    begin, end = report.marks("claims")
    (results / "readme.md").write_text(
        f"# Mine\n{begin}\nstale\n{end}\nkept\n{report.DIFFERENCES}\n- one thing\n## Citing\n"
    )
    assert report.main(["--results", str(results), "--readme", str(results / "readme.md")]) == 0
    text = (results / "REPORT.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| 1. Noise"))
    assert [field.strip() for field in line.split("|")[2:4]] == [HOLDS, IN_PART]  # laptop before overnight
    assert "- My own (JPEG), overnight: **holds in part**. measured in My own (JPEG)" in text
    assert "of CI" not in text
    assert "- one thing" in text
    assert "## What was chosen\n\n### Digits, laptop\n\n**What was chosen** of Digits.\n" in text
    assert "| updates a batch" in (results / "docs" / "settings.md").read_text()
    readme = (results / "readme.md").read_text()
    assert line in readme
    assert readme.startswith("# Mine\n")
    assert "kept" in readme
    assert "stale" not in readme
    page = (results / "REPORT.html").read_text()
    assert "<table>" in page
    assert "My own (JPEG)" in page


def test_what_comes_from_elsewhere_is_shown_as_text(results):
    script = "<script>alert(1)</script>"
    title = f"{script} *e* __s__ | $x$ &lt; ![x](https://elsewhere/x.png)\n" * 3
    study(results, "laptop/folder-evil", title, {1: HOLDS}, seeds=1)
    table = results / "laptop" / "folder-evil" / "table1.md"
    brought = "[a](javascript:alert(1)) [b](data:text/html;base64,AA) ![c](attachment:x.png) ![d](//elsewhere/y.png)"
    table.write_text(f"{script} <img src=x onerror=alert(1)> {brought} http://elsewhere\n")
    (table.parent / "tablex.md").write_text("not ours")
    assert report.main(["--results", str(results)]) == 0
    page = (results / "REPORT.html").read_text()
    for tag in ("<script", "<img", 'href="javascript', 'href="data', 'href="http', "<em>e", "<strong>s"):
        assert tag not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page
    line = next(line for line in (results / "REPORT.md").read_text().splitlines() if line.startswith("| 1. Noise"))
    header = next(line for line in (results / "REPORT.md").read_text().splitlines() if line.startswith("| claim"))
    assert len(re.findall(r"(?<!\\)\|", header)) == len(re.findall(r"(?<!\\)\|", line)) == 5


def test_a_notebook_s_page_holds_its_tables_and_pictures_and_nothing_that_runs(tmp_path):
    encoded = io.BytesIO()
    Image.new("RGB", (3000, 10)).save(encoded, "png")
    shown = [
        {"data": {"image/png": base64.b64encode(encoded.getvalue()).decode()}},
        {"data": {"text/html": "<style>x</style><table onclick='x()'><td>1 &lt; 2<script>y()</script></td></table>"}},
        {"data": {"text/plain": "plain <b>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": "# Title\n$\\alpha_f$ <script>z()</script>"},
        {"cell_type": "code", "source": "x < y", "outputs": shown},
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    found = page.notebook_page(tmp_path / "n.ipynb")
    assert "<math" in found
    assert "<table><td>1 &lt; 2y()</td></table>" in found
    assert "plain &lt;b&gt;" in found
    picture = base64.b64decode(re.search(r'src="data:image/webp;base64,([^"]+)"', found)[1])
    assert Image.open(io.BytesIO(picture)).size == (page.WIDTH, 5)
    assert "<script" not in found
    assert "onclick" not in found


def test_the_page_s_verdicts_are_coloured_and_its_pictures_inside(results):
    Image.new("RGB", (8, 8)).save(results / "laptop" / "digits" / "table1.png")
    assert report.main(["--results", str(results)]) == 0
    found = (results / "REPORT.html").read_text()
    assert '<span class="verdict holds">holds</span></td>' in found
    assert '<details class="study" name="study"><summary>Digits, laptop</summary>' in found
    assert 'src="data:image/webp;base64,' in found
    for anchor in re.findall(r'<a href="#([^"]+)"', found):
        assert f'<section id="{anchor}">' in found
    assert 'src="laptop' not in found


def test_an_experiment_without_numbers_counts_as_not_run(results):
    found = overview.studies(results)
    line = next(line for line in overview.experiments_of(found).splitlines() if "| Table 1 " in line)
    assert "Digits, laptop" in line  # two seeds
    assert "My own" not in line  # none
    assert "`paper` scale has not been run" in overview.experiments_of(found)
    assert "`overnight` scale" not in overview.experiments_of(found)


def test_no_results_are_refused_in_one_line(tmp_path, capsys):
    assert report.main(["--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: no results in {tmp_path}; run `make reproduce` first\n"


def test_key_numbers_have_deviations_and_the_paper_s_beside_them(results):
    row, column = "DeepInversion (+R_feature)", "VGG-11-BN to VGG-11-BN"
    entries = [["table1", row, column, "top1", 84.93, 0.64, 3, 84.16], ["table1", "DAFL", column, "top1", 1, 1, 1, 2]]
    pd.DataFrame(entries, columns=COLUMNS).to_csv(results / "laptop" / "digits" / "table1.csv", index=False)
    lines = [[field.strip() for field in line.split("|")[1:-1]] for line in _key_numbers(results)]
    assert lines[0] == ["top-1, %", "Digits, laptop", "the paper"]  # the other study has none of them
    assert ["Student on DeepInversion's images", "84.9 ± 0.6", "84.2"] in lines
    assert len(lines) == 3, "numbers that no study has are left out"


def _key_numbers(results):
    return overview.key_numbers(overview.studies(results)).splitlines()


@pytest.mark.parametrize("name", ["claims", "numbers", "conclusions"])
def test_the_readme_s_summaries_are_those_of_the_committed_results(name):
    begin, end = report.marks(name)
    text = overview.summaries(overview.studies(ROOT / "results"))[name]
    written = (ROOT / "README.md").read_text() + (ROOT / "docs" / "findings.md").read_text()
    assert f"{begin}\n{text}\n{end}" in written


def test_students_without_a_table_are_those_of_the_committed_results():
    begin, end = report.marks("students")
    rows = report._table(students_so_far.table(ROOT / "results")) or report.NO_STUDENTS
    assert f"{begin}\n{rows}\n{end}" in (ROOT / "docs" / "findings.md").read_text()


def test_every_experiment_has_its_notebook():
    assert [each.name for each in EXPERIMENTS if not (ROOT / "notebooks" / f"{each.notebook}.ipynb").exists()] == []


def test_students_of_a_study_without_its_table_are_told_of(tmp_path):
    for seed, top1 in enumerate((60.0, 62.0)):
        cell = {
            "name": "transfer--vgg11_bn--resnet18--adaptive",
            "title": "Digits",
            "seed": seed,
            "precision": "float32",
        }
        measured = {"top1": top1, "teacher_top1": 90.0, "images": 256}
        kept = {**cell, "metrics": measured, "settings": {}, "seconds": 30.0, "device": "CPU", "commit": "a1"}
        path = tmp_path / "laptop" / "digits" / "cells" / f"{cell['name']}--seed{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept))
    found = students_so_far.table(tmp_path).iloc[0]
    assert tuple(found[["study", "teacher to student"]]) == ("Digits, laptop", "VGG-11-BN to ResNet-18")
    assert tuple(found[["student", "below", "minutes", "seeds"]]) == (61.0, 29.0, 0.5, 2)
    assert found["deviation"] == pytest.approx(2**0.5)
    (path.parents[1] / "table1.csv").touch()
    assert not len(students_so_far.table(tmp_path))
