"""Image files: listed by class, and decoded once into a memory-mapped array."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import make_dataset

from dilib.artifacts import digest
from dilib.downloads import reason

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")
File = tuple[Path, int]  # an image and its label


def listed(folder: Path, classes: Sequence[str]) -> list[File]:
    """The images of `folder`/CLASS, by class and name, hidden ones left out. Raises ValueError for an empty class."""

    def wanted(path: str) -> bool:
        inner = Path(path).relative_to(folder)
        return inner.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in inner.parts)

    labels = {name: label for label, name in enumerate(classes)}
    try:
        return [(Path(path), label) for path, label in make_dataset(str(folder), labels, is_valid_file=wanted)]
    except FileNotFoundError as error:
        suffixes = " ".join(SUFFIXES)
        raise ValueError(f"{folder}: {reason(error).rstrip('.')}; put files ending in {suffixes} there") from error


def channels_of(path: Path) -> int:
    """1 for a grey image, else 3."""
    with _opened(path) as image:
        return 1 if image.mode in ("1", "L", "I", "F") else 3


@contextlib.contextmanager
def _opened(path: Path):
    try:
        with Image.open(path) as image:
            image.load()
            yield image
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} can't be read as an image ({reason(error)}); repair or remove it") from error


def decoded(files: Sequence[File], channels: int, size: int, cache: Path) -> tuple[Tensor, Tensor]:
    """Pixels, uint8 (N, C, size, size), centre-cropped, and labels (N,); decoded once into a memory-mapped array.

    (torchvision's Resize rounds the longer side otherwise, which would shift crops by a pixel.)
    """
    if not files:
        return torch.zeros(0, channels, size, size, dtype=torch.uint8), torch.zeros(0, dtype=torch.long)
    key = digest([channels, size, [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path, _ in files]])

    def pictures() -> Iterator[np.ndarray]:
        with ThreadPoolExecutor() as executor:
            yield from executor.map(lambda file: _picture(file[0], channels, size)[None], files)

    pixels = mapped(cache / f"{key}.npy", (len(files), channels, size, size), pictures)
    return pixels, torch.tensor([label for _, label in files])


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
