"""The paper's networks on CIFAR-10 with fewer batches of fewer, decaying updates: for one GPU, an hour a table."""

from dataclasses import replace

from dilib.distillation import DistillationSettings, PoolSettings
from dilib.inversion import Schedule
from dilib.study.scales import paper
from dilib.study.scales.settings import JUDGE, TEACHERS, Frontier, Growth, Statistics
from dilib.training import TrainingSettings

PAPER = paper.SCALE
SCHEDULE = Schedule(((32, 500),), lr=0.1, decay="cosine", jitter=2)
FROM_SCRATCH = PoolSettings(rounds=30, updates=195, shift=4)
TUNING = PoolSettings(rounds=10, updates=200, lr=0.05, decay="linear", shift=4, temperature=5.0)

SCALE = replace(
    PAPER,
    name="gpu",
    training=dict.fromkeys((*TEACHERS, JUDGE), TrainingSettings(epochs=30)),
    schedule=dict.fromkeys(TEACHERS, SCHEDULE),
    distillation=paper.by_pair(200, 100),
    statistics=Statistics((1, 10, 100, 1000), DistillationSettings(rounds=200, updates=100)),
    frontier=Frontier((62, 125, 250, 500), (1000, 2000), DistillationSettings(rounds=50, updates=100)),
    growth=Growth("resnet50", (16, 32, 64, 128), (96, 128, 160, 192, 224), ((32, 2000),), ((16, 200), (32, 100))),
    sources=replace(PAPER.sources, schedule=dict.fromkeys(TEACHERS, SCHEDULE)),
    from_scratch=replace(
        PAPER.from_scratch,
        images=50_000,
        short=FROM_SCRATCH,
        long=replace(FROM_SCRATCH, rounds=80, mixup=0.2),
        rounds=(30, 55),
    ),
    compression=replace(
        PAPER.compression, images=20_000, adaptive=5_000, tuning=TUNING, brief=replace(TUNING, rounds=5)
    ),
)
