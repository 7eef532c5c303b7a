"""A growing set of synthesised images on disk, written batch by batch, that survives being killed.

One folder: batches as safetensors, card.json with what made them, and, for any other program, images/CLASS/NUMBER.png.
"""

import io
import json
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import resize
from torchvision.utils import make_grid

from dilib.artifacts import has_tensors, load_tensors, save_tensors, write_atomically
from dilib.inversion import Inversion

CARD = "card.json"
THUMBNAIL = 72  # pixels a side of an image on the contact sheet
PATIENCE = 0.5  # seconds between looks at batches that other processes are making


@dataclass(frozen=True)
class ImagePool:
    """Batches of images (N, C, H, W), normalised for their teacher, as 8-bit safetensors in one folder.

    A channel's values in a batch are evenly spaced over its range; whoever makes a batch gets it back as the file has
    it. `card` says what made them (teacher, settings, seed); a file that carries another card is not part of this pool.
    """

    folder: Path
    card: dict

    def path(self, index: int) -> Path:
        return self.folder / f"batch-{index:05d}.safetensors"

    def save(self, index: int, images: Tensor, labels: Tensor, history: Tensor) -> None:
        """Write batch `index` whole or not at all."""
        tensors = {**_in_8_bits(images), "labels": labels, "history": history}
        save_tensors(self.path(index), tensors, self._card_of(index))

    def history(self, index: int) -> Tensor:
        """The loss terms (updates, 4) along the making of batch `index`, which must be there."""
        return load_tensors(self.path(index), self._card_of(index))[0]["history"]

    def load(self, index: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor] | None:
        """Images and labels of batch `index`, or None if it is missing, truncated or not this pool's."""
        found = load_tensors(self.path(index), self._card_of(index))
        if found is None:
            return None
        images, lowest, step, labels = (found[0][name].to(device) for name in ("images", "lowest", "step", "labels"))
        return _in_32_bits(images, lowest, step), labels

    def has(self, index: int) -> bool:
        """Whether batch `index` is there, whole and this pool's."""
        return has_tensors(self.path(index), self._card_of(index))

    def _card_of(self, index: int) -> dict:
        return {**self.card, "index": index, "bits": 8}

    def check(self) -> None:
        """Raise ValueError if the folder holds a pool whose card says otherwise than this one's."""
        if self._card_path.exists():
            theirs, ours = _flat(json.loads(self._card_path.read_text())), _flat(self.card)
            for name in ours:
                if theirs.get(name) != ours[name]:
                    raise ValueError(
                        f"{self.folder} holds images made with {name} {theirs.get(name)}, not {ours[name]}; "
                        "choose another folder"
                    )

    def claim(self, **notes) -> None:
        """Check, and write card.json, with `notes` that may change."""
        self.check()
        write_atomically(self._card_path, (json.dumps({**self.card, **notes}, indent=1) + "\n").encode())

    @property
    def _card_path(self) -> Path:
        return self.folder / CARD

    def fill(self, batches: int, make: Callable[[int], Inversion]) -> Iterator[int]:
        """Yield each of 0 to `batches` − 1 once that batch is there, made by `make(index)` or by another process.

        Any number of processes, on any hosts that share the folder, may fill one pool: each takes a batch that is
        missing and that no other is making. The batch of a process that died is taken by another. Where a file system
        does not carry locks between hosts, a batch may be made twice; it is the same.
        """
        waiting = list(range(batches))
        while waiting:
            left = []
            for index in waiting:
                if self._make_if_free(index, make):
                    yield index
                else:
                    left.append(index)
            if left == waiting:
                time.sleep(PATIENCE)
            waiting = left

    def _make_if_free(self, index: int, make: Callable[[int], Inversion]) -> bool:
        """Whether the batch is there, after making it if no other process is doing so."""
        if self.has(index):
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f".{self.path(index).stem}.lock")  # let go when its holder dies
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            return False
        with held:
            if not self.has(index):
                made = make(index)
                self.save(index, made.images, made.labels, made.history)
        return True


def _in_8_bits(images: Tensor) -> dict[str, Tensor]:
    """Images (N, C, H, W) as uint8, with each channel's `lowest` value and the `step` between two, (C, 1, 1)."""
    lowest, highest = (extreme(images.float(), dim=(0, 2, 3))[:, None, None] for extreme in (torch.amin, torch.amax))
    step = (highest - lowest).clamp_min(torch.finfo().tiny) / 255
    return {"images": ((images - lowest) / step).round().to(torch.uint8), "lowest": lowest, "step": step}


def _in_32_bits(images: Tensor, lowest: Tensor, step: Tensor) -> Tensor:
    return images * step + lowest


def _flat(value: dict, prefix: str = "") -> dict:
    """Nested dictionaries as one, its keys joined by dots."""
    parts = [_flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v} for k, v in value.items()]
    return {name: found for part in parts for name, found in part.items()}


class PoolDataset(Dataset):
    """A pool in a folder as (image (C, H, W), normalised as its `card` says, fp32; label) pairs, read as asked for.

    Raises ValueError where the folder holds no pool.
    """

    def __init__(self, folder: Path | str):
        self.paths = sorted(Path(folder).glob("batch-*.safetensors"))
        if not self.paths:
            raise ValueError(f"{folder} holds no pool; fill one with python -m dilib.synthesize --pool {folder}")
        self.card = json.loads((Path(folder) / CARD).read_text())
        self.ends = list(accumulate(map(_count, self.paths)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a pool of {len(self)}")
        batch = bisect_right(self.ends, index)
        place = index - self.ends[batch]  # counted from the batch's end
        with safe_open(self.paths[batch], framework="pt") as file:
            images, labels = (file.get_slice(name) for name in ("images", "labels"))
            place += labels.get_shape()[0]
            image = _in_32_bits(images[place], file.get_tensor("lowest"), file.get_tensor("step"))
            return image, int(labels[place : place + 1])


def _count(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return file.get_slice("labels").get_shape()[0]


def save_pictures(folder: Path, pixels: Tensor, labels: Tensor, classes: Sequence[str], first: int = 0) -> None:
    """Images (N, C, H, W), uint8, as folder/CLASS/NUMBER.png, numbered from `first`, where they are not there yet."""
    for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True), first):
        path = folder / classes[label].replace("/", "-") / f"{number:05d}.png"
        if not path.exists():
            write_atomically(path, _png(image))


def save_contact_sheet(path: Path, pixels: Tensor) -> None:
    """All images (N, C, H, W), uint8, small, in one PNG file."""
    thumbnails = resize(pixels, [THUMBNAIL, THUMBNAIL], antialias=True)
    write_atomically(path, _png(make_grid(thumbnails, nrow=10, padding=2, pad_value=255)))


def _png(image: Tensor) -> bytes:
    encoded = io.BytesIO()
    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(encoded, "png")
    return encoded.getvalue()
