"""A smaller network, or one on few bits, from a trained one and images that stand in for its data. Secs. 4.3 and 5."""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dilib import precision
from dilib.artifacts import write_atomically
from dilib.calls import budget
from dilib.calls.given import as_fast_as_it_goes, classes_of, pixels_of, split_of
from dilib.checks import check_seed
from dilib.classifier import Classifier, sides
from dilib.compression import pruning, quantization
from dilib.compression.pruning import Coupled, Kept, PruningSettings, Target
from dilib.data import Split
from dilib.distillation import PoolSettings, distill_on_pool
from dilib.evaluation import split_accuracy
from dilib.inversion import SMALL
from dilib.pool import PoolDataset
from dilib.progress import bar, counted
from dilib.rounds import Run
from dilib.weights import save_weights

ROUNDS = 10
CALIBRATING = 256  # images that ranges are set on
FOLDED_LR = 1e-3  # without BatchNorm, which quantisation folds away, higher rates diverge
KEPT, NETWORK = "kept.safetensors", "network.safetensors"


@dataclass(frozen=True)
class Compressed:
    """A network, in evaluation mode, and its top-1 on the test images, if there are any, before and after tuning."""

    network: nn.Module
    before: float | None
    after: float | None


def prune(
    teacher: Classifier,
    images: PoolDataset | Tensor,
    *,
    filters: float = 0.5,
    minutes: float = 5.0,
    updates: int | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    folder: Path | str | None = None,
    seed: int = 0,
) -> Compressed:
    """Remove this share of the teacher's `filters`, ranked on `images`, and tune what is left on them. Eqs. 10, 12.

    `images` are a pool, or uint8 (N, C, H, W). Tuning takes about so many `minutes`, or as many `updates`, in tens;
    ranking comes before it. With a `folder`, weights and what stays are written there, for `load_pruned`.
    Raises ValueError for bad input and for a network whose filters can't be removed.

    Example:
        >>> smaller = prune(teacher, make_images(teacher, "my-images", 1024), filters=0.5)
    """
    check_seed(seed)
    budget.check_budget(minutes=minutes, updates=updates)
    classes, pixels = classes_of(teacher), pixels_of(images, teacher)
    test, teacher = split_of(test, teacher, classes), as_fast_as_it_goes(teacher)
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if (Path(folder) / NETWORK).exists():
            raise ValueError(f"{folder} holds a pruned network; choose another folder")
    target, groups = Target("filters", filters), pruning.coupled(teacher)
    ranking = _ranking(groups, filters, _batch_size(teacher))
    with bar(-(-int(filters * sum(group.filters for group in groups)) // ranking.filters), "ranking filters") as shown:
        batches = _batches(teacher, pixels, ranking, seed, shown)
        found = pruning.prune(teacher, batches, ranking, target)
    if found.stopped:
        warnings.warn(found.stopped, stacklevel=2)
    network = precision.in_safe_format(pruning.removed(teacher, found.kept)).eval()
    tuned = _tuned(teacher, network, pixels, test, _tuning(teacher, lr=0.05), (minutes, updates), seed)
    if folder is not None:
        masks = {group.convolutions[0]: stays for group, stays in found.kept.items()}
        write_atomically(Path(folder) / KEPT, save(masks, {"format": "pt"}))
        save_weights(Path(folder) / NETWORK, network)
    return tuned


def load_pruned(teacher: Classifier, folder: Path | str) -> nn.Module:
    """The pruned network in a folder that `prune` wrote for this teacher, whose own weights do not matter."""
    masks = load_file(Path(folder) / KEPT)
    kept: Kept = {group: masks[group.convolutions[0]] for group in pruning.coupled(teacher)}
    network = pruning.removed(teacher, kept)
    network.load_state_dict(load_file(Path(folder) / NETWORK))
    return precision.in_safe_format(network).eval()


def quantize(
    teacher: Classifier,
    images: PoolDataset | Tensor,
    *,
    bits: int = 4,
    minutes: float = 5.0,
    updates: int | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> Compressed:
    """Weights and activations on so many `bits`, ranges set on `images` and the network tuned on them. Sec. 5.

    It computes in floating point what integers would give. Raises ValueError for bad input and for a network that
    torch.fx can't trace.

    Example:
        >>> on_four_bits = quantize(teacher, make_images(teacher, "my-images", 1024), bits=4).network
    """
    check_seed(seed)
    budget.check_budget(minutes=minutes, updates=updates)
    classes, pixels = classes_of(teacher), pixels_of(images, teacher)
    test, teacher = split_of(test, teacher, classes), as_fast_as_it_goes(teacher)
    spread = torch.linspace(0, len(pixels) - 1, min(CALIBRATING, len(pixels))).long()
    network = quantization.quantized(teacher.network, teacher.preprocessing.normalise(pixels[spread]), bits)
    network = precision.in_safe_format(network)
    # bfloat16 is itself coarser than eight bits.
    exact = replace(teacher, precision=torch.promote_types(teacher.dtype, torch.float32))
    return _tuned(exact, network, pixels, test, _tuning(teacher, lr=FOLDED_LR), (minutes, updates), seed)


def _batch_size(teacher: Classifier) -> int:
    return 128 if max(sides(teacher.preprocessing.size)) <= SMALL else 32


def _ranking(groups: list[Coupled], share: float, batch_size: int) -> PruningSettings:
    """About forty steps, in each of which one filter in eighty goes."""
    total = sum(group.filters for group in groups)
    step = max(1, int(total * share / 40))
    return PruningSettings(filters=step, group=max(1, min(8, step // 8)), batches=4, batch_size=batch_size)


def _batches(teacher: Classifier, pixels: Tensor, ranking: PruningSettings, seed: int, shown) -> Iterator:
    """Mini-batches drawn at random, without end, and labels that the ranking without labels does not read."""
    random = torch.Generator().manual_seed(seed)
    for drawn in itertools.count(1):
        chosen = torch.randint(len(pixels), (min(ranking.batch_size, len(pixels)),), generator=random)
        images = teacher.preprocessing.normalise(pixels[chosen]).to(teacher.device)
        yield images, torch.zeros(len(chosen), dtype=torch.long)
        if drawn % ranking.batches == 0:
            shown.update()


def _tuning(teacher: Classifier, lr: float) -> PoolSettings:
    side = min(sides(teacher.preprocessing.size))
    size = _batch_size(teacher)
    return PoolSettings(ROUNDS, 1, size, lr=lr, decay="linear", temperature=5.0, shift=max(1, side // 8))


def _tuned(
    teacher: Classifier,
    network: nn.Module,
    pixels: Tensor,
    test: Split | None,
    settings: PoolSettings,
    allowed: tuple[float, int | None],
    seed: int,
) -> Compressed:
    """The network, taught in place to say what the teacher says of the images, for so many minutes or updates."""
    minutes, updates = allowed
    before = None if test is None else split_accuracy(teacher.with_network(network), test)
    updates = updates or 60 * minutes / budget.update_seconds(teacher, network, pixels, settings)
    settings = replace(settings, updates=max(1, int(updates / ROUNDS)))
    with counted(ROUNDS, f"tuning {type(network).__name__}") as on_round:
        distill_on_pool(teacher, network, pixels, None, settings, Run(seed, on_round=on_round))
    after = None if test is None else split_accuracy(teacher.with_network(network), test)
    return Compressed(network.eval(), before, after)
