"""What README and docs tell people to type is typed here, on small networks and with brief budgets."""

import argparse
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_model
from torch.distributed import run as torchrun

import dilib
from dilib import networks
from dilib.calls import budget, plans
from dilib.commands import __main__ as dilib_command
from dilib.inversion import Schedule

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
NETWORKS = """
from dilib import networks

def teacher():
    return networks.create("vgg11_bn", classes=3, channels=3, width=1 / 16)

def student():
    return networks.create("vgg11_bn", classes=3, channels=3, width=1 / 32)

my_network, my_smaller_network = teacher, student
"""


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def lines(page):
    """The commands in a page's shell blocks, each as one line."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", "")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """A folder with a network of one's own and its weights, where plans take a few updates and seconds are long."""
    for name in ("my_package.py", "nets.py"):
        (tmp_path / name).write_text(NETWORKS)
    torch.manual_seed(0)
    network = networks.create("vgg11_bn", classes=3, channels=3, width=1 / 16)
    with torch.no_grad():
        network(torch.randn(64, 3, 32, 32))
    save_model(network, tmp_path / "weights.safetensors")
    torch.save(network.state_dict(), tmp_path / "teacher.pth")

    def plan_for(size, method):
        plan = plans.plan_for(size, method)
        batches = {"batches": 2} if method == "amortised" else {}
        teaching = replace(plan.teaching, updates=4, batch_size=8, **batches)
        schedule = replace(plan.schedule, stages=tuple((size, 2) for size, _ in plan.schedule.stages))
        return replace(plan, batch_size=64, warm_up=1, teaching=teaching, schedule=schedule)

    for name in ("distill", "images"):
        monkeypatch.setattr(f"dilib.calls.{name}.plan_for", plan_for)
    monkeypatch.setattr("dilib.calls.budget.measured", lambda *arguments: budget.Cost(20.0, 5.0, 38.0))
    monkeypatch.setattr("dilib.calls.budget.update_seconds", lambda *arguments: 30.0)
    monkeypatch.setattr("dilib.calls.tuning.batch_size", lambda teacher: 8)
    monkeypatch.setitem(dilib.add_classes.__kwdefaults__, "updates", 20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("my_package", "nets"):
        sys.modules.pop(name, None)


def test_the_readmes_ten_lines_and_the_one_call_each(newcomer, monkeypatch):
    (ten_lines,), (calls, own_batch) = blocks("README.md", "python"), blocks("docs/own-network.md", "python")
    assert len(ten_lines.splitlines()) <= 10
    names = {"names": ["cat", "dog", "deer"]}
    exec(ten_lines, names)
    assert (newcomer / "my-run" / "student.safetensors").exists()
    assert names["taught"].student.training is False
    names |= {"student": names["my_smaller_network"]()}
    names |= {"pixels": torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8), "labels": torch.arange(20) % 2}
    exec(calls.replace('"my-run"', '"another-run"'), names)
    batch = torch.randn(2, 3, 32, 32)
    for network in (names["taught"].student, names["small"].network, names["coarse"].network):
        assert network(batch).shape == (2, 3)
    assert names["more"](batch).shape == (2, 5)
    with monkeypatch.context() as patched:
        patched.setattr(Schedule, "for_images", lambda preprocessing: Schedule(((None, 2),), lr=0.1))
        exec(own_batch.replace("balanced_labels(64, 10", "balanced_labels(8, 3"), names)
    assert names["pixels"].shape == (8, 3, 32, 32)


def test_the_commands_for_a_network_of_ones_own(newcomer, capsys):
    commands = [line for line in lines("docs/own-network.md") if line.startswith("dilib ")]
    assert [line.split()[1] for line in commands] == ["distill", "invert", "prune"]
    for line in commands:
        assert dilib_command.main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    for written in ("my-run/student.safetensors", "my-images/contact.png", "my-pruned/network.safetensors"):
        assert (newcomer / written).exists()
    for number in range(3):
        folder = newcomer / "real" / str(number)
        folder.mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), 80 * number, np.uint8)).save(folder / "x.png")
    assert dilib_command.main([*shlex.split(commands[0])[1:], "--test", "real"]) == 0
    assert "% of the test images" in capsys.readouterr().out


class Parsed(Exception): ...


@pytest.fixture
def only_parsed(monkeypatch):
    """Commands end once they have understood their options."""
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self, *arguments):
        parse(self, *arguments)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


MANY = sorted({line for page in PAGES for line in lines(page) if "dilib.commands" in line or "dilib fill" in line})


@pytest.mark.parametrize("line", MANY)
def test_commands_for_many_processes_are_understood(line, only_parsed):
    """Whole runs by torchrun are in test_synthesize, test_distributed and test_calls; srun's own options go unread."""
    words = shlex.split(line)
    if "--wrap" in words:
        words = shlex.split(words[words.index("--wrap") + 1])
    if "bash" in words:  # whose line has srun find out the first host
        words = shlex.split(re.sub(r"\$\(.*\)", "HOST", words[words.index("-c") + 1]))
    programs = [Path(word).name for word in words]
    if "torchrun" in programs:
        words = words[programs.index("torchrun") + 1 :]
        with pytest.raises(Parsed):
            torchrun.parse_args(words)
    if "dilib" in programs:
        command, options = dilib_command, words[programs.index("dilib") + 1 :]
    else:
        module, *options = words[words.index("-m") + 1 :]
        command = import_module(module)
    with pytest.raises(Parsed):
        command.main(options)


def mentioned(program):
    """Every line in prose or tables that begins with this program."""
    return sorted({line for page in PAGES for line in re.findall(rf"`({program}[^`…]*)`", page.read_text())})


@pytest.mark.parametrize("line", [*mentioned("make "), *lines("docs/study.md")[:2]])
def test_what_is_to_be_made_can_be(line):
    words = shlex.split(line, comments=True)
    subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, check=True)
    known = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f" {name}=" in known for name in re.findall(r"(\w+)=", line))


@pytest.mark.parametrize("line", [line for line in mentioned("dilib ") if " --" in line and "--help" not in line])
def test_options_in_prose_are_understood(line, only_parsed):
    with pytest.raises(Parsed):
        dilib_command.main(shlex.split(line)[1:])


@pytest.mark.parametrize("line", mentioned("dilib "))
def test_commands_explain_themselves(line, capsys):
    with pytest.raises(SystemExit) as ended:
        dilib_command.main([line.split()[1], "--help"])
    assert ended.value.code == 0
    assert "usage: dilib" in capsys.readouterr().out


@pytest.mark.parametrize("line", mentioned("pip install"))
def test_what_is_to_be_installed_is_there(line):
    (wanted,) = re.findall(r"install (\.|'(?:\.|dilib)\[\w+\]')$", line)
    extra = re.findall(r"\[(\w+)\]", wanted)
    assert set(extra) <= tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
