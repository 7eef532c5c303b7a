"""How a pool's batches of images are made."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from dilib import amortised
from dilib.amortised import AmortisedSettings, Start
from dilib.artifacts import fingerprint, fingerprint_of, plain, without_unset
from dilib.checks import check_below_one, check_seed
from dilib.classifier import Classifier
from dilib.feature_statistics import FeatureStatistics
from dilib.inversion import Inversion, Objective, Schedule, balanced_labels, invert
from dilib.parameterisation import Spectrum, SpectrumSettings

FOR_PICTURES = ("spectrum", "views", "memory")  # left out where they are off, so that older results keep their names
OPTIONAL = ("warm_up", "shared_start", *FOR_PICTURES)  # likewise, in pools' cards
BATCH_SEEDS = 1_000_000  # batch i of a pool with seed s starts from noise with seed s·BATCH_SEEDS + i


@dataclass(frozen=True)
class Rival:
    """A student that images compete with, looked up, or trained, when the first batch needs it.

    `card` is all that it depends on. A student that is in training meanwhile is used as it is at each batch.
    """

    card: dict
    find: Callable[[], nn.Module]

    @cached_property
    def network(self) -> nn.Module:
        """The student itself, not a copy."""
        return self.find()


@dataclass(frozen=True)
class Recipe:
    """How every batch of a pool is made; batches take turns with the `schedules`.

    Labels run through `classes` again and again, or, `shuffled`, are balanced within each batch and in random order.
    The first `warm_up` batches, while little is learnt, compete with no student. With a `shared_start` each batch
    begins where earlier ones led, with a `spectrum` its first stage optimises waves in the place of pixels. Without a
    shared or a warm start, or a student in training, a batch depends on nothing but the recipe and its index.
    """

    teacher: Classifier
    classes: tuple[int, ...]
    batch_size: int
    objective: Objective
    schedules: tuple[Schedule, ...]
    first_layer: float = 1.0
    seed: int = 0
    shuffled: bool = False
    statistics: FeatureStatistics | None = None  # in place of BatchNorm's
    rival: Rival | None = None  # for R_compete
    warm_up: int = 0
    shared_start: AmortisedSettings | None = None
    spectrum: SpectrumSettings | None = None
    views: float = 0.0  # this and memory: of `inversion.updates`
    memory: float = 0.0

    def __post_init__(self):
        check_seed(self.seed)
        if self.spectrum and (self.shared_start or any(schedule.warm_start for schedule in self.schedules)):
            raise ValueError("a spectrum is where images begin; set the shared start to None and warm_start to 0")
        if self.spectrum and any(len(schedule.stages) < 2 for schedule in self.schedules):
            raise ValueError("a spectrum lays images out, which end as pixels; give schedules of two stages or more")
        check_below_one("views", self.views)
        check_below_one("memory", self.memory)
        if self.shared_start and any(schedule.warm_start for schedule in self.schedules):
            raise ValueError("a shared start leaves no place for the schedule's warm_start; set that to 0")

    @property
    def card(self) -> dict:
        """All that the images depend on but the precision, which a pool keeps from its beginning."""
        apart = ("teacher", "statistics", "rival")
        settings = {name: value for name, value in vars(self).items() if name not in apart}
        settings = without_unset(settings, OPTIONAL)
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

    def in_precision(self, precision: torch.dtype) -> "Recipe":
        """The same images, made in another precision."""
        return replace(self, teacher=replace(self.teacher, precision=precision))

    def labels(self, index: int) -> Tensor:
        """The labels (batch_size,) of batch `index` where it begins with noise."""
        if self.shuffled:
            places = balanced_labels(self.batch_size, len(self.classes), self.batch_seed(index))
        else:
            places = torch.arange(index * self.batch_size, (index + 1) * self.batch_size) % len(self.classes)
        return torch.tensor(self.classes)[places]

    def schedule(self, index: int) -> Schedule:
        """The schedule of batch `index`."""
        return self.schedules[index % len(self.schedules)].sized(self.teacher.preprocessing.size)

    def batch_seed(self, index: int) -> int:
        """The seed of all that is random in batch `index`."""
        return self.seed * BATCH_SEEDS + index

    def warm_start(self, index: int) -> int | None:
        """The earlier batch, drawn at random, that batch `index` starts from; None where it starts from noise."""
        if not (index and self.schedule(index).warm_start):
            return None
        return int(torch.randint(index, (), generator=torch.Generator().manual_seed(self.batch_seed(index))))

    def make(
        self,
        index: int,
        start: tuple[Tensor, Tensor] | None = None,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> Inversion:
        """Batch `index`, from earlier images and their labels (`start`) or from noise; `watch` as in `invert`."""
        if self.shared_start:
            raise ValueError("batches with a shared start are made one after another; use make_from")
        images, labels = start or (None, self.labels(index))
        options = {"start": images, "image": self._waves(index), "watch": watch}
        return invert(*self._problem(index, labels), **options, **self._options(index))

    def _waves(self, index: int) -> Spectrum | None:
        """What batch `index` begins with in the place of pixels."""
        if not self.spectrum:
            return None
        place = (self.schedule(index).stages[0][0], self.teacher.preprocessing, self.spectrum)
        return Spectrum.noise(self.batch_size, *place, self.batch_seed(index), self.teacher.device)

    def first_start(self) -> Start:
        """The generator's weights that the first batch begins with."""
        return amortised.first_start(self.teacher, self.shared_start, self.batch_seed(0))

    def make_from(
        self, index: int, start: Start, watch: Callable[[int, Tensor], None] | None = None
    ) -> tuple[Inversion, Start]:
        """Batch `index` from the shared start as earlier batches left it, and as this one leaves it."""
        problem = self._problem(index, self.labels(index))
        return amortised.batch(*problem, self.shared_start, start, watch=watch, **self._options(index))

    def _problem(self, index: int, labels: Tensor) -> tuple[Classifier, Tensor, Objective, Schedule]:
        objective = self.objective if index >= self.warm_up else self.objective.deepinversion()
        return self.teacher, labels, objective, self.schedule(index)

    def _options(self, index: int) -> dict:
        stored = self.statistics or FeatureStatistics.from_batchnorm(self.teacher.network, first=self.first_layer)
        competes = self.rival and index >= self.warm_up
        student = self.rival.network if competes else None
        how = {"views": self.views, "memory": self.memory}
        return {"statistics": stored, "student": student, **how, "seed": self.batch_seed(index)}
