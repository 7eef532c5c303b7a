"""One call each, as somebody with a network of their own makes it."""

import copy
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import dilib
from dilib import networks
from dilib.calls import budget, distill, plans, tuning
from dilib.calls.distill import STUDENT
from dilib.calls.given import pixels_of, suited
from dilib.commands.given import in_order
from dilib.continual.extension import ExtensionSettings
from dilib.data import Split
from dilib.evaluation import split_accuracy, top1
from dilib.parameterisation import SpectrumSettings

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

    def plan_for(size, method):
        plan = plans.plan_for(size, method)
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


def weights_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("method", plans.METHODS)
def test_a_student_that_was_stopped_ends_as_one_that_was_not(teacher, smaller, brief, tmp_path, method, monkeypatch):
    batches = 2 if method == "amortised" else 1
    taught = dilib.distill(teacher, smaller, tmp_path / "run", method=method, updates=12, test=real())
    assert not taught.student.training
    assert taught.student is smaller
    assert len(taught.history["seconds"]) == 3
    assert len(taught.pool) == 3 * 8 * batches
    assert taught.top1 == split_accuracy(replace(teacher, network=smaller), Split(*real(), 0.0))
    assert load_file(tmp_path / "run" / STUDENT).keys() == smaller.state_dict().keys()

    class Stopping:
        """A bar that is interrupted after the first round."""

        n = 0

        def __init__(self, *arguments): ...

        def __enter__(self):
            return self

        def __exit__(self, *error): ...

        def update(self, count):
            self.n += count
            if self.n > batches:
                raise KeyboardInterrupt

    def fresh(seed):
        torch.manual_seed(seed)
        return networks.create("vgg11_bn", classes=4, channels=3, width=1 / 32)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("dilib.calls.distill.bar", Stopping)
        dilib.distill(teacher, fresh(1), tmp_path / "stopped", method=method, updates=12)
    assert not (tmp_path / "stopped" / STUDENT).exists()
    # One card is that of a run of its own: what is decided holds a timing, which differs.
    card = json.loads((tmp_path / "stopped" / "run.json").read_text())
    assert card["asked"] == json.loads((tmp_path / "run" / "run.json").read_text())["asked"]
    other = fresh(9)  # whatever a new process's student begins with
    dilib.distill(teacher, other, tmp_path / "stopped", method=method, updates=12)
    assert all(torch.equal(value, weights_of(smaller)[name]) for name, value in weights_of(other).items())
    again = dilib.distill(teacher, fresh(9), tmp_path / "stopped", method=method, updates=12, test=real())
    assert again.top1 == taught.top1, "a finished student is tested on images that are given later"


def test_adaptive_images_compete_after_the_first_batch_and_plain_ones_never(teacher, smaller, brief, tmp_path):
    for method in ("adaptive", "deepinversion"):
        dilib.distill(teacher, smaller, tmp_path / method, method=method, updates=12)
    compete = {}
    for method in ("adaptive", "deepinversion"):
        paths = dilib.PoolDataset(tmp_path / method / "images").paths
        compete[method] = [float(load_file(path)["history"][:, 3].abs().sum()) > 0 for path in paths]
    assert compete == {"adaptive": [False, True, True], "deepinversion": [False] * 3}


def test_what_a_folder_holds_is_not_taken_for_something_else(teacher, smaller, brief, tmp_path, monkeypatch):
    dilib.distill(teacher, smaller, tmp_path, updates=4)
    with pytest.raises(ValueError, match=r"holds a run with updates 4, not 8; choose another folder"):
        dilib.distill(teacher, smaller, tmp_path, updates=8)
    with pytest.raises(ValueError, match="holds a run with method amortised, not adaptive"):
        dilib.distill(teacher, smaller, tmp_path, updates=4, method="adaptive")
    dilib.make_images(teacher, tmp_path / "images-alone", 8)
    before = distill.plan_for
    for name in ("distill", "images"):
        monkeypatch.setattr(f"dilib.calls.{name}.plan_for", lambda *given: replace(before(*given), warm_up=2))
    for call in (
        lambda: dilib.distill(teacher, smaller, tmp_path, updates=4),
        lambda: dilib.make_images(teacher, tmp_path / "images-alone", 8),
    ):
        with pytest.raises(ValueError, match="holds a run with settings of another version of dilib; choose"):
            call()


