"""Table 1 with the paper's networks on CIFAR-10: meant for a column in a long night on two CPU cores, or for a GPU."""

from dataclasses import replace

from dilib.distillation import DistillationSettings, StreamSettings
from dilib.inversion import Objective, Schedule
from dilib.study.scales import paper
from dilib.study.scales.settings import JUDGE, PAIRS, TEACHERS, Frontier, Statistics
from dilib.training import TrainingSettings

PAPER = paper.SCALE
SCHEDULE = Schedule(((32, 150),), lr=0.1, decay="cosine", jitter=4)

SCALE = replace(
    PAPER,
    name="overnight",
    notebooks=("01_teachers", "02_table1_transfer", "03_table8_statistics", "14_amortised", "12_your_own_network"),
    # VGG-11-BN, whose epochs are short, learns more slowly.
    training=dict.fromkeys((*TEACHERS, JUDGE), TrainingSettings(epochs=50, shift=4))
    | {"vgg11_bn": TrainingSettings(epochs=100, shift=4)},
    schedule=dict.fromkeys(TEACHERS, SCHEDULE),
    distillation=paper.by_pair(30, 100),
    amortised=replace(
        PAPER.amortised,
        # With more competition the teacher does not name most of the images as meant.
        objective=dict.fromkeys(TEACHERS, Objective(alpha_tv=0.0, alpha_l2=0.0, alpha_f=1.0, alpha_c=10.0)),
        student=dict.fromkeys(
            PAIRS,
            StreamSettings(
                rounds=36, updates=160, batch_size=128, lr=0.2, decay="linear", temperature=20.0, shift=4, batches=10
            ),
        ),
    ),
    statistics=Statistics((1, 100), DistillationSettings(rounds=20, updates=100)),
    frontier=Frontier((150, 300), (), DistillationSettings(rounds=20, updates=100)),
    student_224=True,
    trials=0,
)
