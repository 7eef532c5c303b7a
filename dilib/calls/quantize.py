"""A network on few bits from a trained one and images that stand in for its data. Sec. 5."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dilib import precision as precisions
from dilib.calls import budget, folders
from dilib.calls.given import classes_of, pixels_of, seed_of, split_or_none
from dilib.calls.tuning import Compressed, Tuning, large
from dilib.classifier import Classifier
from dilib.compression.quantization import quantized
from dilib.pool import PoolDataset

CALIBRATING = 256  # images that ranges are set on
LR = 1e-3  # without BatchNorm, which quantisation folds away, higher rates diverge


def quantize(
    teacher: Classifier,
    images: PoolDataset | Tensor | Path | str,
    folder: Path | str,
    *,
    bits: int = 4,
    minutes: float = 5.0,
    updates: int | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> Compressed:
    """Weights and activations on so many `bits`, ranges set on `images` and the network tuned on them. Sec. 5.

    It computes in float32 what integers would give. Images, budget and folder are as for `prune`.
    Raises ValueError for bad input and for a network that torch.fx can't trace.

    Example:
        >>> on_four_bits = quantize(teacher, make_images(teacher, "my-images", 1024), "my-coarse", bits=4).network
    """
    folder = folders.place(folder)
    seed = seed_of(seed)
    budget.check_budget("updates", minutes=minutes, updates=updates)
    classes, pixels = classes_of(teacher), pixels_of(images, teacher)
    keep = large(teacher.preprocessing.size)  # of BatchNorm that was not folded
    test, tuning = split_or_none(test, teacher, classes), Tuning(pixels, LR, minutes, updates, None, seed, keep)
    spread = torch.linspace(0, len(pixels) - 1, min(CALIBRATING, len(pixels))).long()
    network = on_bits(teacher, bits, teacher.preprocessing.normalise(pixels[spread]))
    asked = {"call": "quantize", "bits": bits, **tuning.asked(teacher, CALIBRATING)}
    # bfloat16 is itself coarser than eight bits.
    exact = replace(teacher, precision=torch.promote_types(teacher.dtype, torch.float32))
    decided = folders.begun(folder, asked, lambda: tuning.decided(exact, network))
    return tuning.tuned(exact, network, decided, test, folder)


def on_bits(teacher: Classifier, bits: int, images: Tensor) -> nn.Module:
    """A copy of the teacher's network on so many bits, its ranges set on normalised images (N, C, H, W)."""
    return precisions.in_safe_format(quantized(teacher.network, images, bits))