@pytest.mark.parametrize(("named", "warns"), [([99.0, 60.0, 30.0, 30.0], True), ([30.0, 99.0, 60.0, 60.0], False)])
def test_images_that_the_teacher_no_longer_names_are_no_silent_failure(
    teacher, smaller, brief, tmp_path, monkeypatch, recwarn, named, warns
):
    teach = distill._teach
    monkeypatch.setattr(distill, "_teach", lambda *given: teach(*given) | {"teacher_on_fresh": named})
    for method, remedy in {"amortised": "they compete too hard", "deepinversion": "check its preprocessing"}.items():
        dilib.distill(teacher, smaller, tmp_path / method, updates=4, method=method)
        expected = f"names only 40 % of the latest images as they were meant; {remedy}"
        assert any(expected in str(each.message) for each in recwarn) == warns


def test_large_images_are_warned_of(teacher, smaller, brief, tmp_path, recwarn):
    for size, warns in ((32, False), (96, True)):
        recwarn.clear()
        dilib.distill(sized(teacher, size), smaller, tmp_path / str(size), updates=4)
        said = "a student from random weights learnt nothing at 224×224 in 100 minutes of a CPU core; try yours on real"
        assert any(str(each.message).startswith(said) for each in recwarn) == warns


def test_a_budget_in_minutes_becomes_rounds(teacher, smaller, brief, tmp_path, monkeypatch):
    """A brief round is two batches and four updates: 2 · 3 + 4 · 1.5 = 12 seconds."""
    monkeypatch.setattr("dilib.calls.budget.measured", lambda *arguments: budget.Cost(3.0, 1.5, 38.0))
    with pytest.warns(UserWarning, match=r"3 rounds are few for a student; give minutes=1\.6 or more here") as warned:
        dilib.distill(teacher, smaller, tmp_path, minutes=0.6)
    assert warned[0].filename == __file__
    card = json.loads((tmp_path / "run.json").read_text())
    assert card["decided"]["rounds"] == 3
    objective = json.loads((tmp_path / "images" / "card.json").read_text())["objective"]
    assert objective["alpha_f"] == pytest.approx(40 / 38)


def test_what_is_around_a_few_updates_counts_as_the_batchs(teacher, smaller, monkeypatch):
    """A round of one batch and four updates that takes 9 seconds, 1.5 of them an update: 3 are the batch's."""
    plan = plans.plan_for(teacher.preprocessing.size, "amortised")
    plan = replace(plan, batch_size=8, teaching=replace(plan.teaching, updates=8, batches=2, batch_size=8))
    monkeypatch.setattr(budget, "update_seconds", lambda *given: 1.5)
    monkeypatch.setattr(budget, "distill", lambda *given: {"seconds": [60.0, 9.0]})
    cost = budget.measured(plan, teacher, smaller)
    assert (cost.batch, cost.update, cost.round(plan)) == (3.0, 1.5, 18.0)


def test_resolutions_that_a_network_does_not_take_are_left_out(network):
    """VGG-11-BN halves its images five times: 16×16 leave nothing."""
    teacher = dilib.Classifier(network, dilib.Preprocessing((0.5,) * 3, (0.25,) * 3, 32))
    plan = plans.plan_for(teacher.preprocessing.size, "deepinversion")
    plan = replace(plan, schedule=replace(plan.schedule, stages=((16, 5), (None, 7))), spectrum=SpectrumSettings())
    assert suited(plan, teacher).schedule.stages == ((32, 12),)
    assert suited(plan, teacher).spectrum is None, "the last resolution is optimised as pixels"
    plan = replace(plan, schedule=replace(plan.schedule, stages=((64, 5), (None, 7))))
    assert suited(plan, teacher).schedule.stages == ((64, 5), (32, 7))
    assert suited(plan, teacher).spectrum == plan.spectrum


def test_every_class_has_its_turn(teacher, brief, tmp_path):
    pool = dilib.make_images(teacher, tmp_path, 8)
    assert pool.split().labels.bincount().tolist() == [2, 2, 2, 2]


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
    found = dilib.prune(teacher, images, tmp_path, filters=0.4, minutes=0.01, test=(images, labels))
    convolutions = [layer for layer in found.network.modules() if isinstance(layer, torch.nn.Conv2d)]
    whole = [layer for layer in teacher.network.modules() if isinstance(layer, torch.nn.Conv2d)]
    gone = 1 - sum(layer.out_channels for layer in convolutions) / sum(layer.out_channels for layer in whole)
    assert 0.35 < gone < 0.5
    assert found.after == split_accuracy(replace(teacher, network=found.network), Split(images, labels, 0.0))


