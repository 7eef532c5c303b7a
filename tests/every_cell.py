"""Every cell that the notebooks ask for."""

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
    pruned_networks,
    quantization,
    table1_transfer,
    table4_pruning,
    table6_from_scratch,
    table7_continual,
    table8_statistics,
    teachers,
)
from dilib.study.scales.settings import PAIRS


def every_cell(study, added=()):
    """The cells of a study, seed 0 of each kind."""
    if study.dataset == "imagenet":
        yield imagenet.real_cell(study)
        yield from (imagenet.variant_cell(study, name) for name in imagenet.VARIANTS)
        yield from _continual(study, added)
        return
    for choice in (*choices.every_choice(study), *choices.ingredients(study)):
        yield from (choices.trial_cell(study, choice, value) for value in choice.scales)
    yield from (choices.held_out_cell(study, method) for method in table1_transfer.METHODS)
    for name in study.scale.teachers:
        yield teachers.teacher_cell(study, name)
        yield teachers.memory_cell(study, name)
    yield from (table1_transfer.student_cell(study, pair, m) for pair in PAIRS for m in table1_transfer.METHODS)
    yield from table1_transfer.noise_cells(study).values()
    shown = ("real", "deepinversion", "deepdream", "noise")
    yield from (table1_transfer.recognition_cell(study, PAIRS[0][0], method) for method in shown)
    yield amortisation.diversity_cell(study)
    if study.dataset == "cifar10":
        yield from (own_network.distilled_cell(study, each) for each in study.scale.own_networks)
    sources = (*study.scale.statistics.images, table1_transfer.BATCHNORM)
    yield from (table8_statistics.statistics_cell(study, m, s) for m in table8_statistics.COLUMNS for s in sources)
    yield from (figure2_competition.competition_cell(study, seed) for seed in range(10))
    sizes = study.scale.frontier
    yield from (frontier.schedule_cell(study, name, n) for name in frontier.FAMILIES for n in sizes.updates)
    yield from (frontier.schedule_cell(study, "paper", updates) for updates in sizes.more_updates)
    yield from (frontier.step_cell(study, step) for step in frontier.STEPS)
    yield growth.growth_cell(study)
    schemes = (study.scale.growth.single, study.scale.growth.multi)
    shortened = [growth.shortened(stages, share) for stages in schemes for share in growth.SHARES]
    yield from (growth.resolution_cell(study, stages) for stages in shortened)
    yield from _from_scratch(study)
    yield from _pruned(study)
    bits = study.scale.quantization.bits
    every = [(source, bit, False) for source in quantization.available(study) for bit in bits]
    every += [(source, min(bits), True) for source in quantization.available(study)]
    yield from (quantization.quantized_cell(study, *task) for task in every)
    yield from _continual(study, added)


def _from_scratch(study):
    settings = study.scale.from_scratch
    yield image_sources.pool_cell(study, settings.teacher, settings.images)
    yield image_sources.pool_cell(study, settings.teacher, settings.images, source="amortised")
    yield image_sources.gan_cell(study, settings.teacher, settings.images)
    tasks = [(source, settings.images, settings.short) for source in image_sources.SOURCES]
    tasks += [(source, settings.images, settings.long) for source in ("real", "deepinversion")]
    tasks += [("deepinversion", count, settings.short) for count in settings.fewer]
    tasks += [("deepinversion", settings.images, table6_from_scratch.cut_short(study, n)) for n in settings.rounds]
    yield from (table6_from_scratch.student_cell(study, *task) for task in tasks)


def _pruned(study):
    yield pruned_networks.latency_cell(study)
    rankings = [pruning for aware in (False, True) for pruning in table4_pruning.table9(study, aware)]
    by_loss = [pruning for loss in ("ce", "kl") for pruning in table4_pruning.table10(study, loss)]
    together = table4_pruning.timed_together(study)
    for pruning in dict.fromkeys([*table4_pruning.table4(study), *together, *by_loss]):
        yield pruned_networks.pruned_cell(study, pruning)
    for pruning in table4_pruning.table4(study):
        yield from (table4_pruning.tuned_cell(study, pruning, source) for source in table4_pruning.TUNING_SOURCES)
    for pruning in table4_pruning.table5(study).values():
        yield table4_pruning.tuned_cell(study, pruning, table4_pruning.tuned_by(pruning))
    yield from (table4_pruning.tuned_cell(study, pruning, "real", brief=True) for pruning in rankings)
    yield pruned_networks.speeds_cell(study, together)
    yield figure7_coverage.coverage_cell(study)


def _continual(study, added):
    settings = continual_data.continual_settings(study)
    chains = [*table7_continual.chains(study, added).values(), *([(continual_data.HALF,)] if settings.old else [])]
    for network in settings.networks:
        for method in settings.methods:
            yield from (table7_continual.continual_cell(study, network, chain, method) for chain in chains)
            if method in table7_continual.DREAMING:
                yield table7_continual.dreams_cell(study, network, method)
                yield table7_continual.dreams_cell(study, network, method, halved=True)
