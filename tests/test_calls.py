"""One call each, as somebody with a network of their own makes it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import dilib
from dilib import networks
from dilib.calls import plans
from dilib.calls.distill import STUDENT
from dilib.data import Split
from dilib.evaluation import split_accuracy

OWN = """
import torch
from dilib import networks

def teacher():
    return networks.create("vgg11_bn", classes=4, channels=3, width=1 / 16)

def student():
    return networks.create("vgg11_bn", classes=4, channels=3, width=1 / 32)

def nothing():
    return 3
"""
PREPROCESSING = ["--mean", "0.5,0.4,0.3", "--std", "0.25,0.2,0.1", "--size", "32"]


@pytest.fixture
def brief(monkeypatch):
    """Batches and rounds of a few updates."""

    def plan_for(preprocessing, method):
        plan = plans.plan_for(preprocessing, method)
        batches = {"batches": 2} if method == "amortised" else {}
        teaching = replace(plan.teaching, updates=4, batch_size=8, **batches)
        stages = tuple((size, 2) for size, _ in plan.schedule.stages)
        return replace(plan, batch_size=8, warm_up=1, teaching=teaching, schedule=replace(plan.schedule, stages=stages))

    for name in ("distill", "images"):
        monkeypatch.setattr(f"dilib.calls.{name}.plan_for", plan_for)


@pytest.fixture
def smaller():
    torch.manual_seed(1)
    return networks.create("vgg11_bn", classes=4, channels=3, width=1 / 32)


def real(count=12):
    torch.manual_seed(2)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8), torch.arange(count) % 4


@pytest.mark.parametrize("method", plans.METHODS)
def test_a_student_is_taught_and_the_same_call_goes_on(teacher, smaller, brief, tmp_path, method):
    taught = dilib.distill(teacher, smaller, tmp_path / "run", method=method, updates=12, test=real())
    assert not taught.student.training
    assert taught.student is smaller
    assert len(taught.history["student_on_test"]) == len(taught.history["seconds"]) == 3
    assert len(taught.pool) == 3 * 8 * (2 if method == "amortised" else 1)
    there = load_file(tmp_path / "run" / STUDENT)
    assert there.keys() == smaller.state_dict().keys()

    torch.manual_seed(9)  # whatever a fresh script's student begins with
    fresh = networks.create("vgg11_bn", classes=4, channels=3, width=1 / 32)
    again = dilib.distill(teacher, fresh, tmp_path / "run", method=method, updates=12, test=real())
    assert again.history == taught.history
    assert all(torch.equal(value, smaller.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_adaptive_images_compete_after_the_first_batch_and_plain_ones_never(teacher, smaller, brief, tmp_path):
    for method in ("adaptive", "deepinversion"):
        dilib.distill(teacher, smaller, tmp_path / method, method=method, updates=12)
    compete = {}
    for method in ("adaptive", "deepinversion"):
        paths = dilib.PoolDataset(tmp_path / method / "images").paths
        compete[method] = [float(load_file(path)["history"][:, 3].abs().sum()) > 0 for path in paths]
    assert compete == {"adaptive": [False, True, True], "deepinversion": [False] * 3}


def test_what_a_folder_holds_is_not_taken_for_something_else(teacher, smaller, brief, tmp_path):
    dilib.distill(teacher, smaller, tmp_path, updates=4)
    with pytest.raises(ValueError, match=r"holds a run with updates 4, not 8; choose another folder"):
        dilib.distill(teacher, smaller, tmp_path, updates=8)
    with pytest.raises(ValueError, match="holds a run with method amortised, not adaptive"):
        dilib.distill(teacher, smaller, tmp_path, updates=4, method="adaptive")


def test_a_budget_in_minutes_is_what_it_takes(teacher, smaller, brief, tmp_path):
    with pytest.warns(UserWarning, match=r"\d rounds are few for a student; give minutes=\S+ or more here"):
        dilib.distill(teacher, smaller, tmp_path, minutes=1e-4)
    card = json.loads((tmp_path / "run.json").read_text())
    assert card["asked"]["minutes"] == 1e-4
    assert card["decided"]["rounds"] == 1


def test_feature_statistics_weigh_alike_in_any_network(preprocessing, teacher):
    plan = plans.plan_for(preprocessing, "amortised")
    assert plan.fitted(38.0).objective.alpha_f * 38.0 == pytest.approx(plan.objective.alpha_f)
    assert plan.fitted(20_700.0).objective.alpha_f * 20_700.0 == pytest.approx(plan.objective.alpha_f)


def test_images_have_their_classes_names(teacher, brief, tmp_path):
    names = ("cat", "dog", "deer", "frog")
    pool = dilib.make_images(teacher, tmp_path, 10, classes=[1, 3], names=names)
    assert len(pool) == 16, "two batches of eight"
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"1-dog", "3-frog"}
    files = sorted((tmp_path / "images").rglob("*.png"))
    pixels, labels = pool.split().pixels, pool.split().labels
    assert len(files) == 16
    assert {int(path.parent.name[0]) for path in files} == set(labels.tolist())
    first = next(path for path in files if path.stem == "00000")
    assert (torch.from_numpy(np.array(Image.open(first))).permute(2, 0, 1).int() - pixels[0].int()).abs().max() == 0
    assert (tmp_path / "contact.png").exists()


def test_a_network_is_pruned_and_found_again(teacher, tmp_path):
    images, labels = real(64)
    found = dilib.prune(teacher, images, filters=0.4, minutes=0.01, test=(images, labels), folder=tmp_path)
    convolutions = [layer for layer in found.network.modules() if isinstance(layer, torch.nn.Conv2d)]
    whole = [layer for layer in teacher.network.modules() if isinstance(layer, torch.nn.Conv2d)]
    gone = 1 - sum(layer.out_channels for layer in convolutions) / sum(layer.out_channels for layer in whole)
    assert 0.35 < gone < 0.5
    assert found.after == split_accuracy(replace(teacher, network=found.network), Split(images, labels, 0.0))
    again = dilib.load_pruned(teacher, tmp_path)
    batch = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(batch), found.network(batch))


def test_few_bits_and_more_classes(teacher, tmp_path):
    images, labels = real(64)
    found = dilib.quantize(teacher, images, bits=4, minutes=0.01, test=(images, labels))
    assert 0 <= found.after <= 100
    extended = dilib.add_classes(teacher, (images, labels % 2), images, updates=3)
    assert extended(torch.randn(2, 3, 32, 32)).shape == (2, 6)
    head = teacher.structure().head
    assert extended.get_submodule(head).out_features == 6


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t, s, f: dilib.distill(t, s, f, method="best"), "unknown method 'best'; choose from amortised, deep"),
        (lambda t, s, f: dilib.distill(t, s, f, minutes=0), "minutes 0 is no budget"),
        (lambda t, s, f: dilib.distill(t, s, f, test=(torch.rand(4, 3, 32, 32), torch.arange(4))), "give uint8 pixels"),
        (
            lambda t, s, f: dilib.distill(t, s, f, test=(real(4)[0], torch.arange(4) + 1)),
            "give one from 0 to 3 for each",
        ),
        (lambda t, s, f: dilib.make_images(t, f, 4, names=["cat"]), "1 names do not fit the teacher's 4 classes"),
        (lambda t, s, f: dilib.make_images(t, f, 4, classes=[4]), "do not fit the teacher's 4; choose from 0 to 3"),
        (lambda t, s, f: dilib.make_images(t, f, 4, method="adaptive"), "adaptive images compete with a student"),
        (lambda t, s, f: dilib.prune(t, torch.zeros(2, 1, 32, 32, dtype=torch.uint8)), "give uint8 pixels, N×3×32×32"),
        (lambda t, s, f: dilib.prune(t, real(8)[0], filters=1.0), "a share of 1.0 filters can't be removed"),
        (lambda t, s, f: dilib.quantize(t, real(8)[0], bits=1), "1 bits are out of range; choose from 2 to 8"),
    ],
)
def test_bad_input_is_refused_before_work_starts(teacher, smaller, tmp_path, call, words):
    with pytest.raises(ValueError, match=words):
        call(teacher, smaller, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def own(teacher, tmp_path):
    """A folder as a user has it: a module, and weights that a wrapped network was saved with."""
    (tmp_path / "nets.py").write_text(OWN)
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in teacher.network.state_dict().items()}},
        tmp_path / "teacher.pth",
    )
    return tmp_path


def command(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    line = [sys.executable, "-m", "dilib.commands", *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)


def test_commands_go_from_weights_to_images_and_a_pruned_network(own):
    teacher = ["--teacher", "nets:teacher", "--weights", "teacher.pth", *PREPROCESSING]
    made = command(own, "invert", *teacher, "--folder", "dreams", "--images", "8", "--minutes", "0.001")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1].startswith("8 images are in dreams/images")
    pruned = command(own, "prune", *teacher, "--images", "dreams", "--folder", "pruned", "--minutes", "0.001")
    assert pruned.returncode == 0, pruned.stderr
    assert "pruned/network.safetensors" in pruned.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distill", "--teacher", "nets:teacher"], "--weights is needed for a network of your own"),
        (["distill", "--teacher", "nets:nothing", "--weights", "teacher.pth", *PREPROCESSING], "returns a int"),
        (["distil", "--teacher", "nowhere:x", "--weights", "teacher.pth", *PREPROCESSING], "ModuleNotFoundError"),
        (
            ["distill", "--teacher", "nets:teacher", "--weights", "gone.pth", *PREPROCESSING],
            "there is no file gone",
        ),
        (
            ["distill", "--teacher", "nets:student", "--weights", "teacher.pth", *PREPROCESSING],
            "does not fit Seq",
        ),
        (["distill", "--teacher", "resnet999"], "unknown ImageNet classifier 'resnet999'"),
    ],
)
def test_commands_say_what_is_wrong_in_one_line(own, arguments, words):
    found = command(own, *arguments, "--folder", "out", "--student", "nets:student")
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert len(found.stderr.splitlines()) == 1
    assert words in found.stderr


def test_unknown_commands_are_named(tmp_path):
    found = command(tmp_path, "distilled")
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 1)
    assert "unknown command 'distilled'; choose from distill, invert, prune" in found.stderr
    assert "distill" in command(tmp_path, "--help").stdout


def test_weights_that_hold_code_are_not_run(own):
    class Malicious:
        def __reduce__(self):
            return os.system, ("touch ran",)

    torch.save({"state_dict": Malicious()}, own / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth can't be read as weights"):
        dilib.load_weights(networks.create("vgg11_bn", classes=4, width=1 / 16), own / "bad.pth")
    assert not (own / "ran").exists()


def test_safetensors_are_read_and_misfits_named(network, tmp_path):
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "w.safetensors")
    fresh = networks.create("vgg11_bn", classes=4, channels=3, width=1 / 16)
    assert torch.equal(
        dilib.load_weights(fresh, tmp_path / "w.safetensors")(torch.ones(1, 3, 32, 32)),
        network(torch.ones(1, 3, 32, 32)),
    )
    with pytest.raises(ValueError, match=r"is \(4, 3, 3, 3\) there and \(2, 3, 3, 3\) in the network"):
        dilib.load_weights(networks.create("vgg11_bn", classes=4, width=1 / 32), tmp_path / "w.safetensors")


def test_what_the_package_exports_is_there():
    for name in dilib.EXPORTS:
        assert getattr(dilib, name).__doc__
        assert name in dir(dilib)
    with pytest.raises(AttributeError, match="module dilib has no 'distil'"):
        _ = dilib.distil
