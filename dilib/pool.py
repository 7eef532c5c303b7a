"""A growing set of synthesised images on disk, written batch by batch, that survives being killed."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dilib.artifacts import load_tensors, save_tensors


@dataclass(frozen=True)
class ImagePool:
    """Batches of images (N, C, H, W), normalised for their teacher, as half-precision safetensors in one folder.

    `card` says what made them (teacher, settings, seed); a file that carries another card is not part of this pool.
    """

    folder: Path
    card: dict

    def path(self, index: int) -> Path:
        return self.folder / f"batch-{index:05d}.safetensors"

    def save(self, index: int, images: Tensor, labels: Tensor, history: Tensor) -> None:
        """Write batch `index` whole or not at all."""
        tensors = {"images": images.half(), "labels": labels, "history": history}
        save_tensors(self.path(index), tensors, {**self.card, "index": index})

    def load(self, index: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor] | None:
        """Images and labels of batch `index`, or None if it is missing, truncated or not this pool's."""
        found = load_tensors(self.path(index), {**self.card, "index": index})
        return found and (found[0]["images"].float().to(device), found[0]["labels"].to(device))
