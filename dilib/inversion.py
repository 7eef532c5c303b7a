"""From noise to images: optimise pixels until a trained network, and what its BatchNorm layers remember, agree.

The four methods of the paper are one loop with terms switched on: Noise (classification alone), DeepDream (+ image
prior), DeepInversion (+ feature statistics), Adaptive DeepInversion (+ competition with a student).
"""

import gc
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, StepLR

from dilib import losses
from dilib.checks import check_below_one, check_gradients, check_not_negative, check_positive, check_seed
from dilib.classifier import Classifier, Preprocessing, Size, frozen_copy, sides
from dilib.feature_statistics import FeatureStatistics, MovingAverage, Observed
from dilib.parameterisation import Parameterisation, Pixels
from dilib.structure import undisturbed
from dilib.trial import checked_student, checked_targets, targets, tried

TERMS = ("classification", "prior", "feature", "compete")
DECAYS = {  # of Adam's rate over so many updates
    "constant": lambda optimizer, updates: ConstantLR(optimizer, factor=1.0),
    "cosine": CosineAnnealingLR,
    "step": lambda optimizer, updates: StepLR(optimizer, max(1, round(0.15 * updates)), gamma=0.3),
}
SMALL = 64  # pixels a side, up to which the paper's settings for CIFAR-10 are nearer than those for ImageNet
GRAPHED = 50  # updates, from which on recording them as a CUDA graph pays
UPDATE_SEEDS = 1_000_003  # update i of an inversion with seed s gives a network that draws numbers s·UPDATE_SEEDS + i


@dataclass(frozen=True)
class Objective:
    """The weights α of Eqs. 3, 7 and 9; a term with weight 0 is not computed. Defaults: the paper's for CIFAR-10.

    `alpha_tv_l1` is that of the ℓ1 form of total variation, for continual learning (Sec. E.1).
    """

    alpha_tv: float = 2.5e-5
    alpha_l2: float = 3e-8
    alpha_f: float = 10.0
    alpha_c: float = 10.0
    temperature: float = 3.0
    alpha_tv_l1: float = 0.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 <= value < float("inf") or (name == "temperature" and not value):
                raise ValueError(
                    f"{name} {value} is out of range; choose a finite number of at least 0 (temperature: above)"
                )

    @classmethod
    def for_images(cls, preprocessing: Preprocessing) -> "Objective":
        """The paper's weights: for CIFAR-10 up to 64 pixels a side (Sec. 4.1), for ImageNet above (Sec. 4.2)."""
        if max(sides(preprocessing.size)) <= SMALL:
            return cls()
        return cls(alpha_tv=1e-4, alpha_l2=0.0, alpha_f=1e-2, alpha_c=0.2)

    def noise(self) -> "Objective":
        """Classification loss alone: Noise (L)."""
        return replace(self, alpha_tv=0.0, alpha_l2=0.0, alpha_f=0.0, alpha_c=0.0, alpha_tv_l1=0.0)

    def deepdream(self) -> "Objective":
        """Without feature statistics and competition: DeepDream (Eq. 3)."""
        return replace(self, alpha_f=0.0, alpha_c=0.0)

    def deepinversion(self) -> "Objective":
        """Without competition: DeepInversion (Eq. 7)."""
        return replace(self, alpha_c=0.0)


