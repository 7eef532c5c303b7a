"""How a pool's batches are made, each by itself, so that any process can make any of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from dilib.artifacts import fingerprint, fingerprint_of
from dilib.classifiers import Classifier
from dilib.inversion import Inversion, Objective, Schedule, invert
from dilib.statistics import FeatureStatistics
from dilib.study import plain

BATCH_SEEDS = 1_000_000  # batch i of a pool with seed s starts from noise with seed s·BATCH_SEEDS + i


@dataclass(frozen=True)
class Rival:
    """A student that images compete with, trained only where one of them is missing; `card` is all it depends on."""

    card: dict
    train: Callable[[], nn.Module]

    @cached_property
    def network(self) -> nn.Module:
        return self.train()


@dataclass(frozen=True)
class Recipe:
    """How every batch of a pool is made. A batch depends on this and its index, never on who makes it or when.

    Labels run through `classes` again and again; batches take turns with the `schedules`.
    """

    teacher: Classifier
    classes: tuple[int, ...]
    batch_size: int
    objective: Objective
    schedules: tuple[Schedule, ...]
    first_layer: float = 1.0
    seed: int = 0
    statistics: FeatureStatistics | None = None  # in place of BatchNorm's
    rival: Rival | None = None  # for R_compete

    @property
    def card(self) -> dict:
        """All that the images depend on."""
        settings = {name: value for name, value in vars(self).items() if name not in ("teacher", "statistics", "rival")}
        if self.statistics:
            settings["statistics"] = fingerprint_of(self.statistics.tensors())
        if self.rival:
            settings["rival"] = self.rival.card
        teacher = {
            "teacher": self.teacher.name,
            "weights": fingerprint(self.teacher.network),
            "preprocessing": self.teacher.preprocessing,
        }
        return plain({**teacher, **settings})

    def labels(self, index: int) -> Tensor:
        """The labels (batch_size,) of batch `index`."""
        places = torch.arange(index * self.batch_size, (index + 1) * self.batch_size) % len(self.classes)
        return torch.tensor(self.classes)[places]

    def schedule(self, index: int) -> Schedule:
        """The schedule of batch `index`."""
        return self.schedules[index % len(self.schedules)]

    def make(self, index: int, watch: Callable[[int, Tensor], None] | None = None) -> Inversion:
        """Batch `index`. Sec. 4.1; `watch` as in `invert`."""
        network = self.teacher.network
        return invert(
            network,
            self.teacher.preprocessing,
            self.labels(index),
            self.objective,
            self.schedule(index),
            statistics=self.statistics or FeatureStatistics.from_batchnorm(network, first=self.first_layer),
            student=self.rival.network if self.rival else None,
            seed=self.seed * BATCH_SEEDS + index,
            watch=watch,
        )
