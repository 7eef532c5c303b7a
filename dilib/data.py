"""Data sets by name, as uint8 tensors at one resolution, fetched on first use: whole and checked, or not at all."""

import gzip
import hashlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets

from dilib.artifacts import digest
from dilib.classifier import Preprocessing
from dilib.downloads import Unreachable, archive, debian_package, download, fetched, is_whole, reason
from dilib.image_folders import File, Inventory, class_names, decoded, inventory, listed, mapped

TITLES = {
    "digits": "Digits",
    "photographs": "Photographs",
    "photographs_grey": "Photographs (grey)",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
    "cub200": "CUB-200",
    "flowers102": "Flowers-102",
}
SPLITS = ("train", "test")
FREE = ("digits", "photographs", "photographs_grey", "fashion_mnist")  # whose images anyone may publish
IMAGENET_TRAINING_IMAGES = 215_000  # all 1.28 million would take 190 GB once decoded

LEAST_STD = round(1 / 255, 4)  # one grey level

FASHION_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
FASHION_FILES = {  # SHA-256 of the .gz files there, and of what is in them
    "train-images-idx3-ubyte": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
FLOWERS_URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
FLOWERS_FILES = {
    "102flowers.tgz": "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
    "imagelabels.mat": "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
    "setid.mat": "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
}
CIFAR = {  # archive without pickles: URL, SHA-256, folder, label bytes a record, class names, training files, test file
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "cifar-10-batches-bin",
        1,
        "batches.meta.txt",
        [f"data_batch_{i}.bin" for i in range(1, 6)],
        "test_batch.bin",
    ),
    "cifar100": (
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        "cifar-100-binary",
        2,
        "fine_label_names.txt",
        ["train.bin"],
        "test.bin",
    ),
}
CUB = (
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
)


@dataclass(frozen=True)
class Split:
    """Images as uint8 (N, C, H, W) in 0..255 and labels (N,), and the seconds that making them took, if they were made.

    Large splits are memory-mapped.
    """

    pixels: Tensor
    labels: Tensor
    seconds: float = 0.0


@dataclass(frozen=True)
class Data:
    """A data set: its name and title in print, its splits, its classes' names by label, and its preprocessing."""

    name: str
    title: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    preprocessing: Preprocessing


def load(name: str, folder: Path | str = "artifacts/data", size: int | None = None) -> Data:
    """The data set `name`, or `folder:PATH` with train/CLASS/* and test/CLASS/* images, at `size`×`size` pixels.

    A folder's images are in colour if any of them is; they are turned as their EXIF data say, and transparent ones lie
    on white. By default ImageNet is at 224 and all others at 32. Raises ValueError for an unknown name or a bad image
    folder, Unreachable when a download fails.
    """
    check_name(name)
    folder, size = Path(folder), size or (224 if name == "imagenet" else 32)
    if name == "digits":
        train, test, classes = _digits()
    elif name.startswith("photographs"):
        train, test, classes = _photographs(size, "L" if name.endswith("grey") else "RGB", folder / "decoded")
    elif name == "fashion_mnist":
        train, test, classes = _fashion_mnist(folder)
    elif name in CIFAR:
        train, test, classes = _cifar(name, folder)
    else:
        train_files, test_files, classes = _image_files(name, folder)
        channels = _inventory(name, folder).channels if name.startswith("folder:") else 3
        train = Split(*decoded(train_files, channels, size, folder / "decoded"))
        test = Split(*decoded(test_files, channels, size, folder / "decoded"))
    train, test = _resized(train, size), _resized(test, size)
    typical = train.pixels if len(train.pixels) else test.pixels
    return Data(name, title(name), train, test, tuple(classes), _preprocessing(typical, size))


loaded = lru_cache(load)  # each data set once per process


def of_classes(whole: Data, labels: Sequence[int], word: str) -> Data:
    """The part of a data set that has these labels, counted from 0 anew, with `word` ("old", "new") in its title.

    Labels that it does not have are left out.
    """
    labels = torch.tensor([label for label in sorted(labels) if label < len(whole.classes)])

    def part(split: Split) -> Split:
        chosen = torch.isin(split.labels, labels)
        return Split(split.pixels[chosen], torch.searchsorted(labels, split.labels[chosen]))

    classes = tuple(whole.classes[label] for label in labels)
    title = f"{whole.title}, {word} classes"
    return replace(whole, title=title, train=part(whole.train), test=part(whole.test), classes=classes)


