"""Data sets by name, as uint8 tensors at one resolution, fetched on first use: whole and checked, or not at all."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from dilib.artifacts import digest
from dilib.models import Preprocessing

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
FREE = ("digits", "photographs", "photographs_grey", "fashion_mnist")  # whose images anyone may publish
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
IMAGENET_TRAINING_IMAGES = 215_000  # all 1.28 million would take 190 GB once decoded
TIMEOUT = 15  # seconds without an answer before a source counts as unreachable

FASHION_FILES = {  # of the uncompressed files
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
CIFAR = {  # archive without pickles: URL, MD5, folder, label bytes a record, class-name file, training files, test file
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-bin",
        1,
        "batches.meta.txt",
        [f"data_batch_{i}.bin" for i in range(1, 6)],
        "test_batch.bin",
    ),
    "cifar100": (
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary",
        2,
        "fine_label_names.txt",
        ["train.bin"],
        "test.bin",
    ),
}
CUB = (
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    "97eceeb196236b17998738112f37df78",
)


class Unreachable(RuntimeError):
    """A data set that can't be had here; the message says what was tried and what to do."""


@dataclass(frozen=True)
class Split:
    """Images as uint8 (N, C, H, W) in 0..255 and labels (N,); large splits are memory-mapped."""

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Data:
    name: str
    title: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    preprocessing: Preprocessing


def load(name: str, folder: Path | str = "artifacts/data", size: int | None = None) -> Data:
    """The data set `name`, or `folder:PATH` with train/CLASS/* and test/CLASS/* images, at `size`×`size` pixels.

    By default ImageNet at 224 and all others at 32. Raises ValueError for an unknown name or a bad image folder,
    Unreachable when a source can't be had.
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
        channels = _channels(test_files[0][0])
        train = _decoded(train_files, channels, size, folder / "decoded")
        test = _decoded(test_files, channels, size, folder / "decoded")
    train, test = _resized(train, size), _resized(test, size)
    typical = train.pixels if len(train.pixels) else test.pixels
    return Data(name, title(name), train, test, tuple(classes), _preprocessing(typical, size))


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
    folder = Path(name.removeprefix("folder:")).expanduser().resolve()
    said = folder / "title.txt"
    return said.read_text().strip() if said.exists() else folder.name


def slug(name: str) -> str:
    """The data set's name as a folder name."""
    return name if name in TITLES else "folder-" + Path(name.removeprefix("folder:")).resolve().name


def in_channels(pixels: Tensor, channels: int) -> Tensor:
    """uint8 images (N, C, H, W) with another number of channels: grey by luminance, or grey repeated."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        return (pixels.float() * weights).sum(1, keepdim=True).round().to(torch.uint8)
    return pixels.expand(-1, channels, -1, -1)


def _preprocessing(pixels: Tensor, size: int) -> Preprocessing:
    sample = pixels[:: max(1, len(pixels) // 10_000)].float().div(255).transpose(0, 1).flatten(1)
    return Preprocessing(
        tuple(round(v, 4) for v in sample.mean(1).tolist()),
        tuple(round(v, 4) for v in sample.std(1).tolist()),
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


def _digits() -> tuple[Split, Split, list[str]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy((bunch.images * 255 / 16).round().astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:297], order[297:]
    return Split(pixels[train], labels[train]), Split(pixels[test], labels[test]), [str(i) for i in range(10)]


def _photographs(size: int, mode: str, cache: Path) -> tuple[Split, Split, list[str]]:
    """Square crops at random of scikit-learn's two photographs, tests from their right-hand quarter."""
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    pictures = [Image.fromarray(picture).convert(mode) for picture in bunch.images]

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

    return split(0, 10_000, 0.0, 0.75), split(1, 1_000, 0.75, 1.0), [Path(name).stem for name in bunch.filenames]


def _fashion_mnist(folder: Path) -> tuple[Split, Split, list[str]]:
    root = _fetched(folder / "fashion_mnist", _fetch_fashion_mnist)
    raw = root / "FashionMNIST" / "raw"
    if not all(check_integrity(str(raw / file), md5) for file, md5 in FASHION_FILES.items()):
        raise Unreachable(f"Fashion-MNIST in {root} is damaged; delete that folder and run again")
    train, test = (datasets.FashionMNIST(root, train=split) for split in (True, False))
    return (
        Split(train.data.unsqueeze(1), train.targets),
        Split(test.data.unsqueeze(1), test.targets),
        list(train.classes),
    )


