"""Tensors on disk: safetensors with a card, written to a temporary name and renamed, so half a file is never read."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
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


def read_json(path: Path) -> dict:
    """The JSON object in a file. Raises ValueError, which names the file, where it holds anything else."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if not isinstance(found, dict):
        raise damaged(path, f"a {type(found).__name__} in place of an object")
    return found


def read_text(path: Path) -> str:
    """The text in a file. Raises ValueError, which names the file, where it is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, error) from error


def damaged(path: Path, why: object) -> ValueError:
    """The error that a file can't be used as it is."""
    return ValueError(f"{path} is damaged ({' '.join(str(why).split())[:160]}); delete it, and run the command again")


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
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # a full disk gives none
        raise


def save_tensors(path: Path, tensors: dict[str, Tensor], card: dict) -> None:
    """Save tensors with the card that says what they are (JSON, in the file's own metadata) and a checksum of both."""
    contiguous, there = {}, set()
    for name, tensor in tensors.items():
        found = tensor.detach().cpu().contiguous()
        # Of tensors that share memory, as tied weights do, safetensors takes none.
        contiguous[name] = found.clone() if found.data_ptr() in there else found
        there.add(found.data_ptr())
    text = json.dumps(card, sort_keys=True)
    write_atomically(path, save(contiguous, {"card": text, "checksum": _checksum(text, contiguous)}))


def _checksum(card: str, tensors: dict[str, Tensor]) -> str:
    kinds = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in sorted(tensors.items())]
    return digest([card, kinds, fingerprint_of(dict(sorted(tensors.items())))])


def weights(network: nn.Module) -> dict[str, Tensor]:
    """A trained network's state for a file: in half precision but for vectors, such as BatchNorm's.

    Whoever trained it should go on with what the file has, as all others do.
    """
    return {name: value.half() if value.ndim > 1 else value for name, value in network.state_dict().items()}


def load_tensors(path: Path, card: dict | None = None) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and card of a file, or None if it is missing or damaged, or carries a card other than `card` asks.

    `card` lists only the entries that must agree; the file's own card may hold more.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = json.loads(metadata["card"])
            if any(found.get(key) != plain(value) for key, value in (card or {}).items()):
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError):
        return None
    return (tensors, found) if metadata.get("checksum") == _checksum(metadata["card"], tensors) else None


def without_unset(settings: Mapping, optional: Iterable[str]) -> dict:
    """The settings, the `optional` ones only where they are on, so that what is older than these keeps its name."""
    return {name: value for name, value in settings.items() if value or name not in optional}


def plain(value):
    """Dataclasses, tuples and paths as JSON would hold them."""
    return json.loads(json.dumps(value, default=lambda item: asdict(item) if is_dataclass(item) else str(item)))