def for_choosing(whole: Data) -> Data:
    """A data set's training images alone: one in ten, drawn at random, becomes a test image, to choose settings by.

    Raises ValueError where there are too few.
    """
    if len(whole.train.labels) < 10:
        raise ValueError(f"{whole.title} has {len(whole.train.labels)} training images; choosing settings takes ten")
    order = torch.randperm(len(whole.train.labels), generator=torch.Generator().manual_seed(0))
    held_out, kept = (part.sort().values for part in order.split([len(order) // 10, len(order) - len(order) // 10]))
    train, test = (Split(whole.train.pixels[part], whole.train.labels[part]) for part in (kept, held_out))
    return replace(whole, title=f"{whole.title}, validation", train=train, test=test)


def check_name(name: str) -> None:
    """Raise ValueError unless `name` is a known data set or an image folder that can be used."""
    if name.startswith("folder:"):
        _image_files(name, Path())
    elif name not in TITLES:
        raise ValueError(f"unknown data set {name!r}; choose from {', '.join(TITLES)} or folder:PATH")


def title(name: str) -> str:
    """The data set's name in print; an image folder's is what its title.txt says, or else its own name."""
    if name in TITLES:
        return TITLES[name]
    folder = _root(name)
    said = folder / "title.txt"
    return in_one_line(said.read_text("utf-8", "replace") if said.exists() else "") or in_one_line(folder.name)


def in_one_line(text: str) -> str:
    """What can be printed of a text, as one line of at most 80 characters."""
    return "".join(filter(str.isprintable, " ".join(text.split())))[:80].strip()


def slug(name: str) -> str:
    """The data set's name as a folder name."""
    return name if name in TITLES else "folder-" + _root(name).name


def identity(name: str, folder: Path | str = "artifacts/data") -> str:
    """What settings call a data set: its slug, and for an image folder a digest of its images and classes, too."""
    files = files_digest(name, folder)
    return f"{slug(name)}@{files}" if files else slug(name)


@lru_cache
def files_digest(name: str, folder: Path | str = "artifacts/data") -> str:
    """Twelve hexadecimal digits that name the content of an image folder, and "" for other data sets."""
    return _inventory(name, Path(folder)).digest if name.startswith("folder:") else ""


def _inventory(name: str, folder: Path) -> Inventory:
    train, test, _ = _image_files(name, folder)
    return inventory(_root(name), [path for path, _ in (*train, *test)], folder / "decoded")


def _root(name: str) -> Path:
    return Path(name.removeprefix("folder:")).expanduser().resolve()


def in_channels(pixels: Tensor, channels: int) -> Tensor:
    """uint8 images (N, C, H, W) with another number of channels: grey by luminance, or grey repeated."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        return (pixels.float() * weights).sum(1, keepdim=True).round().to(torch.uint8)
    return pixels.expand(-1, channels, -1, -1)


def _preprocessing(pixels: Tensor, size: int) -> Preprocessing:
    """Mean and deviation of each channel over the images; a channel that never varies deviates by one grey level."""
    sample = pixels[:: max(1, len(pixels) // 10_000)].float().div(255).transpose(0, 1).flatten(1)
    return Preprocessing(
        tuple(round(v, 4) for v in sample.mean(1).tolist()),
        tuple(max(round(v, 4), LEAST_STD) for v in sample.std(1).tolist()),
        size,
    )


def _resized(split: Split, size: int) -> Split:
    """Small images are centred on a black canvas, as 28×28 on 32×32; any others are resampled."""
    height = split.pixels.shape[-1]
    if height == size:
        return split
    if size * 3 // 4 <= height < size:
        before = (size - height) // 2
        after = size - height - before
        return Split(torch.nn.functional.pad(split.pixels, (before, after, before, after)), split.labels)
    pixels = torch.nn.functional.interpolate(split.pixels.float(), size, mode="bilinear", antialias=True)
    return Split(pixels.round().clamp(0, 255).to(torch.uint8), split.labels)


def _of_scikit_learn(file: str) -> Path:
    """One of the data files that come with scikit-learn, which itself takes seconds to import."""
    package = find_spec("sklearn")
    if package is None:
        raise Unreachable("the digits and photographs come with scikit-learn; get it by pip install '.[study]'")
    return Path(package.origin).parent / "datasets" / file


def _digits() -> tuple[Split, Split, list[str]]:
    table = torch.from_numpy(np.loadtxt(_of_scikit_learn("data/digits.csv.gz"), delimiter=","))  # 0 to 16, and labels
    pixels = (table[:, :-1] * 255 / 16).round().to(torch.uint8).reshape(-1, 1, 8, 8)
    labels = table[:, -1].long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:297], order[297:]
    return Split(pixels[train], labels[train]), Split(pixels[test], labels[test]), [str(i) for i in range(10)]


def _photographs(size: int, mode: str, cache: Path) -> tuple[Split, Split, list[str]]:
    """Square crops at random of scikit-learn's two photographs, tests from their right-hand quarter."""
    names = ["china", "flower"]
    files = (_of_scikit_learn(f"images/{name}.jpg") for name in names)
    pictures = [Image.open(file).convert("RGB").convert(mode) for file in files]

    def crops(seed: int, count: int, left: float, right: float) -> Iterator[np.ndarray]:
        random = np.random.default_rng(seed)
        for index in range(count):
            picture = pictures[index % len(pictures)]
            side = int(random.uniform(0.05, 0.25) * picture.width)
            x = int(random.uniform(left * picture.width, right * picture.width - side))
            y = int(random.uniform(0, picture.height - side))
            crop = picture.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
            yield np.atleast_3d(crop).transpose(2, 0, 1)[None]

    def split(seed: int, *how) -> Split:
        count, channels = how[0], len(pictures[0].getbands())
        target = cache / f"photographs-{digest([seed, *how, size, mode])}.npy"
        pixels = mapped(target, (count, channels, size, size), lambda: crops(seed, *how))
        return Split(pixels, torch.arange(count) % len(pictures))

    return split(0, 10_000, 0.0, 0.75), split(1, 1_000, 0.75, 1.0), names


def _fashion_mnist(folder: Path) -> tuple[Split, Split, list[str]]:
    root = fetched(folder / "fashion_mnist", _fetch_fashion_mnist, "Fashion-MNIST")
    raw = root / "FashionMNIST" / "raw"
    if not all(is_whole(raw / file, sha256) for file, (_, sha256) in FASHION_FILES.items()):
        raise Unreachable(f"Fashion-MNIST in {root} is damaged; delete that folder and run again")
    train, test = (datasets.FashionMNIST(root, train=split) for split in (True, False))
    return (
        Split(train.data.unsqueeze(1), train.targets),
        Split(test.data.unsqueeze(1), test.targets),
        list(train.classes),
    )


def _fetch_fashion_mnist(target: Path) -> None:
    """From its authors' repository, else from Debian's package, which needs apt-get but no root."""
    raw = target / "FashionMNIST" / "raw"
    try:
        for file, (sha256, _) in FASHION_FILES.items():
            packed = download(f"{FASHION_URL}/{file}.gz", sha256, raw)
            (raw / file).write_bytes(gzip.decompress(packed.read_bytes()))
            packed.unlink()
        return
    except (OSError, RuntimeError) as error:
        tried = f"its authors' repository ({reason(error)})"
    try:
        unpacked = debian_package("dataset-fashion-mnist", target / "package")
        for file in FASHION_FILES:
            packed = unpacked / "usr/share/datasets/fashion-mnist" / f"{file}.gz"
            (raw / file).write_bytes(gzip.decompress(packed.read_bytes()))
        shutil.rmtree(unpacked)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unreachable(
            f"Fashion-MNIST could not be had: tried {tried} and Debian's package dataset-fashion-mnist "
            f"({reason(error)}); connect to a network, or run with DATASET=digits"
        ) from error


def _cifar(name: str, folder: Path) -> tuple[Split, Split, list[str]]:
    """From its authors' archive, or from `folder`/NAME/{train,test}/CLASS/*, the same pixels in lossless files.

    Either way in one order, so that the same settings give the same results.
    """
    tree = folder / name
    if (tree / "train").is_dir():
        classes = class_names(tree / "train")
        train, test = (Split(*decoded(listed(tree / part, classes), 3, 32, folder / "decoded")) for part in SPLITS)
    else:
        train, test, classes = _cifar_archive(name, folder)
    return _in_order(train), _in_order(test), classes


def _in_order(split: Split) -> Split:
    """By label, and then by a digest of the pixels."""
    contents = (hashlib.blake2b(image).digest() for image in split.pixels.numpy())
    keys = list(zip(split.labels.tolist(), contents, strict=True))
    order = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))
    return Split(split.pixels[order], split.labels[order])


def _cifar_archive(name: str, folder: Path) -> tuple[Split, Split, list[str]]:
    url, sha256, inner, label_bytes, names, train_files, test_file = CIFAR[name]
    root = fetched(folder / name, archive(url, sha256), title(name)) / inner

    def split(files: list[str]) -> Split:
        records = np.concatenate([np.fromfile(root / file, np.uint8).reshape(-1, label_bytes + 3072) for file in files])
        pixels = torch.from_numpy(records[:, label_bytes:].copy()).view(-1, 3, 32, 32)
        return Split(pixels, torch.from_numpy(records[:, label_bytes - 1].astype(np.int64)))

    try:
        return split(train_files), split([test_file]), (root / names).read_text("utf-8").split()
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"{title(name)} in {root.parent} is damaged ({reason(error)}); delete it and run again"
        ) from error


