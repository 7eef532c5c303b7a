"""Any number of classes from 2 to 1,000 through the notebooks, in a folder of somebody's images."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
NAMES = ("$5 bills$", "猫", "été/so called")


def write_folder(root, classes, images):
    """Random images of as many classes, the first of them with names that are hard to print."""
    random = np.random.default_rng(0)
    names = [NAMES[label].replace("/", "∕") if label < len(NAMES) else f"class {label}" for label in range(classes)]
    for split, name in ((split, name) for split in ("train", "test") for name in names):
        (root / split / name).mkdir(parents=True)
        for index in range(images):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(root / split / name / f"{index}.png")
    return f"folder:{root}"


def reproduce(dataset, folder, *options):
    command = [sys.executable, "-m", "dilib.commands.reproduce", "--scale", "smoke", "--dataset", dataset, *options]
    command += ["--results", str(folder / "results"), "--artifacts", str(folder / "artifacts")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "results" / "smoke" / f"folder-{Path(dataset).name}"


def test_every_picture_of_three_classes_stands_under_its_name(tmp_path):
    dataset = write_folder(tmp_path / "three", classes=3, images=70)
    for only in ("table1", "table8", "growth", "table6"):
        results = reproduce(dataset, tmp_path, "--only", only, "--pairs", "1")
    samples = {path.stem: json.loads(path.read_text())["samples"] for path in (results / "cells").glob("*.json")}
    assert {samples[name] for name in samples if name.startswith("transfer")} == {6}, "two rows of three"
    assert samples["pool--seed0"] == samples["gan--seed0"] == 6
    for figure in ("figure3", "table8_images", "growth_images", "table6_images"):
        with Image.open(results / f"{figure}.png") as picture:
            assert picture.size[0] < 800, "three columns, not ten"


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "images"), [(2, 100), (1000, 2)])
def test_every_notebook_runs(tmp_path, classes, images):
    dataset = write_folder(tmp_path / "many", classes, images)
    results = reproduce(dataset, tmp_path)
    assert len(list(results.glob("notebooks/*.ipynb"))) == len(list((ROOT / "notebooks").glob("*.ipynb"))) - 1
