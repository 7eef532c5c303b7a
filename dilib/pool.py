"""A growing set of synthesised images on disk, written batch by batch, that survives being killed."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import resize
from torchvision.utils import make_grid

from dilib.artifacts import load_tensors, save_tensors, write_atomically

THUMBNAIL = 72  # pixels a side of an image on the contact sheet


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

    def history(self, index: int) -> Tensor:
        """The loss terms (updates, 4) along the making of batch `index`, which must be there."""
        return load_tensors(self.path(index), {**self.card, "index": index})[0]["history"]

    def load(self, index: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor] | None:
        """Images and labels of batch `index`, or None if it is missing, truncated or not this pool's."""
        found = load_tensors(self.path(index), {**self.card, "index": index})
        return found and (found[0]["images"].float().to(device), found[0]["labels"].to(device))


def save_pictures(folder: Path, pixels: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Images (N, 3, H, W), uint8, as folder/CLASS/NUMBER.png where they are not there yet, and folder/contact.png."""
    for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        path = folder / classes[label].replace("/", "-") / f"{number:05d}.png"
        if not path.exists():
            write_atomically(path, _png(image))
    thumbnails = resize(pixels, [THUMBNAIL, THUMBNAIL], antialias=True)
    write_atomically(folder / "contact.png", _png(make_grid(thumbnails, nrow=10, padding=2, pad_value=255)))


def _png(image: Tensor) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(encoded, "png")
    return encoded.getvalue()
