"""How long a network takes, from a table of its operators' times: look-up instead of measurement. Sec. 4.3, Eqs. 13–15.

A machine's speed changes from minute to minute, so what is to be compared takes turns: operators with one reference
operator, networks with each other.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from dilib.artifacts import damaged, read_json, write_atomically
from dilib.classifier import Classifier, Preprocessing, sides
from dilib.compression.pruning import Coupled
from dilib.progress import bar
from dilib.provenance import provenance
from dilib.timing import wall_seconds

REFERENCE = (16, 16, 16)  # input channels, output channels and resolution of the reference convolution
TURNS = 7  # for an operator; a network gets three times as many


@dataclass(frozen=True)
class Kind:
    """What of an operator pruning does not change: the starred part of the look-up key. Eq. 15."""

    kernel: int
    stride: int
    padding: int
    depthwise: bool
    size: int


@dataclass(frozen=True)
class Operator:
    """One convolution with BatchNorm and ReLU, and the sets of coupled filters that it reads and makes.

    None stands for what pruning leaves whole, such as the image: `channels` are read then, and `filters` made.
    """

    kind: Kind
    inputs: Coupled | None
    outputs: Coupled | None
    channels: int
    filters: int = 0

    def shape(self, counts: Mapping[Coupled, int]) -> tuple[int, int]:
        """How many channels it reads and makes when each set keeps `counts` filters."""
        inputs = counts[self.inputs] if self.inputs else self.channels
        return inputs, counts[self.outputs] if self.outputs else self.filters


class Clock:
    """Times operators and networks for batches of `batch` images, unaffected by drifts of the machine's speed."""

    def __init__(self, batch: int, device: torch.device):
        self.batch, self.device = batch, device
        self.reference = self._convolution(Kind(3, 1, 1, False, REFERENCE[2]), *REFERENCE[:2])

    def networks(self, networks: Sequence[nn.Module], preprocessing: Preprocessing) -> list[float]:
        """Milliseconds of a forward pass of one batch through each network, at the first one's median speed."""
        images = self._images(*preprocessing.shape)
        frozen = [network.eval().to(self.device, memory_format=torch.channels_last) for network in networks]
        ratios, unit = self._in_turns([partial(network, images) for network in frozen], 3 * TURNS)
        return [unit * ratio for ratio in ratios]

    def operator(self, kind: Kind, inputs: int, outputs: int) -> tuple[float, float]:
        """A convolution of this kind with BatchNorm and ReLU: its time in reference operators, and theirs in ms."""
        (_, ratio), unit = self._in_turns([self.reference, self._convolution(kind, inputs, outputs)], TURNS)
        return ratio, unit

    @torch.inference_mode()
    def _in_turns(self, works: Sequence[Callable[[], object]], turns: int) -> tuple[list[float], float]:
        """Each work's median time as a multiple of the first one's in the same turn, and that one's median in ms."""
        for work in works:
            work()
        seconds = np.array([[wall_seconds(work, self.device) for work in works] for _ in range(turns)])
        return np.median(seconds / seconds[:, :1], axis=0).tolist(), 1000 * np.median(seconds[:, 0]).item()

    def _convolution(self, kind: Kind, inputs: int, outputs: int) -> Callable[[], Tensor]:
        groups = inputs if kind.depthwise else 1
        convolution = nn.Conv2d(inputs, outputs, kind.kernel, kind.stride, kind.padding, groups=groups, bias=False)
        layers = nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)).eval()
        layers = layers.to(self.device, memory_format=torch.channels_last)
        images = self._images(inputs, kind.size, kind.size)
        return lambda: layers(images)

    def _images(self, channels: int, height: int, width: int) -> Tensor:
        images = torch.randn(self.batch, channels, height, width, device=self.device)
        return images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def operators(classifier: Classifier, groups: Sequence[Coupled]) -> list[Operator]:
    """Every convolution that pruning can reach, with the sets it reads and makes, from a forward pass.

    Raises ValueError for images, or a convolution, that no table entry describes: not square, grouped, or dilated.
    """
    height, width = sides(classifier.preprocessing.size)
    if height != width:
        raise ValueError(f"no look-up entry can stand for {height}×{width} images; prune by filters, or on square ones")
    network = classifier.network.eval()
    makes = {name: group for group in groups for name in group.convolutions}
    reads = {name: group for group in groups for name in group.fed}
    sizes: dict[str, int] = {}
    handles = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda layer, inputs, name=name: sizes.update({name: inputs[0].shape[-1]})
        )
        for name in (*makes, *reads)
    ]
    network(classifier.example)
    for handle in handles:
        handle.remove()
    found = []
    for name in dict.fromkeys((*makes, *reads)):
        layer = network.get_submodule(name)
        depthwise = layer.groups > 1
        if layer.groups not in (1, layer.in_channels) or layer.dilation != (1, 1) or len(set(layer.kernel_size)) > 1:
            raise ValueError(f"no look-up entry can stand for {name} ({layer}); leave it out of pruning")
        padding = layer.padding[0] if isinstance(layer.padding, tuple) else layer.kernel_size[0] // 2
        kind = Kind(layer.kernel_size[0], layer.stride[0], padding, depthwise, sizes[name])
        made, read = makes.get(name), reads.get(name)
        found.append(Operator(kind, made if depthwise else read, made, layer.in_channels, layer.out_channels))
    return found


