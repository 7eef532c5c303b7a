"""Removing filters from a trained network: ranked at gates, over all layers at once, then cut out for real. Sec. 4.3.

The ranking needs images but no labels: its loss is the distance to what the whole network says of them.

Torch-Pruning is imported where it is used: making images and teaching do without it.
"""

import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from dilib import losses
from dilib.checks import check_gradients, check_not_negative, check_whole
from dilib.classifier import Classifier, Frozen
from dilib.downloads import reason
from dilib.structure import copied, undisturbed

if TYPE_CHECKING:
    import torch_pruning

LOSSES = ("kl", "ce")
TARGETS = ("filters", "latency")
CLASSES = "they make the logits"


@dataclass(frozen=True)
class PruningSettings:
    """`filters` are removed at a time, in groups of `group` of one layer, each time after `batches` mini-batches.

    `eta` is the weight of the milliseconds that a group saves (Eq. 10), in units of the median group's importance and
    saving; 0 for plain Taylor ranking. `loss` is "kl", to the whole network's softmax without labels, or "ce" with them
    (Table 10).
    """

    filters: int = 32
    group: int = 16
    batches: int = 30
    batch_size: int = 256
    eta: float = 0.0
    loss: str = "kl"

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss {self.loss!r} is unknown; choose from {', '.join(LOSSES)}")
        check_whole(self, "filters", "group", "batches", "batch_size")
        check_not_negative(self, "eta")


@dataclass(frozen=True)
class Target:
    """Where pruning stops: at a share of the "filters" that is gone, in (0, 1), or at a "latency" in ms."""

    kind: str
    value: float

    def __post_init__(self):
        if self.kind not in TARGETS:
            raise ValueError(f"target {self.kind!r} is unknown; choose from {', '.join(TARGETS)}")
        if not isinstance(self.value, Real):
            raise ValueError(f"{self.value!r} is no target; give a number")
        if self.kind == "filters" and not 0 < self.value < 1:
            raise ValueError(f"a share of {self.value} filters can't be removed; choose one between 0 and 1")
        if self.value <= 0:
            raise ValueError(f"a latency of {self.value} ms can't be reached; choose one above 0")


@dataclass(frozen=True)
class Coupled:
    """Filters that can only go together, as through a shortcut: number i of each of these layers.

    `fed` are the convolutions that read them.
    """

    convolutions: tuple[str, ...]
    norms: tuple[str, ...]
    fed: tuple[str, ...]
    channels: int

    @property
    def filters(self) -> int:
        """How many filters there are in all."""
        return len(self.convolutions) * self.channels


Kept = dict[Coupled, Tensor]  # for each set of coupled filters, which stay: bool (channels,)


def coupled(classifier: Classifier) -> list[Coupled]:
    """All sets of coupled filters that can be removed, found by tracing the network.

    Left whole are filters that no gate at a BatchNorm layer can close, that such a layer reads among others, as after a
    concatenation, that a grouped convolution makes or reads, and those that make the logits. Raises ValueError where
    that is all of them.
    """
    traced, graph = _traced(classifier)
    names, head = {module: name for name, module in traced.named_modules()}, classifier.structure().head
    with _tracing(classifier):
        groups = list(graph.get_all_groups(root_module_types=[nn.Conv2d]))
    readers, reasons = {}, {}
    for each in groups:
        makers, reading = _makers_and_readers(graph, names, each)
        convolutions, norms = _names(makers, nn.Conv2d), _names(makers, _BatchNorm)
        if why := _why_whole(makers, reading, head):
            reasons[convolutions[0]] = why
        else:
            channels = traced.get_submodule(norms[0]).num_features
            readers[Coupled(convolutions, norms, _names(reading, nn.Conv2d), channels)] = reading
    unclosed = _not_closed(classifier, readers)
    reasons |= {group.convolutions[0]: "a layer reads them that no gate stands before" for group in unclosed}
    if len(readers) == len(unclosed):
        kind = type(classifier.network).__name__
        name, why = min(reasons.items(), key=lambda each: each[1] == CLASSES, default=("", ""))
        said = f"those of {name} stay, as {why}" if name else "it has no convolution"
        raise ValueError(f"no filters of {kind} can be removed: {said}")
    return sorted((group for group in readers if group not in unclosed), key=lambda group: group.convolutions)