@pytest.mark.parametrize(("size", "lr", "keeps"), [(32, 0.05, False), (96, 0.005, True)])
def test_few_large_images_pull_a_network_less(teacher, tmp_path, monkeypatch, size, lr, keeps):
    seen = []
    monkeypatch.setattr(tuning, "distill_on_pool", lambda *given, **named: seen.append((given[4].lr, named)))
    teacher = replace(teacher, preprocessing=replace(teacher.preprocessing, size=size))
    images = torch.randint(256, (8, 3, size, size), dtype=torch.uint8)
    dilib.prune(teacher, images, tmp_path, filters=0.2, updates=10)
    assert seen == [(lr, {"keep_statistics": keeps})]


def test_few_bits_and_more_classes(teacher, tmp_path):
    images, labels = real(64)
    found = dilib.quantize(teacher, images, tmp_path / "coarse", bits=4, minutes=0.01, test=(images, labels))
    assert found.after == top1(found.network(teacher.preprocessing.normalise(images)), labels)
    extended = dilib.add_classes(teacher, (images, labels % 2), images, tmp_path / "more", updates=3)
    assert extended(torch.randn(2, 3, 32, 32)).shape == (2, 6)
    head = teacher.structure().head
    assert extended.get_submodule(head).out_features == 6


CHANGED = {
    "prune": lambda teacher, images, folder: dilib.prune(teacher, images, folder, updates=20).network,
    "quantize": lambda teacher, images, folder: dilib.quantize(teacher, images, folder, updates=20).network,
    "add_classes": lambda teacher, images, folder: dilib.add_classes(
        teacher, (images, torch.arange(64) % 2), images, folder, updates=3
    ),
}


@pytest.mark.parametrize(
    ("call", "setting", "value"),
    [
        ("prune", "prune.STEPS", 4),
        ("prune", "tuning.ROUNDS", 5),
        ("quantize", "quantize.LR", 0.1),
        ("quantize", "quantize.CALIBRATING", 4),
        ("add_classes", "classes._settings", lambda teacher, updates: ExtensionSettings(updates, 4)),
    ],
)
def test_a_changed_network_by_other_settings_is_not_this_ones(teacher, tmp_path, monkeypatch, call, setting, value):
    images, _ = real(64)
    CHANGED[call](teacher, images, tmp_path)
    CHANGED[call](teacher, images, tmp_path)
    monkeypatch.setattr(f"dilib.calls.{setting}", value)
    with pytest.raises(ValueError, match="holds a run with settings of another version of dilib; choose"):
        CHANGED[call](teacher, images, tmp_path)


@pytest.mark.parametrize("call", CHANGED)
def test_a_changed_network_is_found_again_and_its_call_goes_on(teacher, tmp_path, monkeypatch, call):
    images, batch = real(64)[0], torch.randn(2, 3, 32, 32)
    whole = CHANGED[call](teacher, images, tmp_path / "whole")

    @contextmanager
    def stopping(total, label):
        def stop(done, *_):
            if done == total // 2:
                raise KeyboardInterrupt

        yield stop

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        for module in ("tuning", "classes"):
            patched.setattr(f"dilib.calls.{module}.counted", stopping)
        CHANGED[call](teacher, images, tmp_path / "stopped")
    with pytest.raises(ValueError, match="is not done; repeat the call that began it"):
        dilib.load_network(teacher, tmp_path / "stopped")
    CHANGED[call](teacher, images, tmp_path / "stopped")
    for folder in ("whole", "stopped"):
        assert torch.equal(dilib.load_network(teacher, tmp_path / folder)(batch), whole(batch))
    with pytest.raises(ValueError, match="holds a run with other images; choose another folder"):
        CHANGED[call](teacher, images.flip(0), tmp_path / "whole")


def test_precision_can_be_chosen(teacher, smaller, brief, tmp_path):
    for asked in ("float32", "bfloat16"):
        dilib.distill(teacher, smaller, tmp_path / asked, updates=4, precision=asked)
        assert json.loads((tmp_path / asked / "run.json").read_text())["decided"]["precision"] == asked


def sized(teacher, size):
    return replace(teacher, preprocessing=replace(teacher.preprocessing, size=size))


def changed(teacher, change):
    network = copy.deepcopy(teacher.network)
    return replace(teacher, network=change(network) or network)


def untrained(teacher):
    def forget(network):
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()

    return changed(teacher, forget)


def unbounded(teacher):
    return changed(teacher, lambda network: network[0][0].weight.data.fill_(float("nan")) is None)


def ending(teacher, layer):
    return changed(teacher, lambda network: nn.Sequential(network, layer).eval())


