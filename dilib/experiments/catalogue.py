"""Every cell that the notebooks ask for, by notebook: for whoever makes them without one."""

from collections.abc import Iterator, Sequence

from dilib.experiments import (
    amortisation,
    choices,
    continual_data,
    figure2_competition,
    figure7_coverage,
    frontier,
    growth,
    image_sources,
    imagenet,
    own_network,
    own_network_224,
    own_student_224,
    pruned_networks,
    quantization,
    table1_transfer,
    table4_pruning,
    table6_from_scratch,
    table7_continual,
    table8_statistics,
    teachers,
)
from dilib.study.cells import Cell, Study
from dilib.study.scales.settings import PAIRS

TELLING = ("amortised", "deepinversion", "adaptive", "noise", "deepdream", "dafl")  # methods, the most telling first


def cells(
    study: Study, notebook: str, seed: int = 0, pairs: int = len(PAIRS), added: Sequence[str] = ()
) -> Iterator[Cell]:
    """What a notebook asks for of a seed, what tells most first; nothing where it does not take the study's data.

    `pairs` are how many of Table 1's are asked for; `added` the data sets that Table 7 adds, by default the scale's.
    """
    takes = notebook in ON_IMAGENET if study.dataset == "imagenet" else notebook != "07_imagenet"
    if takes:
        yield from CELLS[notebook](study, seed, pairs, added)


def _teachers(study: Study, seed: int, pairs: int, *_) -> Iterator[Cell]:
    those = {teacher for teacher, _ in PAIRS[:pairs]}
    names = [name for name in study.scale.teachers if name in those or pairs == len(PAIRS)]
    yield from (teachers.teacher_cell(study, name, seed) for name in names)
    yield from (teachers.memory_cell(study, name) for name in names)


def _transfers(study: Study, seed: int, pairs: int, *_) -> Iterator[Cell]:
    for method in TELLING:
        for pair in PAIRS[:pairs]:
            if method == TELLING[0]:
                yield teachers.teacher_cell(study, pair[0], seed)
            yield table1_transfer.student_cell(study, pair, method, seed)
    shown = ("real", "deepinversion", "deepdream", "noise")
    yield from (table1_transfer.recognition_cell(study, PAIRS[0][0], method, seed) for method in shown)
    yield from table1_transfer.noise_cells(study, seed).values()


def _amortised(study: Study, seed: int, *_) -> Iterator[Cell]:
    sizes = study.scale.frontier
    yield frontier.schedule_cell(study, "paper", max((*sizes.updates, *sizes.more_updates)), seed)
    parts = choices.ingredients(study) if study.scale.trials else []
    yield from (choices.trial_cell(study, choice, value) for choice in parts for value in choice.scales)
    yield amortisation.diversity_cell(study, seed)
    if seed == 0 and (other := amortisation.other_width_cell(study)):
        yield other


def _statistics(study: Study, seed: int, *_) -> Iterator[Cell]:
    sources = (*study.scale.statistics.images, table1_transfer.BATCHNORM)
    for method in table8_statistics.COLUMNS:
        yield from (table8_statistics.statistics_cell(study, method, source, seed) for source in sources)


def _competition(study: Study, *_) -> Iterator[Cell]:
    yield from (figure2_competition.competition_cell(study, seed) for seed in range(10))


def _frontier(study: Study, seed: int, *_) -> Iterator[Cell]:
    sizes = study.scale.frontier
    for updates in sizes.updates:
        yield from (frontier.schedule_cell(study, family, updates, seed) for family in frontier.FAMILIES)
    yield from (frontier.schedule_cell(study, "paper", updates, seed) for updates in sizes.more_updates)
    yield from (frontier.step_cell(study, step, seed) for step in frontier.STEPS)


def _growth(study: Study, seed: int, *_) -> Iterator[Cell]:
    yield growth.growth_cell(study)
    for stages in (study.scale.growth.single, study.scale.growth.multi):
        yield from (growth.resolution_cell(study, growth.shortened(stages, share), seed) for share in growth.SHARES)


def _imagenet(study: Study, seed: int, *_) -> Iterator[Cell]:
    variants = imagenet.variants(study.scale.imagenet)
    yield from (imagenet.variant_cell(study, name, seed) for name in variants)
    if seed == 0:  # its parts have seeds of their own
        yield from imagenet.gallery_cells(study)
    if imagenet.has_real(study):
        yield imagenet.real_cell(study)