def _fetch_fashion_mnist(target: Path) -> None:
    """From torchvision's mirror, else from Debian's package, which needs apt-get but no root."""
    try:
        datasets.FashionMNIST(target, download=True)
        return
    except (OSError, RuntimeError) as error:
        tried = f"torchvision's mirror ({_reason(error)})"
    try:
        raw = target / "FashionMNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        unpacked = _debian_package("dataset-fashion-mnist", target / "package")
        for file in FASHION_FILES:
            packed = unpacked / "usr/share/datasets/fashion-mnist" / f"{file}.gz"
            (raw / file).write_bytes(subprocess.run(["gzip", "-dc", packed], check=True, capture_output=True).stdout)
        shutil.rmtree(unpacked)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unreachable(
            f"Fashion-MNIST could not be had: tried {tried} and Debian's package dataset-fashion-mnist "
            f"({_reason(error)}); connect to a network, or run with DATASET=digits"
        ) from error


def _debian_package(name: str, target: Path) -> Path:
    """Download and unpack a Debian package into `target`, with package lists of its own if the system's are empty."""
    target.mkdir(parents=True)

    def apt(*arguments: str) -> None:
        options = [f"-oAcquire::{scheme}::Timeout={TIMEOUT}" for scheme in ("http", "https")]
        subprocess.run(
            ["apt-get", "-qq", *options, *arguments], check=True, capture_output=True, cwd=target, timeout=300
        )

    try:
        apt("download", name)
    except subprocess.CalledProcessError:
        private = [f"-oDir::State={target.resolve()}/state", f"-oDir::Cache={target.resolve()}/cache"]
        (target / "state/lists/partial").mkdir(parents=True)
        (target / "cache/archives/partial").mkdir(parents=True)
        apt(*private, "update")
        apt(*private, "download", name)
    package = next(target.glob(f"{name}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", package, target], check=True, capture_output=True)
    return target


def _cifar(name: str, folder: Path) -> tuple[Split, Split, list[str]]:
    url, md5, inner, label_bytes, names, train_files, test_file = CIFAR[name]
    root = _fetched(folder / name, _archive(url, md5)) / inner

    def split(files: list[str]) -> Split:
        records = np.concatenate([np.fromfile(root / file, np.uint8).reshape(-1, label_bytes + 3072) for file in files])
        pixels = torch.from_numpy(records[:, label_bytes:].copy()).view(-1, 3, 32, 32)
        return Split(pixels, torch.from_numpy(records[:, label_bytes - 1].astype(np.int64)))

    return split(train_files), split([test_file]), (root / names).read_text().split()


def _image_files(name: str, folder: Path) -> tuple[list, list, list[str]]:
    """(path, label) pairs for training and test, and the class names, of a data set that is a tree of image files."""
    if name == "flowers102":
        root = _fetched(folder / name, lambda target: datasets.Flowers102(target, download=True))
        splits = {split: datasets.Flowers102(root, split=split) for split in ("train", "val", "test")}
        files = {k: list(zip(v._image_files, v._labels, strict=True)) for k, v in splits.items()}
        return files["train"] + files["val"], files["test"], list(datasets.Flowers102.classes)
    if name == "cub200":
        return _cub(_fetched(folder / name, _archive(*CUB)) / "CUB_200_2011")
    if name == "imagenet":
        return _imagenet(folder / "imagenet")
    root = Path(name.removeprefix("folder:")).expanduser()
    if not (root / "train").is_dir():
        raise ValueError(f"no image folder at {root}: expected {root}/train/CLASS/*.jpg and {root}/test/CLASS/*.jpg")
    test = next((root / split for split in ("test", "val") if (root / split).is_dir()), None)
    if test is None:
        raise ValueError(f"{root} has neither test/ nor val/; put held-out images in {root}/test/CLASS/")
    classes = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    if len(classes) < 2:
        raise ValueError(f"{root / 'train'} has {len(classes)} class folder(s); a classifier needs at least 2")
    return _listed(root / "train", classes), _listed(test, classes), classes


