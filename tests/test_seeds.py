"""Each seed has teachers of its own: every experiment's cell of seed 1 starts from networks of seed 1 alone."""

import torch

from dilib.experiments import (
    frontier,
    growth,
    image_sources,
    pruned_networks,
    quantization,
    table1_transfer,
    table4_pruning,
    table6_from_scratch,
    table7_continual,
    table8_statistics,
)
from dilib.experiments.teachers import load_teacher
from dilib.study.cells import Study
from dilib.study.scales.settings import PAIRS


def test_every_experiment_starts_from_the_teachers_of_its_seed(tmp_path):
    study = Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts", torch.float32)
    scratch, pruning = study.scale.from_scratch, table4_pruning.table4(study)[0]
    cells = [
        table1_transfer.student_cell(study, PAIRS[2], "deepinversion", 1),
        table1_transfer.student_cell(study, PAIRS[0], "dafl", 1),
        table1_transfer.recognition_cell(study, PAIRS[0][0], "noise", 1),
        table8_statistics.statistics_cell(study, "adaptive", 1, 1),
        frontier.schedule_cell(study, "paper", 3, 1),
        frontier.step_cell(study, "ours", 1),
        growth.resolution_cell(study, study.scale.growth.multi, 1),
        image_sources.gan_cell(study, scratch.teacher, scratch.images, 1),
        table6_from_scratch.student_cell(study, "deepinversion", scratch.images, scratch.short, 1),
        quantization.quantized_cell(study, "deepinversion", 8, False, 1),
        pruned_networks.pruned_cell(study, pruning, 1),
        table4_pruning.tuned_cell(study, pruning, "adaptive", 1),
        pruned_networks.speeds_cell(study, [pruning], 1),
        table7_continual.continual_cell(study, "resnet18", study.scale.continual.added, "deepinversion", 1),
        table7_continual.continual_cell(study, "vgg11_bn", (table7_continual.HALF,), "lwf_mc", 1),
    ]
    study.run(cells, jobs=1)
    trained = {path.name.split(".")[0] for path in tmp_path.glob("artifacts/**/teachers/*.safetensors")}
    assert trained == {f"{name}-seed1" for name in ("vgg11_bn", "resnet18", "resnet34", "mlp", "vgg11_bn-binary")}
    first, second = (next(load_teacher(study, "vgg11_bn", seed).network.parameters()) for seed in (1, 2))
    assert not torch.equal(first, second)
