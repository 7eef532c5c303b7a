"""As published, as far as the text says."""

from dataclasses import replace

from dilib.baselines.dafl import GeneratorSettings
from dilib.baselines.gan import GanSettings
from dilib.compression.pruning import PruningSettings
from dilib.continual.extension import ExtensionSettings
from dilib.distillation import DistillationSettings, PoolSettings
from dilib.inversion import Objective, Schedule
from dilib.study.scales import settings
from dilib.study.scales.settings import FOLDED_LR, PAIRS, TEACHERS
from dilib.training import TrainingSettings

SCHEDULE = Schedule(((32, 2000),), lr=0.05, jitter=4)
TUNING = PoolSettings(rounds=30, updates=645, lr=0.01, shift=4, temperature=10.0)


def by_pair(rounds: int, updates: int) -> dict[tuple[str, str], DistillationSettings]:
    """How each pair's student is taught: from ResNet-34, as in the paper, on half as many batches."""
    halved = DistillationSettings(rounds=rounds // 2, updates=2 * updates)
    whole = DistillationSettings(rounds=rounds, updates=updates)
    return {pair: halved if pair[0] == "resnet34" else whole for pair in PAIRS}


SCALE = settings.Scale(
    name="paper",
    dataset="cifar10",
    widths=dict.fromkeys(TEACHERS, 1.0),
    training=dict.fromkeys(TEACHERS, TrainingSettings(epochs=200, batch_size=128, lr=0.1)),
    batch_size=256,
    schedule=dict.fromkeys(TEACHERS, SCHEDULE),
    distillation=by_pair(1000, 49),  # 250 epochs of 195 updates, with 4 new batches an epoch
    dafl=GeneratorSettings(student=DistillationSettings(rounds=250, updates=195)),
    statistics=settings.Statistics((1, 10, 100, 1000), DistillationSettings(rounds=1000, updates=49)),
    frontier=settings.Frontier((250, 500, 1000, 2000), (), DistillationSettings(rounds=200, updates=49)),
    growth=settings.Growth(
        "resnet50", (16, 32, 64, 128), (96, 128, 160, 192, 224), ((32, 20_000),), ((16, 2000), (32, 1000))
    ),
    imagenet=settings.ImageNet(
        teacher="resnet50",
        judges=("resnet18", "inception_v3", "mobilenet_v2", "vgg11"),
        scorer="inception_v3",
        classes=tuple(range(1000)),
        batch_size=100,
        objective=Objective(alpha_tv=1e-4, alpha_l2=0.0, alpha_f=1e-2, alpha_c=0.0),
        first_layer=10.0,
        schedules=(Schedule(stages=((112, 2000), (224, 1000)), lr=0.2, decay="cosine", jitter=30, clip=True),),
        compared=100,
    ),
    sources=settings.Sources(
        proxy="cifar100",
        gan=GanSettings(rounds=100, updates=500, width=64),
        schedule=dict.fromkeys(TEACHERS, replace(SCHEDULE, clip=True)),
    ),
    from_scratch=settings.FromScratch(
        teacher="resnet34",
        images=50_000,
        fewer=(5_000, 10_000, 25_000),
        short=PoolSettings(rounds=90, updates=195, lr=0.1, shift=4),
        long=PoolSettings(rounds=250, updates=195, lr=0.1, shift=4, mixup=0.2),
        rounds=(90, 170),
    ),
    continual=settings.Continual(
        networks=("resnet34", "vgg11_bn"),
        added=("cub200", "flowers102"),
        old=(0, 1, 3, 5, 8),  # airplane, automobile, cat, dog, ship; new: bird, deer, frog, horse, truck
        schedule=replace(SCHEDULE, clip=True),
        extension=ExtensionSettings(),
        binary=TrainingSettings(epochs=2, lr=0.05),
    ),
    continual_imagenet=settings.Continual(
        networks=("resnet18", "vgg16_bn"),
        added=("cub200", "flowers102"),
        size=224,
        batch_size=100,
        schedule=Schedule(stages=((224, 10_000),), lr=0.2, decay="cosine", jitter=30, clip=True),
        extension=ExtensionSettings(updates=20_000, shift=16),
        binary=TrainingSettings(epochs=1, lr=0.01, shift=16),
    ),
    compression=settings.Compression(
        network="resnet34",
        ranking=PruningSettings(),
        eta=3.0,
        batch=1,
        steps=33,
        checked=30,
        shares=(0.2, 0.5),
        budgets=(0.97, 0.87, 0.82, 0.74, 0.68),
        fractions=(0.1, 0.2, 0.3, 0.4, 0.5),
        images=165_000,
        adaptive=25_000,
        alpha_c=0.2,
        tuning=TUNING,
        brief=replace(TUNING, rounds=15, decay_at=(2 / 3,)),
    ),
    quantization=settings.Quantization(
        "resnet34",
        (8, 4, 3),
        256,
        20_000,
        PoolSettings(rounds=5, updates=200, lr=FOLDED_LR, decay="linear", shift=4, temperature=5.0),
    ),
)
