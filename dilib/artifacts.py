"""Tensors on disk: safetensors with a card, written to a temporary name and renamed, so half a file is never read."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn


def digest(value) -> str:
    """Twelve hexadecimal digits that name a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def fingerprint(network: nn.Module) -> str:
    """Twelve hexadecimal digits that name a network's weights."""
    return fingerprint_of(network.state_dict())


def fingerprint_of(tensors: dict[str, Tensor]) -> str:
    """Twelve hexadecimal digits that name tensors."""
    content = hashlib.sha256()
    for name, tensor in tensors.items():
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return content.hexdigest()[:12]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name in the same folder, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_tensors(path: Path, tensors: dict[str, Tensor], card: dict) -> None:
    """Save tensors with the card that says what they are (JSON, kept in the file's own metadata)."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, {"card": json.dumps(card, sort_keys=True)}))


def weights(network: nn.Module) -> dict[str, Tensor]:
    """A trained network's state for a file: in half precision but for vectors, such as BatchNorm's.

    Whoever trained it should go on with what the file has, as all others do.
    """
    return {name: value.half() if value.ndim > 1 else value for name, value in network.state_dict().items()}


def load_tensors(path: Path, card: dict | None = None) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and card of a file, or None if it is missing, truncated, or carries a card other than `card` asks.

    `card` lists only the entries that must agree; the file's own card may hold more.
    """
    return _read(path, card, lambda file: {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def has_tensors(path: Path, card: dict | None = None) -> bool:
    """Whether `load_tensors` would find a whole file with that card; reads no more than its head."""
    return _read(path, card, lambda file: None) is not None


def _read(path: Path, card: dict | None, content: Callable) -> tuple | None:
    try:
        with safe_open(path, framework="pt") as file:  # checks the length
            found = json.loads((file.metadata() or {}).get("card", "{}"))
            if card is not None and any(found.get(key) != plain(value) for key, value in card.items()):
                return None
            return content(file), found
    except (FileNotFoundError, SafetensorError, OSError, ValueError):
        return None


def plain(value):
    """Dataclasses, tuples and paths as JSON would hold them."""
    return json.loads(json.dumps(value, default=lambda item: asdict(item) if is_dataclass(item) else str(item)))