def halved(teacher):
    return replace(teacher, network=copy.deepcopy(teacher.network).half())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t, s, f: dilib.distill(t, s, f, method="best"), "unknown method 'best'; choose from amortised, deep"),
        (lambda t, s, f: dilib.distill(t, s, f, minutes=0), "minutes 0 is out of range; give a number above 0"),
        (lambda t, s, f: dilib.distill(t, s, f, precision="half"), "unknown precision 'half'; choose from float32"),
        (lambda t, s, f: dilib.distill(t.network, s, f), "the teacher is a Sequential; give dilib.Classifier(network"),
        (lambda t, s, f: dilib.distill(t, t.network, f), "the student shares weights with the teacher"),
        (lambda t, s, f: dilib.distill(t, lambda: s, f), "the student is a function; give a torch.nn.Module"),
        (lambda t, s, f: dilib.distill(t, s.double(), f), "the student's weights are float64; call .float"),
        (lambda t, s, f: dilib.distill(t, s.requires_grad_(False), f), "none of the student's weights takes gradients"),
        (lambda t, s, f: dilib.distill(t, s, None), "the folder is None; give a path"),
        (lambda t, s, f: dilib.distill(t, s, f, test="test"), "images with labels are a str; give (pixels, labels)"),
        (lambda t, s, f: dilib.distill(t, s, f, minutes="5"), "minutes '5' is out of range"),
        (lambda t, s, f: dilib.distill(t, s, f, minutes=None), "minutes None is out of range"),
        (lambda t, s, f: dilib.make_images(t, f, 4, names=[1, 2, 3, 4]), "names [1, 2, 3, 4] are no list of texts"),
        (lambda t, s, f: dilib.prune(t, real(8)[0], f, filters="half"), "'half' is no target; give a number"),
        (lambda t, s, f: dilib.make_images(t, f, 4.5), "count 4.5 is out of range; give a whole number above 0"),
        (
            lambda t, s, f: dilib.make_images(t, f, 4, classes=3),
            "classes 3 are no whole numbers; give some from 0 to 3",
        ),
        (lambda t, s, f: dilib.make_images(untrained(t), f, 4), "BatchNorm layers have seen no image"),
        (lambda t, s, f: dilib.make_images(unbounded(t), f, 4), "is not finite everywhere; load weights that are"),
        (
            lambda t, s, f: dilib.make_images(ending(t, nn.Sigmoid()), f, 4),
            "returns probabilities; have it return logi",
        ),
        (lambda t, s, f: dilib.make_images(ending(t, nn.Linear(4, 1)), f, 4), "Sequential has a single output"),
        (lambda t, s, f: dilib.load_network(t, f), "holds no run; give a folder that a call wrote"),
        (
            lambda t, s, f: dilib.distill(t, s, f, test=(torch.rand(4, 3, 32, 32), torch.arange(4))),
            "or uint8 pixels, N×3×32×32, not normalised",
        ),
        (
            lambda t, s, f: dilib.distill(t, s, f, test=(real(4)[0], torch.arange(4) + 1)),
            "give whole numbers from 0 to 3",
        ),
        (lambda t, s, f: dilib.make_images(t, f, 4, names=["cat"]), "1 names do not fit the teacher's 4 classes"),
        (lambda t, s, f: dilib.make_images(t, f, 4, classes=[4]), "are not the teacher's; choose from 0 to 3"),
        (lambda t, s, f: dilib.make_images(t, f, 4, method="adaptive"), "adaptive images compete with a student"),
        (lambda t, s, f: dilib.make_images(t, f, 0), "count 0 is out of range; give a whole number above 0"),
        (lambda t, s, f: dilib.distill(sized(t, 34), s, f), "have sides that are multiples of 4, not 34"),
        (lambda t, s, f: dilib.distill(halved(t), s, f), "the teacher's weights are float16; call"),
        (lambda t, s, f: dilib.distill(replace(t, precision=torch.float64), s, f), "unknown precision 'float64'"),
        (
            lambda t, s, f: dilib.add_classes(t, (real(4)[0], torch.ones(4)), real(8)[0], f),
            "labels are float32, (4,); give 4 whole numbers",
        ),
        (
            lambda t, s, f: dilib.prune(t, torch.zeros(2, 1, 32, 32, dtype=torch.uint8), f),
            "images are uint8, 2×1×32×32; give a pool",
        ),
        (lambda t, s, f: dilib.prune(t, real(8)[0], f, filters=1.0), "a share of 1.0 filters can't be removed"),
        (lambda t, s, f: dilib.quantize(t, real(8)[0], f, bits=1), "1 bits are out of range; choose from 2 to 8"),
        (lambda t, s, f: dilib.quantize(t, real(8)[0], f, bits="4"), "'4' bits are out of range; choose from 2 to 8"),
        (lambda t, s, f: dilib.prune(t, f / "none", f), "holds no pool; `dilib invert` or dilib.make_images fills one"),
        (
            lambda t, s, f: dilib.add_classes(t, (real(4)[0], torch.arange(4) + 10), real(8)[0], f),
            "labels of new classes are [10, 11, 12, 13]; number them from 0 to 3",
        ),
        (
            lambda t, s, f: dilib.add_classes(t, None, real(8)[0], f),
            "images with labels are a NoneType; give (pixels, l",
        ),
    ],
)
def test_bad_input_is_refused_before_work_starts(teacher, smaller, tmp_path, call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call(teacher, smaller, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_preprocessing_is_another_run(teacher, brief, tmp_path):
    """As after finding out that mean and deviation were wrong."""
    other = replace(teacher, preprocessing=replace(teacher.preprocessing, mean=(0.0, 0.0, 0.0)))
    images = real(64)[0]
    pool = dilib.make_images(teacher, tmp_path / "images", 8)
    for name, call in CHANGED.items():
        call(teacher, images, tmp_path / name)
        with pytest.raises(ValueError, match=r"holds a run with preprocessing .*; choose another folder"):
            call(other, images, tmp_path / name)
    with pytest.raises(ValueError, match="the pool was made for another preprocessing of this network"):
        dilib.prune(other, pool, tmp_path / "from-a-pool")


def test_more_images_go_into_the_same_folder(teacher, brief, tmp_path):
    first = dilib.make_images(teacher, tmp_path / "pool", 8).split().pixels
    more = dilib.make_images(teacher, tmp_path / "pool", 12).split().pixels
    assert len(more) == 16
    assert torch.equal(more[:8], first)
    assert len(list((tmp_path / "pool" / "images").rglob("*.png"))) == 16
    dilib.make_images(teacher, tmp_path / "few", 4)
    with pytest.raises(ValueError, match="was begun with batches of 4, too few for more; choose another folder"):
        dilib.make_images(teacher, tmp_path / "few", 8)


def test_a_pool_that_is_not_done_is_not_taken_for_whole(teacher, brief, tmp_path):
    pool = dilib.make_images(teacher, tmp_path, 16)
    pool.paths[1].unlink()
    with pytest.raises(ValueError, match="has 8 of 16 images; repeat the call that began it"):
        dilib.prune(teacher, tmp_path, tmp_path / "pruned")


def test_numbers_may_be_numpys(teacher, tmp_path):
    found = dilib.quantize(teacher, real(64)[0], tmp_path, bits=np.int64(4), updates=np.int64(10), seed=np.int64(1))
    assert json.loads((tmp_path / "run.json").read_text())["asked"]["seed"] == 1
    assert found.network(torch.randn(2, 3, 32, 32)).shape == (2, 4)


def test_pools_go_by_their_folder_and_arrays_are_taken(teacher, brief, tmp_path):
    pool = dilib.make_images(teacher, tmp_path / "pool", 8)
    found = [pixels_of(images, teacher) for images in (pool, tmp_path / "pool", str(tmp_path / "pool"))]
    assert all(torch.equal(each, found[0]) for each in found)
    assert torch.equal(pixels_of(found[0].numpy(), teacher), found[0])


def test_class_folders_go_by_their_numbers():
    numbered = [f"{number}-class" for number in range(12)]
    assert in_order(sorted(numbered)) == numbered
    assert in_order(["b", "a", "10"]) == ["10", "a", "b"]
    with pytest.raises(ValueError, match=r"class folders are numbered \[1, 7\]; number them from 0 to 1"):
        in_order(["1-cat", "7-dog"])


@pytest.fixture
def own(teacher, tmp_path):
    """A folder as a user has it: a module, and weights that a wrapped network was saved with."""
    (tmp_path / "nets.py").write_text(OWN)
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in teacher.network.state_dict().items()}},
        tmp_path / "teacher.pth",
    )
    return tmp_path


def command(folder, *arguments, launcher=()):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    line = [sys.executable, *launcher, "-m", "dilib.commands", *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)


def test_commands_go_from_weights_to_images_and_a_pruned_network(own):
    teacher = ["--teacher", "nets:teacher", "--weights", "teacher.pth", *PREPROCESSING]
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    images = ["--folder", "dreams", "--images", "8", "--minutes", "0.001"]
    made = command(own, "invert", *teacher, *images, launcher=two)
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