def _image_files(name: str, folder: Path) -> tuple[list[File], list[File], list[str]]:
    """(path, label) pairs for training and test, and the class names, of a data set that is a tree of image files."""
    if name == "flowers102":
        root = fetched(folder / name, _fetch_flowers102, title(name))
        splits = {split: datasets.Flowers102(root, split=split) for split in ("train", "val", "test")}
        files = {k: list(zip(v._image_files, v._labels, strict=True)) for k, v in splits.items()}
        return files["train"] + files["val"], files["test"], list(datasets.Flowers102.classes)
    if name == "cub200":
        return _cub(fetched(folder / name, archive(*CUB), title(name)) / "CUB_200_2011")
    if name == "imagenet":
        return _imagenet(folder / "imagenet")
    root = _root(name)
    if not (root / "train").is_dir():
        raise ValueError(f"no image folder at {root}: expected {root}/train/CLASS/*.jpg and {root}/test/CLASS/*.jpg")
    test = next((root / split for split in ("test", "val") if (root / split).is_dir()), None)
    if test is None:
        raise ValueError(f"{root} has neither test/ nor val/; put held-out images in {root}/test/CLASS/")
    classes = class_names(root / "train")
    if unknown := sorted(set(class_names(test)) - set(classes)):
        raise ValueError(f"{test} has classes that train/ lacks ({', '.join(unknown[:3])}); add or remove them")
    if len(classes) < 2:
        raise ValueError(f"{root / 'train'} has {len(classes)} class folder(s); a classifier needs at least 2")
    return listed(root / "train", classes), listed(test, classes), classes