@dataclass(frozen=True)
class LookupTable:
    """Milliseconds of operators by kind, on a grid of input and output channels, for batches of `batch` images.

    A depthwise kind, and one that reads the image, has a single row.
    """

    batch: int
    grids: Mapping[Kind, tuple[tuple[int, ...], tuple[int, ...], np.ndarray]]

    def milliseconds(self, operators: Sequence[Operator], counts: Mapping[Coupled, int]) -> float:
        """LAT(W): the sum over a network's operators when each set keeps `counts` filters. Eq. 14."""
        return sum(self.operator(each.kind, *each.shape(counts)) for each in operators)

    def operator(self, kind: Kind, inputs: int, outputs: int) -> float:
        """LAT(o_l), interpolated between the measured shapes."""
        every = self._every_shape[kind]
        return float(every[min(inputs, len(every)) - 1, outputs - 1])

    @cached_property
    def _every_shape(self) -> dict[Kind, np.ndarray]:
        """Each kind's milliseconds for every number of channels: pruning looks up many thousand times."""
        return {kind: _interpolated(*grid) for kind, grid in self.grids.items()}


def _interpolated(rows: Sequence[int], columns: Sequence[int], values: np.ndarray) -> np.ndarray:
    """A grid's values at every number of inputs from 1 (of one row: at that row) and of outputs from 1 to the most."""
    from scipy.interpolate import RegularGridInterpolator

    inputs = np.arange(1, rows[-1] + 1) if len(rows) > 1 else np.array(rows)
    mesh = np.meshgrid(inputs, np.arange(1, columns[-1] + 1), indexing="ij")
    return RegularGridInterpolator((rows, columns), values)(tuple(mesh))


def measure(operators: Sequence[Operator], clock: Clock, steps: int) -> LookupTable:
    """Time every kind of operator at no more than `steps` numbers of input and of output channels, up to the most."""
    most: dict[Kind, tuple[int, int]] = {}
    for each in operators:
        whole = {group: group.channels for group in (each.inputs, each.outputs) if group}
        most[each.kind] = tuple(map(max, most.get(each.kind, (0, 0)), each.shape(whole)))
    shapes = {kind: _grid(kind, *channels, steps, operators) for kind, channels in most.items()}
    grids, units = {}, []
    with bar(sum(len(rows) * len(columns) for rows, columns in shapes.values()), "timing operators") as progress:
        for kind, (rows, columns) in shapes.items():
            values = np.empty((len(rows), len(columns)))
            for (i, inputs), (j, outputs) in itertools.product(enumerate(rows), enumerate(columns)):
                values[i, j], unit = clock.operator(kind, outputs if kind.depthwise else inputs, outputs)
                units.append(unit)
                progress.update()
            grids[kind] = rows, columns, values
    # The reference's typical speed over the whole time, not that of any one moment.
    unit = median(units)
    return LookupTable(
        clock.batch, {kind: (rows, columns, unit * values) for kind, (rows, columns, values) in grids.items()}
    )


def _grid(kind: Kind, inputs: int, outputs: int, steps: int, operators) -> tuple[tuple[int, ...], tuple[int, ...]]:
    from_image = all(each.inputs is None for each in operators if each.kind == kind)
    rows = (inputs,) if kind.depthwise or from_image else _steps(inputs, steps)
    return rows, _steps(outputs, steps)


def _steps(most: int, steps: int) -> tuple[int, ...]:
    """At most `steps` numbers from 1 to `most`, evenly spread."""
    return tuple(sorted({max(1, round(most * step / (steps - 1))) for step in range(steps)}))


def save(path: Path, table: LookupTable, device: torch.device) -> None:
    """Write a table as JSON, with the device it was measured on."""
    grids = [
        {"kind": asdict(kind), "inputs": rows, "outputs": columns, "milliseconds": values.round(4).tolist()}
        for kind, (rows, columns, values) in table.grids.items()
    ]
    content = {**provenance(device), "batch": table.batch, "grids": grids}
    write_atomically(path, (json.dumps(content) + "\n").encode())


def load(path: Path) -> LookupTable:
    """Read what `save` wrote. Raises ValueError, which names the file, for a damaged one."""
    content = read_json(path)
    try:
        grids = {
            Kind(**grid["kind"]): (tuple(grid["inputs"]), tuple(grid["outputs"]), np.array(grid["milliseconds"]))
            for grid in content["grids"]
        }
        return LookupTable(content["batch"], grids)
    except (KeyError, TypeError) as error:
        raise damaged(path, error) from error
