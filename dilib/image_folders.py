"""Image files: listed by class, and decoded once into a memory-mapped array."""

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import make_dataset

from dilib.artifacts import digest, write_atomically
from dilib.downloads import reason

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
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


def class_names(folder: Path) -> list[str]:
    """The folders in `folder`, sorted, hidden ones left out. Raises ValueError for images that lie beside them."""
    there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    stray = [path.name for path in there if path.is_file() and path.suffix.lower() in SUFFIXES]
    if stray:
        raise ValueError(f"{folder} has images outside of class folders ({', '.join(stray[:3])}); put them into one")
    return [path.name for path in there if path.is_dir()]


@dataclass(frozen=True)
class Inventory:
    """A digest of a folder's images and their classes, and 3 channels if any image is in colour, else 1."""

    digest: str
    channels: int


def inventory(root: Path, files: Sequence[Path], cache: Path) -> Inventory:
    """Look into every file below `root`; once, and again when one has another size or time."""
    path = cache / f"{digest(_stamps(files))}.json"
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        return Inventory(**json.loads(path.read_bytes()))
    with ThreadPoolExecutor() as executor:
        contents, channels = zip(*executor.map(_content_and_channels, files), strict=True)
    named = [[str(file.relative_to(root)), content] for file, content in zip(files, contents, strict=True)]
    found = Inventory(digest(named), max(channels))
    write_atomically(path, json.dumps(asdict(found)).encode())
    return found


def _stamps(files: Iterable[Path]) -> list[tuple]:
    """What tells that a file may have changed; its last time changes with its name, too."""
    try:
        every = [(path, path.stat()) for path in files]
    except OSError as error:
        raise ValueError(f"{error.filename} can't be read ({error.strerror}); repair or remove it") from error
    return [(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in every]


def _content_and_channels(path: Path) -> tuple[str, int]:
    content = path.read_bytes()
    with _opened(path, content) as image:
        return hashlib.sha256(content).hexdigest(), 1 if image.mode[:1] in "1LIF" else 3


@contextlib.contextmanager
def _opened(path: Path, content: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} can't be read as an image (no format that is known); repair or remove it") from error
    except Exception as error:  # Pillow raises whatever a damaged file makes it stumble over
        raise ValueError(f"{path} can't be read as an image ({reason(error)}); repair or remove it") from error


def decoded(files: Sequence[File], channels: int, size: int, cache: Path) -> tuple[Tensor, Tensor]:
    """Pixels, uint8 (N, C, size, size), centre-cropped, and labels (N,); decoded once into a memory-mapped array.

    (torchvision's Resize rounds the longer side otherwise, which would shift crops by a pixel.)
    """
    if not files:
        return torch.zeros(0, channels, size, size, dtype=torch.uint8), torch.zeros(0, dtype=torch.long)
    key = digest([channels, size, _stamps(path for path, _ in files)])

    def pictures() -> Iterator[np.ndarray]:
        with ThreadPoolExecutor() as executor:
            yield from executor.map(lambda file: _picture(file[0], channels, size)[None], files)

    pixels = mapped(cache / f"{key}.npy", (len(files), channels, size, size), pictures)
    return pixels, torch.tensor([label for _, label in files])


def _picture(path: Path, channels: int, size: int) -> np.ndarray:
    with _opened(path, path.read_bytes()) as image:
        image = _in_8_bits(image).convert("L" if channels == 1 else "RGB")
        if image.size != (size, size):
            scale = size / min(image.size)
            image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
            left, top = (image.width - size) // 2, (image.height - size) // 2
            image = image.crop((left, top, left + size, top + size))
        array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """The picture as viewers show it: turned as its EXIF data say, 16 bits scaled to 8, transparent parts on white."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("the range of its pixels is not known")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError(f"its pixels reach from {values.min()} to {values.max()}, not 0 to 65535")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    return image


def mapped(target: Path, shape: tuple[int, ...], parts: Callable[[], Iterable[np.ndarray]]) -> Tensor:
    """uint8 images of this shape (N, C, H, W), memory-mapped from a .npy file; written first if it is not there, whole.

    Changes stay in memory.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    if not _is_whole(target, header.getvalue(), math.prod(shape)):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            # Written as a file, since a map on a full disk ends the process without a word.
            with open(temporary, "wb") as file:
                file.write(header.getvalue())
                for part in parts():
                    file.write(np.ascontiguousarray(part, np.uint8))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return torch.from_numpy(np.memmap(target, np.uint8, "c", len(header.getvalue()), shape))


def _is_whole(path: Path, header: bytes, count: int) -> bool:
    """Whether a file begins with this header and goes on for so many bytes."""
    if not path.exists() or path.stat().st_size != len(header) + count:
        return False
    with open(path, "rb") as file:
        return file.read(len(header)) == header