Layer = tuple[str, nn.Module, list]  # its name, itself, and the places that a group of filters has in it


def _makers_and_readers(graph, names: dict[nn.Module, str], group) -> tuple[list[Layer], list[Layer]]:
    """The layers whose output has the group's filters, and those that read them."""
    sides = [], []
    for dependency, places in group:
        if (module := dependency.target.module) in names:
            reads = not graph.is_out_channel_pruning_fn(dependency.handler)
            sides[reads].append((names[module], module, list(map(int, places))))
    return sides


def _names(layers: list[Layer], kind: type) -> tuple[str, ...]:
    return tuple(sorted({name for name, module, _ in layers if isinstance(module, kind)}))


def _traced(classifier: Classifier) -> tuple[nn.Module, "torch_pruning.DependencyGraph"]:
    """A copy of the network, and what in it depends on what."""
    import torch_pruning

    traced = copied(classifier.network).eval().requires_grad_(True)
    with _tracing(classifier):
        return traced, torch_pruning.DependencyGraph().build_dependency(traced, classifier.example)


@contextmanager
def _tracing(classifier: Classifier) -> Iterator[None]:
    """Turns what Torch-Pruning raises, which is whatever a network makes it stumble over, into one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on parameters outside of layers, which stay whole
            yield
    except Exception as error:
        kind = type(classifier.network).__name__
        raise ValueError(f"{kind} can't be traced for pruning ({reason(error)}); prune another network") from error


def _why_whole(makers: list[Layer], readers: list[Layer], head: str | None) -> str:
    """Why the filters of these layers can't be removed; "" where they can, as far as the layers tell."""
    if any(name == head for name, _, _ in makers):
        return CLASSES
    for name, module, _ in (*makers, *readers):
        if isinstance(module, nn.Conv2d) and 1 < module.groups != module.in_channels:
            return f"{name} is a grouped convolution"
    if not _names(makers, _BatchNorm):
        return "they have no BatchNorm to put a gate at"
    for name, module, _ in makers:
        if not isinstance(module, nn.Conv2d | _BatchNorm):
            return f"they pass through {name}"
    sizes = {module.out_channels if isinstance(module, nn.Conv2d) else module.num_features for _, module, _ in makers}
    if len(sizes) > 1 or any(sorted(places) != list(range(*sizes)) for _, _, places in makers):
        return "they are concatenated with others"
    return "there is but one" if sizes == {1} else ""


@torch.no_grad()
def _not_closed(classifier: Classifier, readers: dict[Coupled, list[Layer]]) -> set[Coupled]:
    """The sets that some layer still reads when every other gate is closed: the channels that it reads are not 0."""
    gates, left = Gates(replace(classifier, precision=torch.float32), list(readers)), set()
    for group, reading in readers.items():
        gates.remove(group, torch.arange(0, group.channels, 2))
        for name, _, places in reading:
            closed = [place for number, place in enumerate(places) if number * group.channels // len(places) % 2 == 0]

            def look(layer: nn.Module, inputs: tuple, group=group, closed=closed) -> None:
                features = inputs[0] if isinstance(layer, nn.Conv2d) else inputs[0].movedim(-1, 1)
                if features[:, closed].any():
                    left.add(group)

            gates.frozen.network.get_submodule(name).register_forward_pre_hook(look)
    gates(_noise(classifier))
    return left


def _noise(classifier: Classifier) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *classifier.preprocessing.shape, generator=generator).to(classifier.device)


def removed(classifier: Classifier, kept: Kept) -> nn.Module:
    """A copy of the network without the filters that are not `kept`; it says what the gated network says.

    Raises ValueError where it does not.
    """
    from torch_pruning import prune_conv_out_channels

    smaller, graph = _traced(classifier)
    for group, stays in kept.items():
        gone = (~stays).nonzero().flatten().tolist()
        if gone:
            whole = next(name for name in group.convolutions if smaller.get_submodule(name).groups == 1)
            root = smaller.get_submodule(whole)
            graph.get_pruning_group(root, prune_conv_out_channels, gone).prune()
    _check_says_the_same(classifier, smaller, kept)
    return smaller.train(classifier.network.training)


