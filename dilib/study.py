"""One study: a scale on a data set, its cached cells with their provenance, and where its files live."""

import io
import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torchvision
from filelock import FileLock
from PIL import Image
from torch import Tensor

from dilib import data
from dilib.artifacts import write_atomically
from dilib.scales import SCALES, Scale, check_scale, scale_for

TILES = 10  # sample images in a row of a cell's PNG


class Study:
    """A scale on a data set. Opening one checks both names and sets the machine up; nothing is computed yet."""

    def __init__(self, scale: str, dataset: str | None = None, results: str = "results", artifacts: str = "artifacts"):
        check_scale(scale)
        self.dataset = dataset or SCALES[scale].dataset
        data.check_name(self.dataset)
        self.scale: Scale = scale_for(scale, self.dataset)
        self.place = Path(scale) / data.slug(self.dataset)
        self.results, self.artifacts = Path(results) / self.place, Path(artifacts) / self.place
        self.data_folder = Path(artifacts) / "data"
        self.pools = self.artifacts / "pools"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.commit = commit()
        # Denormal numbers, common in vanishing gradients, slow a CPU down many times.
        torch.set_flush_denormal(True)
        for folder in (self.results / "cells", self.artifacts):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"can't write to {folder} ({error.strerror}); choose another folder") from error

    def __getstate__(self) -> dict:
        """What another process needs to open the same study; it loads the data itself."""
        return {name: value for name, value in vars(self).items() if name not in ("data", "test")}

    @property
    def jobs(self) -> int:
        """How many cells may be worked on side by side: one a core, or one on an accelerator."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    @cached_property
    def data(self) -> data.Data:
        return data.load(self.dataset, self.data_folder)

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """The test split, normalised, with its labels, on the study's device."""
        split = self.data.test
        return self.data.preprocessing.normalise(split.pixels).to(self.device), split.labels.to(self.device)

    def cell(self, name: str, settings: dict, work: Callable[[], dict], seed: int = 0) -> dict:
        """The cell `name` for `seed`: read from results while its settings are unchanged, else made by `work()`.

        `work` returns the cell's metrics; an entry "samples", uint8 images (N, C, H, W), goes to a PNG beside the
        JSON, and an entry "seconds" counts work done before an interruption, too. Another process that wants the same
        cell waits for it.
        """
        path = self._cell_path(name, seed)
        settings = plain({"dataset": self.place.name, **settings})
        with self.lock(path.stem):
            found = _read_cell(path, settings)
            if found is not None:
                return found
            started = time.perf_counter()
            metrics = work()
            seconds = metrics.pop("seconds", time.perf_counter() - started)
            samples = metrics.pop("samples", None)
            if samples is not None:
                _write_tiles(path.with_suffix(".png"), samples)
            content = {
                "name": name,
                "title": data.title(self.dataset),
                "seed": seed,
                "metrics": plain(metrics),
                "settings": settings,
                "seconds": round(seconds, 1),
                **provenance(self.device),
                "commit": self.commit,
                "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
            write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
            return _read_cell(path, settings)

    def cells(self, name: str, settings: dict) -> list[dict]:
        """The finished cells `name` of every seed whose settings are these."""
        settings = plain({"dataset": self.place.name, **settings})
        paths = sorted((self.results / "cells").glob(f"{name}--seed*.json"))
        return [cell for path in paths if (cell := _read_cell(path, settings)) is not None]

    def has(self, name: str, settings: dict, seed: int) -> bool:
        """Whether the cell is there, with these settings."""
        return seed in [cell["seed"] for cell in self.cells(name, settings)]

    def samples(self, cell: dict) -> Tensor:
        """The sample images, uint8 (N, C, H, W), that were saved with a cell; black ones may follow."""
        return _read_tiles(self._cell_path(cell["name"], cell["seed"]).with_suffix(".png"))

    def lock(self, name: str) -> FileLock:
        """Held by one process at a time, and let go when that process dies."""
        folder = self.artifacts / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    def _cell_path(self, name: str, seed: int) -> Path:
        return self.results / "cells" / f"{name}--seed{seed}.json"


def plain(value):
    """Dataclasses, tuples and paths as JSON would hold them."""
    return json.loads(json.dumps(value, default=lambda item: asdict(item) if is_dataclass(item) else str(item)))


def provenance(device: torch.device) -> dict:
    """Device and library versions that a result comes from."""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": f"{processor}, {torch.get_num_threads()} threads" if device.type == "cpu" else processor,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The checked-out commit, marked when the code (results change as they are made) differs from it."""
    package = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", package, *arguments], capture_output=True, text=True).stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    return (commit + ("-dirty" if git("status", "--porcelain", "--", package) else "")) or "unknown"


def _read_cell(path: Path, settings: dict) -> dict | None:
    try:
        cell = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return cell if cell.get("settings") == settings else None


def _write_tiles(path: Path, images: Tensor) -> None:
    """Save uint8 images (N, C, H, W) as one PNG with TILES of them a row, the last row filled up with black."""
    channels, height, width = images.shape[1:]
    black = images.new_zeros(-len(images) % TILES, channels, height, width)
    tiles = torch.cat([images, black]).cpu().view(-1, TILES, channels, height, width).permute(0, 3, 1, 4, 2)
    sheet = tiles.reshape(-1, TILES * width, channels).numpy()
    encoded = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(encoded, "png", optimize=True)
    write_atomically(path, encoded.getvalue())


def _read_tiles(path: Path) -> Tensor:
    with Image.open(path) as image:
        sheet = torch.from_numpy(np.array(image))
    side = sheet.shape[1] // TILES
    tiles = sheet.view(-1, side, TILES, side, 1 if sheet.ndim == 2 else 3)
    return tiles.permute(0, 2, 4, 1, 3).flatten(0, 1)