def _from_scratch(study: Study, seed: int, *_) -> Iterator[Cell]:
    settings = study.scale.from_scratch
    whole = settings.teacher, settings.images, seed
    yield image_sources.pool_cell(study, *whole)
    yield image_sources.pool_cell(study, *whole, source="amortised")
    yield image_sources.gan_cell(study, *whole)
    tasks = [(source, settings.images, settings.short) for source in image_sources.SOURCES]
    tasks += [(source, settings.images, settings.long) for source in ("real", "deepinversion")]
    tasks += [("deepinversion", count, settings.short) for count in settings.fewer]
    tasks += [("deepinversion", settings.images, table6_from_scratch.cut_short(study, n)) for n in settings.rounds]
    yield from (table6_from_scratch.student_cell(study, *task, seed) for task in tasks)


def _continual(study: Study, seed: int, pairs: int, added: Sequence[str]) -> Iterator[Cell]:
    settings, half = continual_data.continual_settings(study), (continual_data.HALF,)
    (network, *others), chains = settings.networks, list(table7_continual.chains(study, added).values())
    tasks = [(network, chain) for chain in [*chains, *([half] if settings.old else [])]]
    tasks = [(*task, method) for task in tasks for method in settings.methods]
    briefly = [method for method in settings.methods if method != "deepdream"]  # Table 11
    tasks += [(other, chain, each) for other in others for chain in chains if len(chain) == 1 for each in briefly]
    dreams = dict.fromkeys((each, m, chain == half) for each, chain, m in tasks if m in table7_continual.DREAMING)
    yield from (table7_continual.dreams_cell(study, each, m, seed, halved) for each, m, halved in dreams)
    yield from (table7_continual.continual_cell(study, *task, seed) for task in tasks)


def _pruning(study: Study, seed: int, *_) -> Iterator[Cell]:
    yield pruned_networks.latency_cell(study)
    rankings = [pruning for aware in (False, True) for pruning in table4_pruning.table9(study, aware)]
    by_loss = [pruning for loss in ("ce", "kl") for pruning in table4_pruning.table10(study, loss)]
    together = table4_pruning.timed_together(study)
    for pruning in dict.fromkeys([*table4_pruning.table4(study), *together, *by_loss]):
        yield pruned_networks.pruned_cell(study, pruning, seed)
    for pruning in table4_pruning.table4(study):
        yield from (table4_pruning.tuned_cell(study, pruning, source, seed) for source in table4_pruning.TUNING_SOURCES)
    for pruning in table4_pruning.table5(study).values():
        yield table4_pruning.tuned_cell(study, pruning, table4_pruning.tuned_by(pruning), seed)
    yield from (table4_pruning.tuned_cell(study, pruning, "real", seed, brief=True) for pruning in rankings)
    yield pruned_networks.speeds_cell(study, together, seed)
    yield figure7_coverage.coverage_cell(study, seed)


def _quantized(study: Study, seed: int, *_) -> Iterator[Cell]:
    bits, sources = study.scale.quantization.bits, quantization.available(study)
    tasks = [(source, bit, False) for source in sources for bit in bits] + [(each, min(bits), True) for each in sources]
    yield from (quantization.quantized_cell(study, *task, seed) for task in tasks)


def _own_network(study: Study, seed: int, *_) -> Iterator[Cell]:
    yield from own_network.cells(study, seed)
    yield from own_network_224.cells(study, seed)
    yield from own_student_224.cells(study, seed)


def _choices(study: Study, seed: int, *_) -> Iterator[Cell]:
    for choice in choices.every_choice(study):
        yield from (choices.trial_cell(study, choice, value) for value in choice.scales)
    yield from (choices.held_out_cell(study, method, seed) for method in table1_transfer.METHODS)


CELLS = {
    "01_teachers": _teachers,
    "02_table1_transfer": _transfers,
    "14_amortised": _amortised,
    "03_table8_statistics": _statistics,
    "05_frontier": _frontier,
    "08_table6_from_scratch": _from_scratch,
    "09_table7_continual": _continual,
    "10_table4_pruning": _pruning,
    "11_quantization": _quantized,
    "13_choices": _choices,
    "04_figure2_competition": _competition,
    "06_growth": _growth,
    "07_imagenet": _imagenet,  # which takes no other data set
    "12_your_own_network": _own_network,
}
ON_IMAGENET = (
    "07_imagenet",
    "08_table6_from_scratch",
    "09_table7_continual",
    "10_table4_pruning",
    "12_your_own_network",
)
