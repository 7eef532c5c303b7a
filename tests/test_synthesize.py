"""Many processes, killed or not, fill a pool with the very images that one process makes."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from dilib.commands import synthesize
from dilib.pool import PoolDataset

BATCHES, BATCH = 6, 10
TEACHER = ["--scale", "smoke", "--dataset", "digits", "--teacher", "vgg11_bn", "--batch-size", str(BATCH)]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def command(folder, *, processes=1, images=BATCHES * BATCH):
    launcher = TORCHRUN if processes == 2 else []
    options = ["--pool", folder / "pool", "--images", images, "--artifacts", folder / "artifacts"]
    return [sys.executable, *launcher, "-m", "dilib.commands.synthesize", *TEACHER, *map(str, options)]


def contents(folder):
    """Every batch's tensors, as bytes, and every picture."""
    batches = {path.name: load_file(path) for path in sorted(folder.glob("pool/*.safetensors"))}
    tensors = {(name, key): value.numpy().tobytes() for name, found in batches.items() for key, value in found.items()}
    pictures = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("pool/images/*/[!.]*"))}
    return {**tensors, **pictures}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A pool made by one process."""
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run(command(folder), check=True, capture_output=True)
    return folder


def test_two_processes_make_the_same_pool_as_one(alone, tmp_path):
    subprocess.run(command(tmp_path, processes=2), check=True, capture_output=True)
    assert contents(tmp_path) == contents(alone)
    assert len(list((tmp_path / "pool").glob("batch-*.safetensors"))) == BATCHES


def test_a_killed_process_costs_its_batch_and_others_complete_the_pool(alone, tmp_path):
    (tmp_path / "artifacts").symlink_to(alone / "artifacts")
    first, second = (subprocess.Popen(command(tmp_path), stderr=subprocess.DEVNULL) for _ in range(2))
    deadline = time.time() + 120
    while not list(tmp_path.glob("pool/batch-*.safetensors")) and time.time() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert second.wait() == 0
    assert contents(tmp_path) == contents(alone)


def test_a_pool_is_an_image_folder_with_a_card(alone):
    folder = ImageFolder(str(alone / "pool" / "images"))
    assert len(folder) == BATCHES * BATCH
    assert folder.classes == [f"{digit}-{digit}" for digit in range(10)]
    assert folder.targets == sorted(folder.targets)
    card = json.loads((alone / "pool" / "card.json").read_text())
    assert (card["teacher"], card["images"], card["seed"]) == ("vgg11_bn", BATCHES * BATCH, 0)
    assert Image.open(alone / "pool" / "contact.png").width > 100


def test_a_pool_is_a_torch_dataset(alone):
    pool = PoolDataset(alone / "pool")
    assert len(pool) == BATCHES * BATCH
    for number in (0, BATCH - 1, BATCH, BATCHES * BATCH - 1):
        image, label = pool[number]
        batch = load_file(alone / "pool" / f"batch-{number // BATCH:05d}.safetensors")
        assert torch.equal(image, batch["images"][number % BATCH] * batch["step"] + batch["lowest"])
        assert label == batch["labels"][number % BATCH] == number % 10
    images, labels = next(iter(DataLoader(pool, batch_size=4, shuffle=True)))
    assert (images.shape, labels.shape) == ((4, 1, 32, 32), (4,))
    with pytest.raises(IndexError, match="image 60 of a pool of 60"):
        pool[60]
    # What a program without dilib needs to make pixels of them.
    mean, std = (torch.tensor(pool.card["preprocessing"][name]).view(-1, 1, 1) for name in ("mean", "std"))
    png = Image.open(alone / "pool" / "images" / "0-0" / "00000.png")
    pixels = ((pool[0][0] * std + mean) * 255).round().clamp(0, 255)
    assert np.array_equal(pixels[0].byte().numpy(), np.asarray(png))


def test_a_folder_without_a_pool_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no pool; `dilib invert` or dilib\.make_images fills one"):
        PoolDataset(tmp_path)


def test_a_half_written_batch_is_made_again_and_a_pool_can_grow(alone, tmp_path):
    before = contents(alone)
    broken = alone / "pool" / "batch-00002.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    arguments = command(alone, images=BATCHES * BATCH + 1)
    subprocess.run(arguments, check=True, capture_output=True)
    after = contents(alone)
    assert {name: after[name] for name in before} == before
    assert len(list((alone / "pool").glob("batch-*.safetensors"))) == BATCHES + 1
    (alone / "pool" / f"batch-{BATCHES:05d}.safetensors").unlink()


def test_a_full_disk_is_one_line_and_leaves_what_is_whole(alone, tmp_path, monkeypatch, capsys):
    synced = []

    def full_after_two_files(_):
        synced.append(1)
        if len(synced) > 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_after_two_files)
    (tmp_path / "artifacts").symlink_to(alone / "artifacts")
    assert synthesize.main(command(tmp_path)[3:]) == 2
    told = capsys.readouterr().err
    assert "No space left on device: '" in told
    assert "; mend that, and the same command goes on" in told
    left = {path.name for path in tmp_path.glob("pool/**/*") if path.is_file() and path.suffix != ".lock"}
    assert left == {"card.json", "batch-00000.safetensors"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--seed", "1"], "holds images made with seed 0, not 1; choose another folder"),
        (["--teacher", "resnet34"], "holds images made with teacher vgg11_bn, not resnet34; choose another folder"),
        (["--teacher", "resnet19"], "unknown teacher 'resnet19'; choose from vgg11_bn, resnet34"),
        (["--classes", "1,b"], "--classes '1,b' are not whole numbers from 0 to 9; write them as in 1,9,22"),
        (["--classes", "1,10"], "--classes '1,10' are not whole numbers from 0 to 9; write them as in 1,9,22"),
        (["--classes", ""], "--classes '' are not whole numbers from 0 to 9; write them as in 1,9,22"),
        (
            ["--seed", str(2**64)],
            "seed 18446744073709551616 is out of range; choose a whole number from 0 to 4294967295",
        ),
        (["--images", "0"], "--images is 0; give at least 1"),
        (["--batch-size", "0"], "--batch-size is 0; give at least 1"),
        (["--scale", "tiny"], "unknown scale 'tiny'; choose from smoke, "),
    ],
)
def test_bad_input_is_one_line_before_any_work(alone, capsys, changed, message):
    before = contents(alone)
    assert synthesize.main([*command(alone)[3:], *changed]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert contents(alone) == before


def test_classes_that_a_data_set_has_not_are_refused_before_its_teacher_is_trained(tmp_path, capsys):
    assert synthesize.main([*command(tmp_path)[3:], "--classes", "10"]) == 2
    assert "--classes '10' are not whole numbers from 0 to 9" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))
