"""A study: a scale on a data set, the cells that it is made of, and where its files live."""

import io
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from dilib import data
from dilib.artifacts import damaged, digest, plain, read_json, write_atomically
from dilib.data import Data
from dilib.pool import Batch, ImagePool
from dilib.precision import fastest, named
from dilib.precision import name as name_of
from dilib.provenance import commit, default_device, provenance
from dilib.recipe import Recipe
from dilib.study.scales import SCALES, Scale, check_scale, scale_for
from dilib.study.scratch import making, note_made, note_read
from dilib.study.workers import CORES, side_by_side

TILES = 10  # sample images in a row of a cell's picture
LOSSLESS, LOSSY, LARGEST = ".png", ".webp", 300_000  # bytes
WEBP_SIDE = 16_383  # pixels, which no side of a WebP picture may exceed
ENTRIES = {"metrics": dict, "settings": dict, "seconds": (int, float), "device": str, "commit": str}  # of every cell


@lru_cache
def _part(dataset: str, folder: Path, classes: tuple[int, ...], choosing: bool) -> Data:
    whole = data.loaded(dataset, folder)
    whole = data.for_choosing(whole) if choosing else whole
    return data.of_classes(whole, classes, "old") if classes else whole


@dataclass(frozen=True)
class Cell:
    """One unit of work with a result: a table entry for one seed.

    `work` returns the cell's metrics by name. An entry "samples", uint8 images (N, C, H, W), goes to a picture beside
    the JSON; an entry "seconds" counts work that was done before an interruption, or for other cells first, too.
    """

    name: str
    settings: dict
    work: Callable[[], dict]
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Study:
    """A scale on a data set, its folders, and how it computes: on which device, in which precision, how many at a time.

    With `half`, a study on these classes of the data set alone, with teachers of its own; `choosing`, one that tests on
    validation images, with teachers that have not seen them.
    """

    scale: Scale
    dataset: str
    place: Path
    results: Path
    artifacts: Path
    data_folder: Path
    device: torch.device
    precision: torch.dtype
    commit: str
    jobs: int
    half: tuple[int, ...] = ()
    choosing: bool = False
    files: str = ""  # digest of the images, where the data set is a folder

    @classmethod
    def open(
        cls,
        scale: str,
        dataset: str | None = None,
        results: Path | str = "results",
        artifacts: Path | str = "artifacts",
        precision: torch.dtype | None = None,
    ) -> "Study":
        """Check both names and set the machine up; nothing is computed yet.

        `dataset` defaults to the scale's own. `precision` is that which the study was begun in, as its artifacts have
        it, or else what is fastest here. Raises ValueError for an unknown name, a folder that can't be written to, or
        another precision than the study was begun in.

        Example:
            >>> study = Study.open("smoke", "digits")
        """
        check_scale(scale)
        dataset = dataset or SCALES[scale].dataset
        data.check_name(dataset)
        device, place = default_device(), Path(scale) / data.slug(dataset)
        # One thread, as workers have: what is trained here is what they would have trained.
        torch.set_num_threads(1)
        # Denormal numbers, common in vanishing gradients, slow a CPU down many times.
        torch.set_flush_denormal(True)
        study = cls(
            scale=scale_for(scale, dataset),
            dataset=dataset,
            place=place,
            results=Path(results) / place,
            artifacts=Path(artifacts) / place,
            data_folder=Path(artifacts) / "data",
            device=device,
            precision=torch.float32,
            commit=commit(),
            jobs=CORES if device.type == "cpu" else 1,
            files=data.files_digest(dataset, Path(artifacts) / "data"),
        )
        for folder in (study.results / "cells", study.artifacts):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"can't write to {folder} ({error.strerror}); choose another folder") from error
        return replace(study, precision=study._begun_in(precision))

    def _begun_in(self, wanted: torch.dtype | None) -> torch.dtype:
        """The precision of the study's artifacts, chosen now if there are none yet."""
        path = self.artifacts / "precision.json"
        with self.lock("precision"):
            if not path.exists():
                write_atomically(path, (json.dumps(name_of(wanted or fastest(self.device))) + "\n").encode())
            try:
                begun_in = named(json.loads(path.read_bytes()))
            except (ValueError, TypeError) as error:
                raise damaged(path, error) from error
        if wanted not in (None, begun_in):
            raise ValueError(
                f"{self.artifacts} was begun in {name_of(begun_in)}, not {name_of(wanted)}; choose other artifacts"
            )
        return begun_in

    def with_scale(self, **changes) -> "Study":
        """The same study with other settings in some fields of its scale."""
        return replace(self, scale=replace(self.scale, **changes))

    def on_half(self, classes: Iterable[int]) -> "Study":
        """The study on these classes of its data set, with teachers of its own."""
        place = self.place.with_name(f"{self.place.name}-half")
        return replace(self, half=tuple(classes), place=place, artifacts=self.artifacts / "half")

    def for_choosing(self) -> "Study":
        """The study without its test images: validation images, a tenth of the training images, are in their place."""
        place = self.place.with_name(f"{self.place.name}-validation")
        return replace(self._beneath("validation"), choosing=True, place=place)

    def on(self, dataset: str) -> "Study":
        """The study's settings on another data set, with teachers trained as suits it, beneath it in its folders."""
        scale = replace(self.scale, training=scale_for(self.scale.name, dataset).training)
        part = {"half": (), "choosing": False, "files": data.files_digest(dataset, self.data_folder)}
        place = self.place.with_name(data.slug(dataset))
        return replace(self._beneath(place.name), scale=scale, dataset=dataset, place=place, **part)

    def _beneath(self, name: str) -> "Study":
        return replace(self, results=self.results / name, artifacts=self.artifacts / name)

    @property
    def computing(self) -> dict:
        """What weights that are trained here depend on beside their settings: on a CPU, how many threads add up."""
        threads = torch.get_num_threads() if self.device.type == "cpu" else None
        return {"precision": name_of(self.precision), "threads": threads}

    @property
    def data_name(self) -> str:
        """What settings call the data."""
        return f"{self.place.name}@{self.files}" if self.files else self.place.name

    @property
    def data(self) -> Data:
        """The data set, loaded on first use."""
        if self.half or self.choosing:
            return _part(self.dataset, self.data_folder, self.half, self.choosing)
        return data.loaded(self.dataset, self.data_folder)

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        """The test split, normalised, with its labels, on the study's device."""
        split = self.data.test
        return self.data.preprocessing.normalise(split.pixels).to(self.device), split.labels.to(self.device)

    def result(self, cell: Cell, wait: bool = True) -> dict:
        """The finished cell: read from results while its settings are unchanged, else made now.

        Another process that wants the same cell waits for it, or, if it is not to `wait`, gets a filelock.Timeout.
        """
        path, settings = self._path(cell.name, cell.seed), self._settings(cell)
        with self.lock(path.stem).acquire(timeout=-1 if wait else 0):
            if (found := _read(path, settings)) is not None:
                return found
            started = time.perf_counter()
            with making():
                metrics = cell.work()
            seconds = metrics.pop("seconds", time.perf_counter() - started)
            samples = metrics.pop("samples", [])
            if len(samples):
                _save_sheet(path, samples)
            content = {
                "name": cell.name,
                "title": data.title(self.dataset),
                "seed": cell.seed,
                "metrics": plain(metrics),
                "samples": len(samples),
                "settings": settings,
                "seconds": round(seconds, 1),
                **provenance(self.device),
                "precision": name_of(self.precision),
                "commit": self.commit,
                "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
            write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
            note_made(path.stem)
            return _read(path, settings)

    def run(self, cells: Iterable[Cell], jobs: int | None = None) -> list[dict]:
        """The finished cells, in order; those that are not there yet are made side by side first.

        `jobs` is how many run at a time, by default the study's own number; use 1 for cells that are quick or timed.
        """
        cells = list(cells)
        missing = [cell for cell in cells if not self.has(cell)]
        side_by_side([partial(self.result, cell) for cell in missing], jobs or self.jobs)
        return [self.result(cell) for cell in cells]

    def finished(self, cell: Cell) -> list[dict]:
        """What there is of the cell, for every seed, with these settings."""
        settings = self._settings(cell)
        paths = sorted((self.results / "cells").glob(f"{cell.name}--seed*.json"))
        return [found for path in paths if (found := _read(path, settings)) is not None]

    def has(self, cell: Cell) -> bool:
        """Whether the cell is there, with these settings."""
        return _read(self._path(cell.name, cell.seed), self._settings(cell)) is not None

    def being_made(self, cell: Cell) -> bool:
        """Whether another process makes the cell."""
        try:
            with self.lock(self._path(cell.name, cell.seed).stem).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def samples(self, finished: dict) -> Tensor:
        """The sample images, uint8 (N, C, H, W), that were saved with a finished cell; large ones nearly as they were.

        Black ones may follow in cells that do not say how many they are.
        """
        path = self._path(finished["name"], finished["seed"])
        found = path.with_suffix(LOSSY)
        with Image.open(found if found.exists() else path.with_suffix(LOSSLESS)) as image:
            sheet = pil_to_tensor(image)
        side = sheet.shape[2] // TILES
        tiles = sheet.unflatten(2, (TILES, side)).unflatten(1, (-1, side)).permute(1, 3, 0, 2, 4).flatten(0, 1)
        return tiles[: finished.get("samples")]

    def pool(self, recipe: Recipe, earlier: Callable[[int], Batch] | None = None) -> ImagePool:
        """The recipe's pool among the study's artifacts; `earlier` as in `ImagePool`."""
        return ImagePool(self.artifacts / "pools" / digest(recipe.card), recipe, earlier)

    def lock(self, name: str) -> FileLock:
        """Held by one process at a time, and let go when that process dies."""
        folder = self.artifacts / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    def _settings(self, cell: Cell) -> dict:
        return plain({"dataset": self.data_name, **cell.settings})

    def _path(self, name: str, seed: int) -> Path:
        return self.results / "cells" / f"{name}--seed{seed}.json"


def read_cell(path: Path) -> dict:
    """A finished cell. Raises ValueError, which names the file, for one that is damaged."""
    cell = read_json(path)
    for name, kind in ENTRIES.items():
        if not isinstance(cell.get(name), kind):
            raise damaged(path, f"it has no {name}")
    note_read(path, cell)
    return cell


def _read(path: Path, settings: dict) -> dict | None:
    try:
        cell = read_cell(path)
    except (FileNotFoundError, ValueError):
        return None
    return cell if cell["settings"] == settings else None


def _save_sheet(path: Path, images: Tensor) -> None:
    """Save a cell's sample images, uint8 (N, C, H, W), TILES of them a row, the last row filled up with black.

    They are in a PNG file, or, in colour and where that has more than LARGEST bytes, in a lossy WebP file of the best
    quality that has not, or of the lowest.
    """
    whole_rows = F.pad(images.cpu(), (0, 0, 0, 0, 0, 0, 0, -len(images) % TILES))
    grid = to_pil_image(make_grid(whole_rows, nrow=TILES, padding=0)[: images.shape[1]])  # which makes three channels
    encoded, suffix, quality = _encoded(grid, "png", optimize=True), LOSSLESS, 90
    lossy = grid.mode == "RGB" and max(grid.size) <= WEBP_SIDE
    while lossy and len(encoded) > LARGEST and quality:
        encoded, suffix, quality = _encoded(grid, "webp", quality=quality, method=6), LOSSY, quality - 10
    write_atomically(path.with_suffix(suffix), encoded)
    path.with_suffix(LOSSY if suffix == LOSSLESS else LOSSLESS).unlink(missing_ok=True)  # of another making


def _encoded(picture: Image.Image, kind: str, **options) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, kind, **options)
    return encoded.getvalue()
