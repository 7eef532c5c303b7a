"""One study: a scale on a data set, its cached cells with their provenance, and where its files live."""

import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path

import torch
import torchvision
from filelock import FileLock
from torch import Tensor
from torchvision.io import ImageReadMode, read_image, write_png

from dilib import data
from dilib.artifacts import write_atomically
from dilib.scales import SCALES, Scale, check_scale

TILES = 10  # sample images in a row of a cell's PNG


class Study:
    """A scale on a data set. Opening one checks both names and sets the machine up; nothing is computed yet."""

    def __init__(self, scale: str, dataset: str | None = None, results: str = "results", artifacts: str = "artifacts"):
        check_scale(scale)
        self.scale: Scale = SCALES[scale]
        self.dataset = dataset or self.scale.dataset
        data.check_name(self.dataset)
        place = Path(scale) / data.slug(self.dataset)
        self.results, self.artifacts = Path(results) / place, Path(artifacts) / place
        self.data_folder = Path(artifacts) / "data"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Denormal numbers, common in vanishing gradients, slow a CPU down many times.
        torch.set_flush_denormal(True)
        (self.results / "cells").mkdir(parents=True, exist_ok=True)

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
        JSON. Another process that wants the same cell waits for it.
        """
        path = self._cell_path(name, seed)
        settings = plain({"dataset": self.dataset, **settings})
        lock = self.artifacts / "locks" / f"{path.stem}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            found = _read_cell(path, settings)
            if found is not None:
                return found
            started = time.time()
            metrics = work()
            samples = metrics.pop("samples", None)
            if samples is not None:
                _write_tiles(path.with_suffix(".png"), samples)
            content = {
                "name": name,
                "seed": seed,
                "metrics": plain(metrics),
                "settings": settings,
                "seconds": round(time.time() - started, 1),
                **provenance(self.device),
            }
            write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
            return _read_cell(path, settings)

    def cells(self, name: str, settings: dict) -> list[dict]:
        """The finished cells `name` of every seed whose settings are these."""
        settings = plain({"dataset": self.dataset, **settings})
        paths = sorted((self.results / "cells").glob(f"{name}--seed*.json"))
        return [cell for path in paths if (cell := _read_cell(path, settings)) is not None]

    def samples(self, cell: dict) -> Tensor:
        """The sample images, uint8 (N, C, H, W), that were saved with a cell."""
        return _read_tiles(self._cell_path(cell["name"], cell["seed"]).with_suffix(".png"))

    def _cell_path(self, name: str, seed: int) -> Path:
        return self.results / "cells" / f"{name}--seed{seed}.json"


def plain(value):
    """Dataclasses, tuples and paths as JSON would hold them."""
    return json.loads(json.dumps(value, default=lambda item: asdict(item) if is_dataclass(item) else str(item)))


def provenance(device: torch.device) -> dict:
    """Device, library versions, commit and time of a result."""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": f"{processor}, {torch.get_num_threads()} threads" if device.type == "cpu" else processor,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "commit": _commit(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
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
    count, channels, height, width = images.shape
    rows = count // TILES
    tiles = images[: rows * TILES].view(rows, TILES, channels, height, width)
    sheet = tiles.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, TILES * width)
    temporary = path.with_suffix(".tmp")
    write_png(sheet.cpu().contiguous(), str(temporary))
    temporary.replace(path)


def _read_tiles(path: Path) -> Tensor:
    sheet = read_image(str(path), ImageReadMode.UNCHANGED)
    channels, _, width = sheet.shape
    side = width // TILES
    return sheet.view(channels, -1, side, TILES, side).permute(1, 3, 0, 2, 4).reshape(-1, channels, side, side)
