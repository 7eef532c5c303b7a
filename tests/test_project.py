import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parent.parent
STUDY = (
    *("papermill", "nbformat", "pandas", "matplotlib", "seaborn", "sklearn", "scipy"),
    *("torchmetrics", "IPython", "efficientnet_lite_pytorch"),
)  # what `pip install .` does not bring


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def ranges():
    """Every requirement of the library and its extras, by name."""
    listed = [
        *project()["dependencies"],
        *(each for extra in project()["optional-dependencies"].values() for each in extra),
    ]
    return {found.name: found.specifier for found in map(Requirement, listed) if found.name != "dilib"}


def test_the_lock_file_pins_every_requirement_within_its_range():
    lines = (line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#"))
    pins = [Requirement(line) for line in lines]
    assert {pin.name for pin in pins} == ranges().keys() - {"timm"}
    for pin in pins:
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert exact.version in ranges()[pin.name], pin


def test_conda_takes_the_lock_file():
    assert "- -r requirements.lock" in (ROOT / "environment.yml").read_text()


def test_the_library_imports_nothing_of_the_study():
    hidden = "\n".join(f"sys.modules[{name!r}] = None" for name in STUDY)
    work = f"import sys\n{hidden}\nimport dilib\n[getattr(dilib, name) for name in dilib.EXPORTS]"
    for command in ("distill", "invert", "prune", "fill"):
        work += f"\nimport dilib.commands.{command}"
    subprocess.run([sys.executable, "-c", work], cwd=ROOT, check=True)


def told(tmp_path, *arguments):
    """What make passes on to a stand-in for Python."""
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "ready").touch()
    line = ["make", "--silent", f"BIN={tmp_path}", f"READY={tmp_path / 'ready'}", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("target", ["reproduce", "smoke"])
def test_make_passes_its_variables_on(tmp_path, target):
    asked = ["ONLY=table1", "RESULTS=else where", "DATASET=digits", "SEEDS=0,1", "PAIRS=1", "ADDED=photographs"]
    passed = told(tmp_path, target, *asked)
    for name, value in (each.split("=") for each in asked):
        assert f"--{name.lower()}={value}" in passed
    assert [argument for argument in told(tmp_path, target) if argument.startswith("--only")] == []


def test_another_studys_report_leaves_the_readme_alone(tmp_path):
    assert "--readme" in told(tmp_path, "report")
    passed = told(tmp_path, "report", "RESULTS=elsewhere")
    assert "--results=elsewhere" in passed
    assert "--readme" not in passed


def test_the_reference_is_made_of_the_docstrings(tmp_path):
    line = [sys.executable, "-m", "pdoc", "--output-directory", tmp_path, "dilib"]
    subprocess.run(line, cwd=ROOT, capture_output=True, check=True)
    assert "without any image of its data" in (tmp_path / "dilib" / "calls" / "distill.html").read_text()


def test_bare_make_lists_the_targets():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("reproduce", "report", "smoke", "test", "docs", "lab", "clean"):
        assert f"make {target}" in shown
