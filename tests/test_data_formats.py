"""Archives as their authors lay them out, written by hand and read without a network."""

import numpy as np
import pytest
import torch
from PIL import Image

from dilib import data
from dilib.downloads import Unreachable


def cifar_record(label_bytes, level, marks=()):
    """One image of a uniform grey level, but for pixels (channel, row, column, value): red plane, green plane, blue."""
    planes = np.full(3072, level, np.uint8)
    for channel, row, column, value in marks:
        planes[1024 * channel + 32 * row + column] = value
    return bytes(label_bytes) + planes.tobytes()


def write_cifar(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_cifar10_is_read_from_its_five_batches(tmp_path):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    labels = [[6, 9], [1, 6], [8, 5], [9, 0], [2, 6]]  # by batch
    batches = {
        f"data_batch_{i + 1}.bin": b"".join(cifar_record([label], 10 * i + j) for j, label in enumerate(two))
        for i, two in enumerate(labels)
    }
    test = cifar_record([3], 50, [(0, 0, 31, 200), (1, 7, 2, 201), (2, 31, 0, 202)])
    meta = "\n".join(names).encode() + b"\n\n"  # the archive's own ends with an empty line
    folder = tmp_path / "cifar10" / "cifar-10-batches-bin"
    write_cifar(folder, {**batches, "test_batch.bin": test, "batches.meta.txt": meta})

    cifar = data.load("cifar10", tmp_path)
    assert (cifar.title, cifar.classes) == ("CIFAR-10", tuple(names))
    assert cifar.train.pixels.shape == (10, 3, 32, 32)
    found = zip(cifar.train.labels.tolist(), cifar.train.pixels[:, 2, 5, 6].tolist(), strict=True)
    levels = [0, 1, 10, 11, 20, 21, 30, 31, 40, 41]
    assert sorted(found) == sorted(zip([6, 9, 1, 6, 8, 5, 9, 0, 2, 6], levels, strict=True))
    assert cifar.test.labels.tolist() == [3]
    image = cifar.test.pixels[0]
    assert [image[0, 0, 31], image[1, 7, 2], image[2, 31, 0]] == [200, 201, 202]
    assert (image == 50).sum() == 3072 - 3


def test_a_damaged_archive_is_said_to_be(tmp_path):
    files = {f"data_batch_{i}.bin": cifar_record([i], 10) for i in range(1, 6)}
    folder = tmp_path / "cifar10" / "cifar-10-batches-bin"
    write_cifar(folder, {**files, "test_batch.bin": b"cut off", "batches.meta.txt": b"airplane"})
    with pytest.raises(Unreachable, match=r"CIFAR-10 in .*cifar10 is damaged \(.*\); delete it and run again$"):
        data.load("cifar10", tmp_path)


def test_cifar10_is_the_same_from_lossless_files_by_class(tmp_path):
    names, random = ["airplane", "automobile"], np.random.default_rng(0)
    records = [(label, random.integers(0, 256, (3, 32, 32), np.uint8)) for label in (1, 0, 1, 1, 0, 0, 1)]
    flat = [bytes([label]) + pixels.tobytes() for label, pixels in records]
    files = {f"data_batch_{i + 1}.bin": record for i, record in enumerate(flat[:5])}
    meta = "\n".join(names).encode()
    write_cifar(
        tmp_path / "a/cifar10/cifar-10-batches-bin",
        {**files, "test_batch.bin": flat[5] + flat[6], "batches.meta.txt": meta},
    )
    for number, (label, pixels) in enumerate(records):
        folder = tmp_path / "b/cifar10" / ("test" if number >= 5 else "train") / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{number}.png")

    archive, tree = data.load("cifar10", tmp_path / "a"), data.load("cifar10", tmp_path / "b")
    assert archive.classes == tree.classes == tuple(names)
    for one, other in ((archive.train, tree.train), (archive.test, tree.test)):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)
    assert tree.train.labels.tolist() == [0, 0, 1, 1, 1]


def test_cifar100_takes_its_fine_labels(tmp_path):
    fine, coarse = ([f"{word}_{i}" for i in range(count)] for word, count in (("fine", 100), ("coarse", 20)))
    train = cifar_record([11, 19], 5) + cifar_record([0, 99], 6, [(1, 2, 3, 250)]) + cifar_record([19, 0], 7)
    files = {"train.bin": train, "test.bin": cifar_record([4, 72], 8)}
    texts = {"fine_label_names.txt": "\n".join(fine).encode(), "coarse_label_names.txt": "\n".join(coarse).encode()}
    write_cifar(tmp_path / "cifar100" / "cifar-100-binary", files | texts)

    cifar = data.load("cifar100", tmp_path)
    assert (cifar.title, cifar.classes) == ("CIFAR-100", tuple(fine))
    assert (cifar.train.labels.tolist(), cifar.test.labels.tolist()) == ([0, 19, 99], [72])
    assert cifar.train.pixels[:, 0, 0, 0].tolist() == [7, 5, 6], "no label is taken for a pixel"
    assert cifar.train.pixels[2, 1, 2, 3] == 250
    assert (cifar.test.pixels == 8).all()


BIRDS = [  # path, label, in training, colour; one is grey, as some of the archive's are
    ("001.Black_footed_Albatross/Albatross_0046.jpg", 1, 1, (200, 40, 40)),
    ("001.Black_footed_Albatross/Albatross_0009.jpg", 1, 0, (40, 200, 40)),
    ("002.Laysan_Albatross/Laysan_0002.jpg", 2, 0, (40, 40, 200)),
    ("002.Laysan_Albatross/Laysan_0001.jpg", 2, 1, 90),
    ("010.Red_winged_Blackbird/Blackbird_0003.jpg", 3, 1, (120, 120, 10)),
]


def test_cub_is_split_as_its_lists_say(tmp_path):
    root = tmp_path / "cub200" / "CUB_200_2011"
    for path, _, _, colour in BIRDS:
        target = root / "images" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if isinstance(colour, int) else "RGB", (40, 36), colour).save(target, quality=95)
    columns = zip(*((path, label, training) for path, label, training, _ in BIRDS), strict=True)
    for name, column in zip(("images", "image_class_labels", "train_test_split"), columns, strict=True):
        (root / f"{name}.txt").write_text("".join(f"{i} {value}\n" for i, value in enumerate(column, 1)))
    names = "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n3 010.Red_winged_Blackbird\n"
    (root / "classes.txt").write_text(names)

    cub = data.load("cub200", tmp_path)
    assert (cub.title, cub.preprocessing.size) == ("CUB-200", 32)
    assert cub.classes == ("Black_footed_Albatross", "Laysan_Albatross", "Red_winged_Blackbird")
    assert (cub.train.labels.tolist(), cub.test.labels.tolist()) == ([0, 1, 2], [0, 1])
    expected = {"train": [(200, 40, 40), (90, 90, 90), (120, 120, 10)], "test": [(40, 200, 40), (40, 40, 200)]}
    for split, colours in expected.items():
        pixels = getattr(cub, split).pixels
        assert pixels.shape == (len(colours), 3, 32, 32)
        centres = pixels[:, :, 16, 16].float()
        torch.testing.assert_close(centres, torch.tensor(colours).float(), atol=4, rtol=0)  # JPEG's rounding
