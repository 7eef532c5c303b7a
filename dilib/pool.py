"""A growing set of synthesised images on disk, written batch by batch, that survives being killed.

One folder: batches as safetensors, card.json with what made them, and, for any other program,
images/LABEL-CLASS/NUMBER.png.
"""

import io
import json
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import resize, to_pil_image
from torchvision.utils import make_grid

from dilib import precision
from dilib.amortised import Start
from dilib.artifacts import damaged, load_tensors, read_json, save_tensors, write_atomically
from dilib.classifier import Preprocessing, sides
from dilib.data import Split
from dilib.image_folders import mapped
from dilib.inversion import Inversion
from dilib.recipe import Recipe

CARD = "card.json"
THUMBNAIL = 72  # pixels in the height of an image on the contact sheet
PATIENCE = 0.5  # seconds between looks at batches that other processes are making

Watch = Callable[[int, int, Tensor], None]  # is told a batch's index, the updates done, and its images so far


@dataclass(frozen=True)
class Batch:
    """Images (N, C, H, W), normalised for their teacher, labels (N,), and the seconds that making them took."""

    images: Tensor
    labels: Tensor
    seconds: float = 0.0


class ImagePool:
    """The batches that a recipe makes, as 8-bit safetensors in one folder.

    Each channel's values are rounded to 256 evenly spaced ones over its range in the batch, also for the process that
    made the batch. Files that another recipe made are not part of the pool, which continues in the precision that it
    was begun in.
    A warm start asks `earlier` for the batch that it begins with, by default the pool itself.

    Raises ValueError if the folder holds a pool of another recipe.
    """

    def __init__(self, folder: Path | str, recipe: Recipe, earlier: Callable[[int], Batch] | None = None):
        self.folder, self.card, self._earlier = Path(folder), recipe.card, earlier or self.batch
        self.recipe = recipe.in_precision(self._begin(recipe.teacher.precision))

    def _begin(self, wanted: torch.dtype) -> torch.dtype:
        """Check card.json, written first where there is none yet; the precision that it holds."""
        path = self.folder / CARD
        with self._lock(CARD):
            if not path.exists():
                self._write_card(precision=precision.name(wanted))
            check_card(self.folder, self.card)
            return precision.named(read_json(path)["precision"])

    def note(self, **notes) -> None:
        """Add to card.json what may change as the pool grows."""
        with self._lock(CARD):
            self._write_card(**read_json(self.folder / CARD) | notes)

    def _write_card(self, **notes) -> None:
        write_atomically(self.folder / CARD, (json.dumps({**self.card, **notes}, indent=1) + "\n").encode())

    def path(self, index: int) -> Path:
        """The file of batch `index`."""
        return self.folder / f"batch-{index:05d}.safetensors"

    def has(self, index: int) -> bool:
        """Whether batch `index` is there, whole and this pool's."""
        return load_tensors(self.path(index), self._card_of(index)) is not None

    def load(self, index: int) -> Batch | None:
        """Batch `index` on the teacher's device, or None if it is missing, truncated or not this pool's."""
        found = load_tensors(self.path(index), self._card_of(index))
        if found is None:
            return None
        tensors, card = found
        device = self.recipe.teacher.device
        images, lowest, step, labels = (tensors[name].to(device) for name in ("images", "lowest", "step", "labels"))
        return Batch(_in_32_bits(images, lowest, step), labels, card["seconds"])

    def history(self, index: int) -> Tensor:
        """The loss terms (updates, 4) along the making of batch `index`, which must be there."""
        return load_tensors(self.path(index), self._card_of(index))[0]["history"]

    def batch(self, index: int) -> Batch:
        """Batch `index`, made first if it is not there; waits for another process that is making it."""
        if (found := self.load(index)) is None:
            self._make_what_it_starts_from(index)
            with self._lock(self.path(index).stem):
                if (found := self.load(index)) is None:
                    self._make(index)
                    found = self.load(index)
        return found

    def fill(self, batches: int, watch: Watch | None = None) -> Iterator[int]:
        """Yield each of 0 to `batches` − 1 once that batch is there, made here or by another process.

        Any number of processes, on any hosts that share the folder, may fill one pool: each takes a batch that is
        missing and that no other is making. The batch of a process that died is taken by another. Where a file system
        does not carry locks between hosts, a batch may be made twice; it is the same.
        """
        waiting = list(range(batches))
        while waiting:
            left = []
            for index in waiting:
                if self._make_if_free(index, watch):
                    yield index
                else:
                    left.append(index)
            if left == waiting:
                time.sleep(PATIENCE)
            waiting = left

    def split(self, count: int, on_batch: Callable[[], object] = lambda: None) -> Split:
        """The first `count` images as pixels, with labels and the seconds of their batches, made where missing.

        The pixels are memory-mapped, so that many processes can do with one copy.
        """
        size, preprocessing = self.recipe.batch_size, self.recipe.teacher.preprocessing
        batches = -(-count // size)
        for _ in self.fill(batches):
            on_batch()

        def parts() -> Iterator[np.ndarray]:
            for index in range(batches):
                pixels = preprocessing.to_pixels(self.load(index).images)
                yield pixels[: count - index * size].cpu().numpy()

        shape = (count, preprocessing.channels, *sides(self.recipe.schedule(0).stages[-1][0]))
        labels, seconds = zip(*map(self._labels_and_seconds, range(batches)), strict=True)
        with self._lock("pixels"):
            pixels = mapped(self.folder / f"pixels-{count}.npy", shape, parts)
        return Split(pixels, torch.cat(labels)[:count], sum(seconds))

    def _labels_and_seconds(self, index: int) -> tuple[Tensor, float]:
        with safe_open(self.path(index), framework="pt") as file:
            return file.get_tensor("labels"), json.loads(file.metadata()["card"])["seconds"]

    def _make_if_free(self, index: int, watch: Watch | None) -> bool:
        """Whether the batch is there, after making it if no other process is doing so."""
        if self.has(index):
            return True
        if self.recipe.shared_start and index and not self.has(index - 1):
            return False  # it starts from where that one ends
        try:
            with self._lock(self.path(index).stem).acquire(timeout=0):
                if not self.has(index):
                    self._make(index, watch)
        except Timeout:
            return False
        return True

    def _make_what_it_starts_from(self, index: int) -> None:
        if self.recipe.shared_start:
            first = next((earlier for earlier in range(index, 0, -1) if self.has(earlier - 1)), 0)
            for earlier in range(first, index):
                self.batch(earlier)

    def _make(self, index: int, watch: Watch | None = None) -> None:
        started = time.perf_counter()
        made = (self._made_from_shared_start if self.recipe.shared_start else self._made)(index, watch)
        tensors = {**_in_8_bits(made.images), "labels": made.labels, "history": made.history}
        card = {**self._card_of(index), "seconds": time.perf_counter() - started}
        save_tensors(self.path(index), tensors, card)

    def _made(self, index: int, watch: Watch | None) -> Inversion:
        earlier = self.recipe.warm_start(index)
        start = None if earlier is None else self._earlier(earlier)
        return self.recipe.make(index, start and (start.images, start.labels), _watching(watch, index))

    def _made_from_shared_start(self, index: int, watch: Watch | None) -> Inversion:
        """A batch from where the one before led; where the next one starts is kept, and until then this one's start."""
        start = self._start(index)
        made, following = self.recipe.make_from(index, start, _watching(watch, index))
        save_tensors(self._start_path(index + 1), following, self._card_of(index + 1))
        self._start_path(index - 1).unlink(missing_ok=True)
        return made

    def _start(self, index: int) -> Start:
        if index == 0:
            return self.recipe.first_start()
        found = load_tensors(self._start_path(index), self._card_of(index))
        if found is None:
            raise ValueError(f"{self._start_path(index)}, which batch {index} needs, is gone; delete {self.folder}")
        return found[0]

    def _start_path(self, index: int) -> Path:
        return self.folder / f"start-{index:05d}.safetensors"

    def _card_of(self, index: int) -> dict:
        return {**self.card, "index": index, "bits": 8}

    def _lock(self, name: str) -> FileLock:
        """Held by one process at a time, and let go when that process dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f".{name}.lock")


def _watching(watch: Watch | None, index: int) -> Callable[[int, Tensor], object] | None:
    return watch and (lambda done, images: watch(index, done, images))


def check_card(folder: Path, card: dict) -> None:
    """Raise ValueError if the folder holds a pool whose card is damaged or says otherwise than this one."""
    path = folder / CARD
    if not path.exists():
        return
    theirs, ours = _flat(read_json(path)), _flat(card)
    try:
        precision.named(str(theirs.get("precision")))
    except ValueError as error:
        raise damaged(path, error) from error
    for name in ours:
        if theirs.get(name) != ours[name]:
            raise ValueError(
                f"{folder} holds images made with {name} {theirs.get(name)}, not {ours[name]}; choose another folder"
            )


def _flat(value: dict, prefix: str = "") -> dict:
    """Nested dictionaries as one, its keys joined by dots."""
    parts = [_flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v} for k, v in value.items()]
    return {name: found for part in parts for name, found in part.items()}


def _in_8_bits(images: Tensor) -> dict[str, Tensor]:
    """Images (N, C, H, W) as uint8, with each channel's `lowest` value and the `step` between two, (C, 1, 1)."""
    lowest, highest = (extreme(images.float(), dim=(0, 2, 3))[:, None, None] for extreme in (torch.amin, torch.amax))
    step = (highest - lowest).clamp_min(torch.finfo().tiny) / 255
    return {"images": ((images - lowest) / step).round().to(torch.uint8), "lowest": lowest, "step": step}


def _in_32_bits(images: Tensor, lowest: Tensor, step: Tensor) -> Tensor:
    return images * step + lowest


class PoolDataset(Dataset):
    """A pool in a folder as (image (C, H, W), normalised as its `card` says, fp32; label) pairs, read as asked for.

    Raises ValueError where the folder holds no pool, and when it comes to a batch that is damaged.

    Example:
        >>> image, label = PoolDataset("my-pool")[0]
    """

    def __init__(self, folder: Path | str):
        self.paths = sorted(Path(folder).glob("batch-*.safetensors"))
        if not self.paths or not (Path(folder) / CARD).exists():
            raise ValueError(f"{folder} holds no pool; `dilib invert` or dilib.make_images fills one")
        self.card = read_json(Path(folder) / CARD)
        self.ends = list(accumulate(map(_count, self.paths)))
        self._checked: set[Path] = set()

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a pool of {len(self)}")
        batch = bisect_right(self.ends, index)
        place = index - self.ends[batch]  # counted from the batch's end
        with safe_open(self._whole(self.paths[batch]), framework="pt") as file:
            images, labels = (file.get_slice(name) for name in ("images", "labels"))
            place += labels.get_shape()[0]
            image = _in_32_bits(images[place], file.get_tensor("lowest"), file.get_tensor("step"))
            return image, int(labels[place : place + 1])

    def split(self) -> Split:
        """All images as pixels, uint8 (N, C, H, W), with their labels, and the seconds that making them took."""
        preprocessing = Preprocessing(**self.card["preprocessing"])
        parts = [load_tensors(self._whole(path)) for path in self.paths]
        images = [_in_32_bits(found["images"], found["lowest"], found["step"]) for found, _ in parts]
        labels, seconds = (found["labels"] for found, _ in parts), sum(card["seconds"] for _, card in parts)
        return Split(torch.cat(list(map(preprocessing.to_pixels, images))), torch.cat(list(labels)), seconds)

    def _whole(self, path: Path) -> Path:
        """The path, once the file's checksum has been found right."""
        if path not in self._checked:
            if load_tensors(path) is None:
                raise damaged(path, "its checksum is wrong")
            self._checked.add(path)
        return path


def _count(path: Path) -> int:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_slice("labels").get_shape()[0]
    except SafetensorError as error:
        raise damaged(path, error) from error


def save_pictures(folder: Path, pixels: Tensor, labels: Tensor, classes: Sequence[str], first: int = 0) -> None:
    """Write images (N, C, H, W), uint8, to folder/LABEL-CLASS/NUMBER.png, numbered from `first`, unless they are there.

    Labels are padded with zeros, so that sorted folders are in the teacher's order.
    """
    digits = len(str(len(classes) - 1))
    for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True), first):
        path = folder / f"{label:0{digits}d}-{classes[label].replace('/', '-')}" / f"{number:05d}.png"
        if not path.exists():
            write_atomically(path, _png(image))


def save_contact_sheet(path: Path, pixels: Tensor) -> None:
    """All images (N, C, H, W), uint8, small, in one PNG file."""
    height, width = pixels.shape[2:]
    thumbnails = resize(pixels, [THUMBNAIL, round(THUMBNAIL * width / height)], antialias=True)
    write_atomically(path, _png(make_grid(thumbnails, nrow=10, padding=2, pad_value=255)))


def _png(image: Tensor) -> bytes:
    encoded = io.BytesIO()
    to_pil_image(image).save(encoded, "png")
    return encoded.getvalue()