def _imagenet(root: Path) -> tuple[list, list, list[str]]:
    """As many training images as the paper taught with, drawn at random, and none where only val/ is there."""
    if not (root / "val").is_dir():
        raise Unreachable(
            f"ImageNet can't be downloaded without registration: put val/WNID/*, and train/WNID/* if need be, in {root}"
        )
    classes = sorted(path.name for path in (root / "val").iterdir() if path.is_dir())
    train = _listed(root / "train", classes) if (root / "train").is_dir() else []
    chosen = np.random.default_rng(0).permutation(len(train))[:IMAGENET_TRAINING_IMAGES]
    return [train[index] for index in chosen], _listed(root / "val", classes), classes


def imagenet_validation(folder: Path | str, classes: Sequence[int], size: int = 256) -> Split | None:
    """The first validation image of each class from `folder`/imagenet/val/WNID, or None where it is not there."""
    root = Path(folder) / "imagenet" / "val"
    wnids = sorted(path.name for path in root.glob("n*"))
    if len(wnids) != 1000:
        return None
    files = [(_listed(root, [wnids[label]])[0][0], label) for label in classes]
    return _decoded(files, 3, size, Path(folder) / "decoded")


def _listed(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    files = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(f"no images in {folder / name}; expected files ending in {' '.join(sorted(SUFFIXES))}")
        files += [(path, label) for path in found]
    return files


def _cub(root: Path) -> tuple[list, list, list[str]]:
    def column(file: str) -> list[str]:
        return [line.split(maxsplit=1)[1] for line in (root / file).read_text().splitlines()]

    labels = [int(label) - 1 for label in column("image_class_labels.txt")]
    files = [(root / "images" / path, label) for path, label in zip(column("images.txt"), labels, strict=True)]
    training = [flag == "1" for flag in column("train_test_split.txt")]
    classes = [name.split(".", 1)[-1] for name in column("classes.txt")]
    train = [file for file, flag in zip(files, training, strict=True) if flag]
    return train, [file for file, flag in zip(files, training, strict=True) if not flag], classes


def _channels(path: Path) -> int:
    with _opened(path) as image:
        return 1 if image.mode in ("1", "L", "I", "F") else 3


@contextlib.contextmanager
def _opened(path: Path):
    try:
        with Image.open(path) as image:
            image.load()
            yield image
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} can't be read as an image ({_reason(error)}); repair or remove it") from error


def _decoded(files: list[tuple[Path, int]], channels: int, size: int, cache: Path) -> Split:
    """Images with the shorter side at `size`, centre-cropped, decoded once into a memory-mapped array."""
    if not files:
        return Split(torch.zeros(0, channels, size, size, dtype=torch.uint8), torch.zeros(0, dtype=torch.long))
    key = digest([channels, size, [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path, _ in files]])

    def pictures() -> Iterator[np.ndarray]:
        with ThreadPoolExecutor() as executor:
            yield from executor.map(lambda file: _picture(file[0], channels, size)[None], files)

    pixels = mapped(cache / f"{key}.npy", (len(files), channels, size, size), pictures)
    return Split(pixels, torch.tensor([label for _, label in files]))


def mapped(target: Path, shape: tuple[int, ...], parts: Callable[[], Iterable[np.ndarray]]) -> Tensor:
    """uint8 images of this shape (N, C, H, W), memory-mapped from a file; written first, part by part, if not there."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        array, done = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape), 0
        try:
            for part in parts():
                array[done : done + len(part)] = part
                done += len(part)
            array.flush()
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return torch.from_numpy(np.load(target, mmap_mode="c"))


def _picture(path: Path, channels: int, size: int) -> np.ndarray:
    with _opened(path) as image:
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (size, size):
            scale = size / min(image.size)
            image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
            left, top = (image.width - size) // 2, (image.height - size) // 2
            image = image.crop((left, top, left + size, top + size))
        array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _archive(url: str, md5: str) -> Callable[[Path], None]:
    return lambda target: download_and_extract_archive(url, str(target), md5=md5, remove_finished=True)


def _fetched(folder: Path, fetch: Callable[[Path], object]) -> Path:
    """`folder`, filled by `fetch` under a temporary name first, so that it exists whole or not at all."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        fetch(temporary)
        with contextlib.suppress(OSError):  # another process may have been first
            os.replace(temporary, folder)
    except (OSError, RuntimeError) as error:
        if isinstance(error, Unreachable):
            raise
        raise Unreachable(
            f"{title(folder.name)} could not be downloaded ({_reason(error)}); connect to a network, "
            "or use your own copy with DATASET=folder:PATH"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