@dataclass(frozen=True)
class Schedule:
    """How pixels are optimised: (resolution, updates) stages, Adam's rate and its decay, augmentation, clipping.

    A resolution is one number, height and width, or None for that of the teacher's preprocessing. `decay` is, within
    each stage, "constant" (the paper), "cosine", or "step": times 0.3 at every 15 % of it (the paper's for continual
    learning, Sec. E.1). `jitter` is the largest roll in pixels at the last resolution. A later
    stage starts from the earlier one's images, nearest-neighbour up-sampled (Sec. 4.4).
    With `warm_start` above 0, batches after the first start from that share of an earlier batch and the rest of noise,
    and get `warm_updates` at the last resolution.
    """

    stages: tuple[tuple[Size | None, int], ...] = ((None, 2000),)
    lr: float = 0.05
    decay: str = "constant"
    jitter: int = 4
    flip: bool = True
    clip: bool = False
    warm_start: float = 0.0
    warm_updates: int = 0

    def __post_init__(self):
        if self.decay not in DECAYS:
            raise ValueError(f"decay {self.decay!r} is unknown; choose from {', '.join(DECAYS)}")
        if not self.stages or not all(map(_is_stage, self.stages)):
            raise ValueError(f"stages {self.stages} must be (resolution, updates) pairs, each at least 1")
        check_not_negative(self, "jitter", "warm_updates")
        check_positive(self, "lr")
        if not 0 <= self.warm_start < 1:
            raise ValueError(f"warm_start {self.warm_start} is out of range; choose 0 (noise alone) to below 1")
        if bool(self.warm_start) != (self.warm_updates > 0):
            raise ValueError(
                f"warm_start {self.warm_start} with warm_updates {self.warm_updates}; give both, or neither"
            )

    @classmethod
    def for_images(cls, preprocessing: Preprocessing) -> "Schedule":
        """The paper's: for CIFAR-10 up to 64 pixels a side (Sec. 4.1), in two resolutions above (Sec. 4.4)."""
        height, width = sides(preprocessing.size)
        if max(height, width) <= SMALL:
            return cls()
        stages = (((height // 2, width // 2), 2000), (None, 1000))
        return cls(stages, lr=0.2, jitter=round(30 * min(height, width) / 224), clip=True)

    def sized(self, size: Size) -> "Schedule":
        """The schedule with this resolution for stages that have none."""
        return replace(self, stages=tuple((size if stage is None else stage, count) for stage, count in self.stages))

    def updates(self, batches: int = 1) -> int:
        """Gradient updates of the first `batches` batches in all."""
        first = sum(updates for _, updates in self.stages)
        return first + (batches - 1) * (self.warm_updates or first)

    def after_a_warm_start(self) -> "Schedule":
        """The schedule of a batch that starts from an earlier one."""
        return replace(self, stages=((self.stages[-1][0], self.warm_updates),))


def _is_stage(stage) -> bool:
    if not isinstance(stage, tuple | list) or len(stage) != 2:
        return False
    size, updates = stage
    return isinstance(updates, int) and updates >= 1 and (size is None or min(sides(size)) >= 1)


@dataclass(frozen=True)
class Inversion:
    """Synthesised images (N, C, H, W) in the teacher's normalised space, their labels, and the loss terms.

    Labels are classes (N,), or distributions over them (N, K).
    `history` (updates, 4) holds the terms in the order of TERMS, R_prior with its weights α and the others without; a
    term that is switched off is 0.
    """

    images: Tensor
    labels: Tensor
    history: Tensor


def invert(
    teacher: Classifier,
    labels: Tensor,
    objective: Objective,
    schedule: Schedule,
    *,
    watch: Callable[[int, Tensor], None] | None = None,
    **options,
) -> Inversion:
    """Optimise a batch of images from N(0, 1) noise towards `labels`. Eqs. 2 to 9, Sec. 4.1.

    `labels` are classes (N,), or distributions over all of them (N, K). `watch(updates done, images)` is called after
    each update; the other options are those of `updates`. The same seed and precision on the same machine give the same
    images, bit for bit; with views on a GPU, nearly.
    Raises ValueError for bad input and FloatingPointError when a loss stops being finite.

    Example:
        >>> labels = balanced_labels(64, 10, seed=0)
        >>> objective = Objective.for_images(teacher.preprocessing).deepinversion()
        >>> made = invert(teacher, labels, objective, Schedule.for_images(teacher.preprocessing))
        >>> pixels = teacher.preprocessing.to_pixels(made.images)  # uint8 (64, 3, 32, 32)
    """
    images, history = None, []
    for images, terms in updates(teacher, labels, objective, schedule, **options):
        history.append(terms)
        if watch:
            watch(len(history), images)
        # Looking at the numbers makes an accelerator wait, so they are looked at now and then.
        if len(history) % 50 == 0:
            _require_finite(history)
    _require_finite(history)
    return Inversion(images, targets(labels).to(images.device), torch.stack(history).cpu())


def updates(
    teacher: Classifier,
    labels: Tensor,
    objective: Objective,
    schedule: Schedule,
    *,
    statistics: FeatureStatistics | None = None,
    student: nn.Module | None = None,
    start: Tensor | None = None,
    image: Parameterisation | None = None,
    views: float = 0.0,
    memory: float = 0.0,
    seed: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """What `invert` does, update by update: the images so far (N, C, H, W) and the four terms that moved them.

    `statistics` default to the teacher's BatchNorm running statistics. `student`, needed where α_c > 0, is the network
    in training that the images compete with. `start` (N, C, H, W) are earlier images of these labels, for the
    schedule's warm start. `image` is what is optimised, by default pixels that begin with noise or as `start`
    says, which are given as they are and not as a copy. With `views` every image is seen, at every update, from its own
    distance and angle, drawn up to 1 ± `views` and ± `views` radians. With `memory` R_feature is of a moving
    average of the batch's statistics over its updates, across resolutions, in which what was before weighs `memory`; on
    a GPU such updates are not recorded as a graph. Raises ValueError for bad input at once.
    """
    check_seed(seed, bits=63)
    check_below_one("views", views)
    check_below_one("memory", memory)
    schedule = schedule.sized(teacher.preprocessing.size)
    if objective.alpha_f > 0:
        statistics = statistics or FeatureStatistics.from_batchnorm(teacher.network)
    if start is not None and image is not None:
        raise ValueError("start and image both say what images begin with; give one of them")
    labels, random = _checked(teacher, labels, objective, schedule, statistics, student, start)
    if start is not None:
        schedule = schedule.after_a_warm_start()
    generator = torch.Generator().manual_seed(seed)
    if image is None:
        shape = (len(labels), teacher.preprocessing.channels, *sides(schedule.stages[0][0]))
        noise = torch.randn(shape, generator=generator).to(teacher.device)
        image = Pixels(noise if start is None else _blend(start.to(teacher.device), noise, schedule.warm_start))
    average = MovingAverage(memory) if memory else None
    terms_of = _terms(teacher, labels.to(teacher.device), objective, statistics, average, student)
    if random:
        prepared = partial(_seeded, terms_of, seed, itertools.count())
    elif average:  # a graph would go on with the average as it was when it was recorded
        prepared = partial(_plain, terms_of)
    else:
        prepared = partial(_graphed, terms_of, schedule.updates())
    return _optimise(prepared, image, teacher, objective, schedule, views, generator)


def _checked(teacher, labels, objective, schedule, statistics, student, start) -> tuple[Tensor, bool]:
    """The labels as targets, and whether a network draws random numbers; raises ValueError for bad input."""
    if objective.alpha_c > 0 and student is None:
        raise ValueError(f"alpha_c is {objective.alpha_c} but no student is given; pass student= or set alpha_c to 0")
    trial = tried(teacher, [size for size, _ in schedule.stages], statistics if objective.alpha_f > 0 else None)
    labels, random = checked_targets(labels, trial.classes), trial.random
    if start is not None and start.shape[:2] != (len(labels), teacher.preprocessing.channels):
        channels = teacher.preprocessing.channels
        raise ValueError(f"start has shape {tuple(start.shape)}; give {len(labels)} images of {channels} channels")
    if objective.alpha_c > 0:
        random |= checked_student(teacher, student, trial.classes).random
    return labels, random


def _blend(start: Tensor, noise: Tensor, share: float) -> Tensor:
    """`share` of the start and as much noise as keeps the variance of images that have unit variance."""
    return share * F.interpolate(start, noise.shape[2:], mode="area") + (1 - share**2) ** 0.5 * noise


def _optimise(prepared, image, teacher, objective, schedule, views, generator) -> Iterator[tuple[Tensor, Tensor]]:
    weights = torch.tensor([1.0, 1.0, objective.alpha_f, objective.alpha_c], device=teacher.device)
    for size, steps in schedule.stages:
        image = image.at(size)
        optimizer, decay = _adam(image, schedule, steps)
        terms_of_view = None
        for shift, flip in moves(schedule, sides(size)[0], steps, generator):
            check_gradients()
            images = image()
            terms_of_view = terms_of_view or prepared(images)
            terms = terms_of_view(turned(seen(images, shift, flip), views, generator))
            optimizer.zero_grad()
            (terms * weights).sum().backward()
            optimizer.step()
            decay.step()
            if schedule.clip:
                image.clip(teacher.preprocessing)
            yield images.detach(), terms.detach().clone()  # a graph writes its next terms to the same place


def _graphed(terms_of: Callable[[Tensor], Tensor], updates: int, images: Tensor) -> Callable[[Tensor], Tensor]:
    """On a CUDA GPU, forward and backward pass as one graph: launching small kernels takes longer than running them."""
    if not images.is_cuda or updates < GRAPHED:
        return terms_of
    gc.collect()  # earlier graphs, and the memory that they hold, are freed by the collector alone
    return torch.cuda.make_graphed_callables(terms_of, (torch.zeros_like(images).requires_grad_(),))


def _plain(terms_of: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[Tensor], Tensor]:
    return terms_of


def _seeded(
    terms_of: Callable[[Tensor], Tensor], seed: int, done: Iterator[int], images: Tensor
) -> Callable[[Tensor], Tensor]:
    """For networks that draw random numbers in evaluation mode: the same ones, whoever draws others meanwhile."""

    def seeded(view: Tensor) -> Tensor:
        with undisturbed((seed * UPDATE_SEEDS + next(done)) % 2**63):
            return terms_of(view)

    return seeded


def _terms(teacher, labels, objective, statistics, average, student) -> Callable[[Tensor], Tensor]:
    """The function from images (N, C, H, W) to the four terms of the loss, in the order of TERMS."""
    observed = objective.alpha_f > 0
    network = (Observed if observed else frozen_copy)(teacher.network, teacher.precision)
    rival = frozen_copy(student, teacher.precision) if objective.alpha_c > 0 else None

    def terms(images: Tensor) -> Tensor:
        inputs = images.to(teacher.precision, memory_format=torch.channels_last)  # once for both networks
        logits = network(inputs)
        prior = feature = compete = logits.new_zeros(())
        if objective.alpha_tv or objective.alpha_l2:
            prior = losses.image_prior(images, objective.alpha_tv, objective.alpha_l2)
        if objective.alpha_tv_l1:
            prior = prior + objective.alpha_tv_l1 * losses.total_variation_l1(images)
        if observed:
            feature = statistics.distance(average(network.moments) if average else network.moments)
        if rival:
            compete = losses.competition(logits, rival(inputs), objective.temperature)
        return torch.stack([F.cross_entropy(logits, labels), prior, feature, compete])

    return terms


def _adam(image: Parameterisation, schedule: Schedule, updates: int):
    optimizer = torch.optim.Adam(image.groups(schedule.lr), eps=1e-8, fused=True)
    return optimizer, DECAYS[schedule.decay](optimizer, updates)


def moves(schedule: Schedule, height: int, updates: int, generator: torch.Generator) -> Iterator[tuple[list, bool]]:
    """By how much each of `updates` forward passes sees images rolled, up to the jitter, and whether flipped."""
    jitter = round(schedule.jitter * height / sides(schedule.stages[-1][0])[0])
    shifts = torch.randint(-jitter, jitter + 1, (updates, 2), generator=generator).tolist()
    flips = (torch.rand(updates, generator=generator) < 0.5).tolist()
    for shift, flip in zip(shifts, flips, strict=True):
        yield shift, schedule.flip and flip


def seen(images: Tensor, shift: list[int], flip: bool) -> Tensor:
    """The images (N, C, H, W), rolled and flipped."""
    view = images.roll(shift, dims=(2, 3))
    return view.flip(3) if flip else view


def turned(images: Tensor, views: float, generator: torch.Generator) -> Tensor:
    """Each of the images (N, C, H, W) from a distance and at an angle drawn up to 1 ± `views` and ± `views` radians.

    What lies beyond an edge is mirrored. With `views` of 0 they stay as they are. Transformation robustness in Olah et
    al., "Feature Visualization", Distill 2017.
    """
    if not views:
        return images
    draws = views * (2 * torch.rand(2, len(images), generator=generator) - 1)
    along, across = (1 + draws[0]) * torch.cos(draws[1]), (1 + draws[0]) * torch.sin(draws[1])
    still, aspect = torch.zeros_like(along), images.shape[2] / images.shape[3]  # places are shares of height and width
    maps = torch.stack([along, -across * aspect, still, across / aspect, along, still], dim=1).view(-1, 2, 3).to(images)
    places = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="reflection", align_corners=False)


def _require_finite(history: list[Tensor]) -> None:
    terms = torch.stack(history)
    bad = (~torch.isfinite(terms).all(dim=1)).nonzero()
    if len(bad):
        step = int(bad[0])
        values = ", ".join(f"{name} {value:.4g}" for name, value in zip(TERMS, terms[step].tolist(), strict=True))
        raise FloatingPointError(f"loss not finite at update {step + 1}: {values}; lower the learning rate or α")


def balanced_labels(batch_size: int, classes: int, seed: int) -> Tensor:
    """(batch_size,) labels in random order, every class as often as every other, give or take one."""
    generator = torch.Generator().manual_seed(seed)
    offset = int(torch.randint(classes, (), generator=generator))
    return ((torch.arange(batch_size) + offset) % classes)[torch.randperm(batch_size, generator=generator)]
