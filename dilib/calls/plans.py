"""Settings that nobody has to choose: how images are made and a student is taught, by method and resolution."""

from dataclasses import dataclass, replace

from dilib.amortised import AmortisedSettings
from dilib.artifacts import plain, without_unset
from dilib.classifier import Classifier, Size, sides
from dilib.distillation import DistillationSettings, StreamSettings
from dilib.inversion import SMALL, Objective, Schedule
from dilib.parameterisation import SpectrumSettings
from dilib.recipe import FOR_PICTURES, Recipe, Rival

METHODS = ("amortised", "deepinversion", "adaptive")
# α_f · R_feature of images that nothing was done to yet, by what was found to serve VGG-11-BN on CIFAR-10, where such
# images have an R_feature of 38 and 61, and EfficientNet-Lite0, where it is 20,000 by random views.
AMORTISED_PULL, PULL, LARGE_PULL = 40.0, 60.0, 20.0
VIEWS, MEMORY = 0.3, 0.9  # strengths for pictures to be looked at, as in `inversion.updates`


@dataclass(frozen=True)
class Plan:
    """How images are made, `batch_size` at a time, and how a student is taught on them.

    The first `warm_up` batches compete with no student, which could not be beaten with sense yet.
    With a `spectrum` images begin as waves; `views` and `memory` are those of `inversion.updates`.
    The objective's α_f is for a network whose untouched images have an R_feature of 1; `fitted` makes it another's.
    """

    method: str
    batch_size: int
    objective: Objective
    schedule: Schedule
    teaching: DistillationSettings
    warm_up: int = 1
    shared_start: AmortisedSettings | None = None
    first_layer: float = 1.0
    spectrum: SpectrumSettings | None = None
    views: float = 0.0
    memory: float = 0.0

    def settings(self) -> dict:
        """All of it as JSON would hold it, without what is for pictures alone and off."""
        return without_unset(plain(self), FOR_PICTURES)

    def fitted(self, distance: float) -> "Plan":
        """The plan for a network whose untouched images have this R_feature: it grows with layers and channels."""
        return replace(self, objective=replace(self.objective, alpha_f=self.objective.alpha_f / max(distance, 1e-6)))

    def of_rounds(self, rounds: int) -> "Plan":
        """The plan with so many rounds of teaching."""
        return replace(self, teaching=replace(self.teaching, rounds=rounds))

    def longer(self, times: float) -> "Plan":
        """The plan with so many times the updates of images."""
        stages = tuple((size, max(1, round(updates * times))) for size, updates in self.schedule.stages)
        return replace(self, schedule=replace(self.schedule, stages=stages))

    def recipe(self, teacher: Classifier, classes: tuple[int, ...], seed: int, rival: Rival | None = None) -> Recipe:
        """How its batches are made; they compete with the rival, if there is one and the method competes."""
        competes = rival is not None and self.method != "deepinversion"
        return Recipe(
            teacher,
            classes,
            self.batch_size,
            self.objective if competes else self.objective.deepinversion(),
            (self.schedule,),
            self.first_layer,
            seed,
            shuffled=True,
            rival=rival if competes else None,
            warm_up=self.warm_up if competes else 0,
            shared_start=self.shared_start,
            spectrum=self.spectrum,
            views=self.views,
            memory=self.memory,
        )


def plan_for(size: Size, method: str) -> Plan:
    """What serves networks for images of this size, those of 32×32 pixels best.

    Raises ValueError for an unknown method, and for images that a method can't make.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if method == "amortised" and any(side % 4 for side in sides(size)):
        raise ValueError(f"amortised images have sides that are multiples of 4, not {size}; choose deepinversion")
    side, small = min(sides(size)), max(sides(size)) <= SMALL
    student = {"batch_size": 128 if small else 32, "lr": 0.2, "decay": "linear", "temperature": 20.0}
    student["shift"] = max(1, side // 8)
    if method == "amortised":
        return Plan(
            method,
            batch_size=128 if small else 32,
            objective=Objective(alpha_tv=0.0, alpha_l2=0.0, alpha_f=AMORTISED_PULL),
            schedule=Schedule(((None, 10),), lr=2e-3, jitter=max(1, side // 16)),
            teaching=StreamSettings(updates=150, batches=10, **student),
            warm_up=10,
            shared_start=AmortisedSettings(),
        )
    teaching = DistillationSettings(updates=100, **student)
    if small:
        objective = Objective(alpha_tv=1e-2, alpha_f=PULL, alpha_c=30.0)
        schedule = Schedule(((None, 120),), lr=0.25, decay="cosine", jitter=max(1, side // 8), clip=True)
        return Plan(method, 256, objective, schedule, teaching)
    return Plan(
        method,
        batch_size=16,
        objective=Objective(alpha_tv=0.06, alpha_l2=0.0, alpha_f=LARGE_PULL, alpha_c=0.2),
        schedule=_in_three_sizes(*sides(size)),
        teaching=teaching,
        first_layer=10.0,
        spectrum=SpectrumSettings(),
        views=VIEWS,
        memory=MEMORY,
    )


def _in_three_sizes(height: int, width: int) -> Schedule:
    """Large shapes first: most updates at a quarter and a half of the resolution, where they are cheap."""
    stages = (((height // 4, width // 4), 400), ((height // 2, width // 2), 300), (None, 90))
    return Schedule(stages, lr=0.1, decay="cosine", jitter=round(30 * min(height, width) / 224), clip=True)