def _fetch_flowers102(target: Path) -> None:
    inner = target / "flowers-102"  # where torchvision looks
    archive(f"{FLOWERS_URL}/102flowers.tgz", FLOWERS_FILES["102flowers.tgz"])(inner)
    for file in ("imagelabels.mat", "setid.mat"):
        download(f"{FLOWERS_URL}/{file}", FLOWERS_FILES[file], inner)


def _imagenet(root: Path) -> tuple[list[File], list[File], list[str]]:
    """As many training images as the paper taught with, drawn at random, and none where only val/ is there."""
    if not (root / "val").is_dir():
        raise Unreachable(
            f"ImageNet can't be downloaded without registration: put val/WNID/*, and train/WNID/* if need be, in {root}"
        )
    classes = sorted(path.name for path in (root / "val").iterdir() if path.is_dir())
    train = listed(root / "train", classes) if (root / "train").is_dir() else []
    chosen = np.random.default_rng(0).permutation(len(train))[:IMAGENET_TRAINING_IMAGES]
    return [train[index] for index in chosen], listed(root / "val", classes), classes


def imagenet_validation(folder: Path | str, classes: Sequence[int], size: int = 256) -> Split | None:
    """The first validation image of each class from `folder`/imagenet/val/WNID, or None where it is not there."""
    root = Path(folder) / "imagenet" / "val"
    wnids = sorted(path.name for path in root.glob("n*"))
    if len(wnids) != 1000:
        return None
    files = [(listed(root, [wnids[label]])[0][0], label) for label in classes]
    return Split(*decoded(files, 3, size, Path(folder) / "decoded"))


def _cub(root: Path) -> tuple[list[File], list[File], list[str]]:
    def column(file: str) -> list[str]:
        return [line.split(maxsplit=1)[1] for line in (root / file).read_text("utf-8").splitlines()]

    labels = [int(label) - 1 for label in column("image_class_labels.txt")]
    files = [(root / "images" / path, label) for path, label in zip(column("images.txt"), labels, strict=True)]
    training = [flag == "1" for flag in column("train_test_split.txt")]
    classes = [name.split(".", 1)[-1] for name in column("classes.txt")]
    train = [file for file, flag in zip(files, training, strict=True) if flag]
    return train, [file for file, flag in zip(files, training, strict=True) if not flag], classes
