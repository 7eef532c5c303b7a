"""What the study's settings are chosen by: validation images and a seed of their own, as many trials for each method.

Validation images are a tenth of the training images; the teachers of these trials have not seen them. The teachers that
are shown elsewhere are trained on all training images.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from dilib.baselines.dafl import GeneratorSettings
from dilib.continual.extension import CONTINUAL_METHODS
from dilib.experiments.table1_transfer import student_cell
from dilib.experiments.table4_pruning import Pruning, tuned_cell
from dilib.experiments.table7_continual import continual_cell
from dilib.study.cells import Cell, Study
from dilib.study.scales.settings import PAIRS, Amortised, Scale

SEED = 100  # no seed that is shown
HELD_OUT = ("digits", "photographs")  # data sets that nothing is chosen on: the first that is not the study's own
PAIR = PAIRS[0]
TEACHER = PAIR[0]
WEIGHTS = (  # α_f and α_tv: a grid, and then beyond its best corner
    *((feature, tv) for feature in (0.3, 1.0, 3.0) for tv in (2e-3, 1e-2)),
    *((10.0, 1e-2), (3.0, 3e-2), (10.0, 3e-2)),
)
BEYOND = {"deepdream": (0.005, 0.015)}  # continual learning's rates beyond the best one, where it was the least


@dataclass(frozen=True)
class Choice:
    """A setting of the scale: the values tried, each as the scale with that value, and the cell that tells of them."""

    name: str
    setting: str
    scales: Mapping[str, Scale]
    cell: Callable[[Study], Cell]
    metric: str = "top1"

    def first(self, count: int) -> "Choice":
        """The choice among the first values alone."""
        return replace(self, scales=dict(islice(self.scales.items(), count)))


def trial_cell(study: Study, choice: Choice, value: str) -> Cell:
    """What a value gives on validation images, as a cell of the study."""
    other = replace(study.for_choosing(), scale=choice.scales[value])
    return _as_ours(choice.cell(other), other, f"choice--{choice.name}--{value}")


def _as_ours(cell: Cell, other: Study, name: str) -> Cell:
    """Another study's cell, among those of this one."""
    return Cell(re.sub(r"[^\w.-]+", "-", name), {"dataset": other.data_name, **cell.settings}, cell.work, cell.seed)


def in_use(study: Study, choice: Choice) -> str | None:
    """The value that the study's scale has; None where it is not among those tried."""
    return next((value for value, scale in choice.scales.items() if scale == study.scale), None)


def every_choice(study: Study) -> list[Choice]:
    """All choices that are made on validation images."""
    every = (*transfer_choices(study), *continual_choices(study), *pruning_choices(study))
    return [choice.first(study.scale.trials) for choice in every]


def held_out(study: Study) -> str:
    """The data set that nothing was chosen on."""
    return next(name for name in HELD_OUT if name != study.dataset)


def held_out_cell(study: Study, method: str, seed: int = 0) -> Cell:
    """Table 1's first pair on another data set, which nothing was chosen on, with the study's settings."""
    other = study.on(held_out(study))
    return _as_ours(student_cell(other, PAIR, method, seed), other, f"held-out--{other.dataset}--{method}")


def transfer_choices(study: Study) -> list[Choice]:
    """Table 1: as many trials for each method, of a student that is taught for half as long as those shown."""
    scale, objective = study.scale, study.scale.objective[TEACHER]

    def with_weights(**weights: float) -> Scale:
        return replace(scale, objective={**scale.objective, TEACHER: replace(objective, **weights)})

    images = {
        f"R_feature {feature:g}, R_TV {tv:g}": with_weights(alpha_f=feature, alpha_tv=tv) for feature, tv in WEIGHTS
    }
    dreams = {f"{tv:g}": replace(scale, deepdream_tv=tv) for tv in (2.5e-5 * 4**step for step in range(9))}
    competition = {
        f"{weight:g} from batch {after}": replace(with_weights(alpha_c=weight), adaptive_after=after)
        for weight in (10.0, 30.0, 100.0)
        for after in (1, 2, 3)
    }
    generators = {
        f"rate {lr:g}, {words}": replace(scale, dafl=replace(scale.dafl, lr=lr, **how))
        for lr in (2e-2, 2e-3, 2e-4)
        for words, how in _dafl_weights().items()
    }
    return [
        Choice("deepinversion", "DeepInversion: α_f and α_tv", images, _half_long("deepinversion")),
        Choice("adaptive", "Adaptive DeepInversion: α_c, and from which batch on", competition, _half_long("adaptive")),
        Choice("deepdream", "DeepDream: α_tv", dreams, _half_long("deepdream")),
        Choice("dafl", "DAFL: generator's rate, losses' weights, temperature", generators, _half_long("dafl")),
        amortised_choice(study),
    ]


def amortised_choice(study: Study) -> Choice:
    """Table 1's addition: its weights."""
    how = study.scale.amortised
    weights = {
        f"R_feature {feature:g}, R_compete {compete:g}": _weighing(how, alpha_f=feature, alpha_c=compete)
        for feature in (0.3, 1.0, 3.0)
        for compete in (10.0, 30.0, 100.0)
    }
    return _amortised(study, "amortised", "Amortised DeepInversion: α_f and α_c", weights)