@torch.no_grad()
def _check_says_the_same(classifier: Classifier, smaller: nn.Module, kept: Kept) -> None:
    exact, images = replace(classifier, precision=torch.float32), _noise(classifier)
    gates = Gates(exact, list(kept))
    for group, stays in kept.items():
        gates.remove(group, (~stays).nonzero().flatten())
    with undisturbed():
        expected = gates(images)
    with _tracing(classifier), undisturbed():
        found = exact.with_network(smaller).frozen()(images)
    if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-3 * expected.abs().max().item()):
        kind = type(classifier.network).__name__
        raise ValueError(
            f"{kind} can't be pruned: without filters its logits are not the gated network's; prune another"
        )


class Gates:
    """A frozen copy of a network whose every BatchNorm channel is multiplied by a gate: 1, or 0 once it is removed."""

    def __init__(self, classifier: Classifier, groups: list[Coupled]):
        self.frozen = classifier.frozen()
        self.kept: Kept = {group: torch.ones(group.channels, dtype=torch.bool) for group in groups}
        dtype = torch.promote_types(classifier.precision, torch.float32)
        self.gates = {
            name: torch.ones(group.channels, device=classifier.device, dtype=dtype)
            for group in groups
            for name in group.norms
        }
        for name, gate in self.gates.items():
            gate.requires_grad_(True)
            self.frozen.network.get_submodule(name).register_forward_hook(_multiplied_by(gate))

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        return self.frozen(images)

    def importance(self, loss: Tensor) -> dict[Coupled, Tensor]:
        """I_S,err of each filter (channels,): Σ over its gates of (gradient · gate)². Eq. 12."""
        gradients = dict(zip(self.gates, torch.autograd.grad(loss, list(self.gates.values())), strict=True))
        return {
            group: sum((gradients[name] * self.gates[name].detach()) ** 2 for name in group.norms).cpu()
            for group in self.kept
        }

    @property
    def all_open(self) -> bool:
        """Whether nothing is removed yet."""
        return all(stays.all() for stays in self.kept.values())

    def remove(self, group: Coupled, members: Tensor) -> None:
        """Close the gates of these filters of a set."""
        self.kept[group][members] = False
        with torch.no_grad():
            for name in group.norms:
                self.gates[name][members.to(self.gates[name].device)] = 0


def _multiplied_by(gate: Tensor) -> Callable:
    return lambda layer, inputs, output: output * gate.view(1, -1, 1, 1).to(output.dtype)


@dataclass(frozen=True)
class Pruned:
    """What stays, how much of the target's quantity was reached, and, if that is not the target, why."""

    kept: Kept
    reached: float
    stopped: str = ""


def prune(
    classifier: Classifier,
    batches: Iterator[tuple[Tensor, Tensor]],
    settings: PruningSettings,
    target: Target,
    milliseconds: Callable[[Mapping[Coupled, int]], float] | None = None,
) -> Pruned:
    """Remove the least important filters, group by group, until the target is reached. Eqs. 10, 12 and 13.

    `batches` (normalised images, labels) serve to rank. A target of latency, or η above 0, needs `milliseconds`: a
    network's latency by the number of filters in each set. No layer falls below one group: pruning stops there and says
    so in the result.
    Raises ValueError for what is missing, and for a network whose filters can't be removed.
    """
    check_gradients()
    if milliseconds is None and (target.kind == "latency" or settings.eta):
        raise ValueError("a latency target, or eta above 0, needs a look-up table of latencies; measure one first")
    groups = coupled(classifier)
    removed(classifier, {group: torch.arange(group.channels) > 0 for group in groups})  # refused before it is ranked
    gates, whole = Gates(classifier, groups), classifier.frozen()

    def reached() -> float:
        if target.kind == "filters":
            return 1 - _filters(gates.kept) / sum(group.filters for group in gates.kept)
        return milliseconds(counts(gates.kept))

    def enough(value: float) -> bool:
        return value <= target.value if target.kind == "latency" else value >= target.value

    while not enough(now := reached()):
        chosen = _lowest(gates.kept, _scores(gates, whole, batches, settings), settings, milliseconds)
        if not chosen:
            reason = f"every layer is down to its last {settings.group} filters at {now:.3g} of {target.kind}"
            return Pruned(gates.kept, now, f"{reason}, short of {target.value:g}")
        for group, members in chosen:
            gates.remove(group, members)
            if enough(reached()):
                break
    return Pruned(gates.kept, now)


