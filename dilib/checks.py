"""What is refused before work starts, in one line, wherever it may be given."""

import math
from numbers import Integral

import torch


def check_whole(settings: object, *names: str) -> None:
    """Raise ValueError unless each of these fields is a whole number of at least 1."""
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} {value} is out of range; choose a whole number of at least 1")


def check_positive(settings: object, *names: str) -> None:
    """Raise ValueError unless each of these fields is a finite number above 0."""
    for name in names:
        value = getattr(settings, name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} {value} is out of range; choose a finite number above 0")


def check_not_negative(settings: object, *names: str) -> None:
    """Raise ValueError unless each of these fields is a finite number of at least 0."""
    for name in names:
        value = getattr(settings, name)
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} {value} is out of range; choose a finite number of at least 0")


def check_below_one(name: str, value: float) -> None:
    """Raise ValueError unless this is from 0, which switches it off, to below 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} {value} is out of range; choose from 0 (none) to below 1")


def check_seed(seed: int, bits: int = 32) -> None:
    """Raise ValueError unless the seed is a whole number of so many bits: of 32, seeds of batches can be made."""
    if not isinstance(seed, Integral) or not 0 <= seed < 2**bits:
        raise ValueError(f"seed {seed} is out of range; choose a whole number from 0 to {2**bits - 1}")


def check_gradients() -> None:
    """Raise ValueError where torch computes no gradients."""
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        raise ValueError("gradients are switched off here; call this outside of torch.no_grad and torch.inference_mode")