def ingredients(study: Study) -> list[Choice]:
    """What becomes of amortised students when one thing is changed, and of an adaptive one that is taught likewise."""
    scale, how = study.scale, study.scale.amortised
    size, updates = how.schedule.stages[-1]

    def taking(count: int) -> Amortised:
        return replace(how, schedule=replace(how.schedule, stages=((size, count),)))

    def generating(**settings: float) -> Amortised:
        return replace(how, settings=replace(how.settings, **settings))

    def teaching(**settings) -> Amortised:
        return replace(how, student={pair: replace(each, **settings) for pair, each in how.student.items()})

    changed = {
        "as it is": how,
        "every batch from the same start": generating(step=0.0),
        "from where the last batch ended": generating(step=1.0),
        "no competition": _weighing(how, alpha_c=0.0),
        "half the updates a batch": taking(max(1, updates // 2)),
        "twice the updates a batch": taking(2 * updates),
        "twice the images a batch": replace(how, batch_size=2 * how.batch_size),
        "twice the width of the generator": generating(width=2 * how.settings.width),
        "a step's images from one batch": teaching(mixed=False),
        "taught by SGD": teaching(optimizer="sgd"),
    }
    theirs, ours = scale.distillation[PAIR], how.student[PAIR]
    likewise = replace(ours, rounds=theirs.rounds, updates=theirs.updates, batches=1)
    adaptive = {
        "as it is": scale,
        "taught as amortised ones": replace(scale, distillation={**scale.distillation, PAIR: likewise}),
    }
    return [
        _amortised(study, "ingredients", "Amortised DeepInversion: its ingredients", changed),
        Choice("teaching", "Adaptive DeepInversion: how its student is taught", adaptive, _half_long("adaptive")),
    ]


def _weighing(how: Amortised, **weights: float) -> Amortised:
    return replace(how, objective={**how.objective, TEACHER: replace(how.objective[TEACHER], **weights)})


def _amortised(study: Study, name: str, setting: str, values: dict[str, Amortised]) -> Choice:
    scales = {value: replace(study.scale, amortised=changed) for value, changed in values.items()}
    return Choice(name, setting, scales, _half_long("amortised"))


def _half_long(method: str) -> Callable[[Study], Cell]:
    """A student of the first pair that is taught for half as long as those shown."""
    return lambda other: student_cell(_halved(other), PAIR, method, SEED)


def _dafl_weights() -> dict[str, dict]:
    """DAFL's weights as published for two data sets, at its temperature and at that of our other students."""
    published = GeneratorSettings()
    cifar = {name: getattr(published, name) for name in ("one_hot", "activation", "entropy")}
    mnist = {"one_hot": 1.0, "activation": 0.1, "entropy": 5.0}
    return {
        "CIFAR-10's weights, temperature 1": {**cifar, "temperature": 1.0},
        "CIFAR-10's weights, temperature 20": {**cifar, "temperature": 20.0},
        "MNIST's weights, temperature 20": {**mnist, "temperature": 20.0},
    }


def _halved(study: Study) -> Study:
    """The study with students that are taught for half as many rounds."""
    scale = study.scale
    distillation = {pair: replace(how, rounds=how.rounds // 2) for pair, how in scale.distillation.items()}
    student = {pair: replace(how, rounds=how.rounds // 2) for pair, how in scale.amortised.student.items()}
    return study.with_scale(distillation=distillation, amortised=replace(scale.amortised, student=student))


def continual_choices(study: Study) -> list[Choice]:
    """Table 7: each method's learning rate, with its network, by the accuracy after the last data set is added."""
    settings = study.scale.continual
    network = next(iter(settings.networks))  # Table 7's

    def rates(method: str) -> dict[str, Scale]:
        return {
            f"{lr:g}": replace(study.scale, continual=replace(settings, lr={**settings.lr, method: lr}))
            for lr in (0.05, 0.15, 0.5, 1.5, *BEYOND.get(method, ()))
        }

    def cell(method: str) -> Callable[[Study], Cell]:
        return lambda other: continual_cell(other, network, settings.added[-1:], method, SEED)

    return [
        Choice(f"continual-{method}", f"{words}, continual learning: rate", rates(method), cell(method), "combined")
        for method, words in CONTINUAL_METHODS.items()
    ]


def pruning_choices(study: Study) -> list[Choice]:
    """Table 9: the weight η of latency, by a network at the middle budget."""
    settings = study.scale.compression
    scales = {
        f"{eta:g}": replace(study.scale, compression=replace(settings, eta=eta))
        for eta in (0.01, 0.1, 1.0, 3.0, 10.0, 30.0)
    }
    budget = settings.budgets[len(settings.budgets) // 2]
    pruning = Pruning("latency", budget, "real", hardware_aware=True)
    return [Choice("eta", "Pruning: η", scales, lambda other: tuned_cell(other, pruning, "real", SEED, brief=True))]