@torch.no_grad()
def gflops(classifier: Classifier) -> float:
    """Billions of multiply-adds for one image."""
    with FlopCounterMode(display=False) as counter:
        classifier.network.eval()(classifier.example)
    return counter.get_total_flops() / 2e9


def counts(kept: Kept) -> dict[Coupled, int]:
    """How many filters of each set stay."""
    return {group: int(stays.sum()) for group, stays in kept.items()}


def _filters(kept: Kept) -> int:
    return sum(len(group.convolutions) * int(stays.sum()) for group, stays in kept.items())


def _scores(gates: Gates, whole: Frozen, batches, settings: PruningSettings) -> dict[Coupled, Tensor]:
    """Mean importance of each filter over the next mini-batches."""
    total: dict[Coupled, Tensor] = {}
    for _ in range(settings.batches):
        images, labels = next(batches)
        for group, found in gates.importance(_loss(gates, whole, images, labels, settings.loss)).items():
            total[group] = total.get(group, 0) + found / settings.batches
    return total


def _loss(gates: Gates, whole: Frozen, images: Tensor, labels: Tensor, kind: str) -> Tensor:
    logits = gates(images)
    if kind == "ce":
        return F.cross_entropy(logits, labels.to(logits.device))
    with torch.no_grad():
        unpruned = whole(images)
    if gates.all_open:
        # Both networks agree, so the divergence has no gradient yet; what the network predicts has one.
        return F.cross_entropy(logits, unpruned.argmax(1))
    return losses.distillation(unpruned, logits, temperature=1.0)


def _lowest(kept: Kept, scores, settings: PruningSettings, milliseconds) -> list[tuple[Coupled, Tensor]]:
    """The groups of filters with the lowest scores, up to `settings.filters` in all; every set keeps one group."""
    there, size, candidates = counts(kept), settings.group, []
    for group, score in scores.items():
        starts = range(0, there[group] - 2 * size + 1, size)
        saved = _saving(there, group, size, milliseconds) if settings.eta and starts else 0.0
        order = score.masked_fill(~kept[group], torch.inf).argsort()
        for members in (order[start : start + size] for start in starts):
            candidates.append((score[members].sum().item(), saved, group, members))
    chosen, left = [], settings.filters
    for _, _, group, members in _by_score(candidates, settings.eta):
        if left <= 0:
            break
        chosen.append((group, members))
        left -= len(group.convolutions) * size
    return chosen


def _by_score(candidates: list[tuple], eta: float) -> list[tuple]:
    """Candidates (importance, milliseconds saved, …) by Eq. 10, lowest first.

    Importance grows by orders of magnitude as a network shrinks, so η weighs the latency in units of what is typical.
    """
    if not (eta and candidates):
        return sorted(candidates, key=lambda candidate: candidate[0])
    typical = [statistics.median(abs(candidate[i]) for candidate in candidates) for i in (0, 1)]
    weight = eta * typical[0] / max(typical[1], 1e-9)
    return sorted(candidates, key=lambda candidate: candidate[0] - weight * candidate[1])


def _saving(there: Mapping[Coupled, int], group: Coupled, size: int, milliseconds) -> float:
    """-I_S,lat of Eq. 13: the milliseconds that `size` filters of a set save, at the best rate that lies ahead.

    Operators get faster in steps: one group less may save nothing, and the next one pays for both.
    """
    now, fewer = milliseconds(there), range(there[group] - size, 0, -size)
    return max(size * (now - milliseconds({**there, group: left})) / (there[group] - left) for left in fewer)
