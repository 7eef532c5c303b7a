"""As published; what differs, and why, is in docs/settings.md."""

from dataclasses import replace

from dilib.baselines.dafl import GeneratorSettings
from dilib.baselines.gan import GanSettings
from dilib.compression.pruning import PruningSettings
from dilib.continual.extension import CONTINUAL_METHODS, ExtensionSettings
from dilib.distillation import DistillationSettings, PoolSettings, StreamSettings
from dilib.inversion import Objective, Schedule
from dilib.study.scales import settings
from dilib.study.scales.settings import FOLDED_LR, JUDGE, PAIRS, TEACHERS
from dilib.training import TrainingSettings

SCHEDULE = Schedule(((32, 2000),), lr=0.05, jitter=4)
IMAGENET = Schedule(((224, 2000),), lr=0.05, jitter=29)
FROM_SCRATCH = PoolSettings(rounds=90, updates=137, batch_size=1024, lr=1.024, decay="linear", shift=4)
TUNING = PoolSettings(rounds=30, updates=645, lr=0.01, shift=4, temperature=10.0)


def by_pair(rounds: int, updates: int) -> dict[tuple[str, str], DistillationSettings]:
    """How each pair's student is taught: from ResNet-34, as in the paper, on half as many batches."""
    halved = DistillationSettings(rounds=rounds // 2, updates=2 * updates)
    whole = DistillationSettings(rounds=rounds, updates=updates)
    return {pair: halved if pair[0] == "resnet34" else whole for pair in PAIRS}


SCALE = settings.Scale(
    name="paper",
    dataset="cifar10",
    widths=dict.fromkeys((*TEACHERS, JUDGE), 1.0),
    training=dict.fromkeys((*TEACHERS, JUDGE), TrainingSettings(epochs=200, batch_size=128, lr=0.1)),
    batch_size=256,
    schedule=dict.fromkeys(TEACHERS, SCHEDULE),
    distillation=by_pair(975, 50),  # 250 epochs of 195 updates
    amortised=settings.Amortised(
        student=dict.fromkeys(PAIRS, StreamSettings(rounds=100, updates=490, lr=0.1, decay="linear", batches=10)),
    ),
    dafl=GeneratorSettings(),
    statistics=settings.Statistics((1, 10, 100, 1000), DistillationSettings(rounds=975, updates=50)),
    frontier=settings.Frontier((250, 500, 1000, 2000), (), DistillationSettings(rounds=200, updates=50)),
    growth=settings.Growth(
        "resnet50", (16, 32, 64, 128), (96, 128, 160, 192, 224), ((32, 20_000),), ((16, 2000), (32, 1000))
    ),
    imagenet=settings.ImageNet(
        teacher="resnet50",
        judges=("resnet18", "inception_v3", "mobilenet_v2", "vgg11"),
        scorer="inception_v3",
        classes=tuple(range(1000)),
        batch_size=152,
        objective=Objective(alpha_tv=1e-4, alpha_l2=1e-2, alpha_f=1e-2, alpha_c=0.0),
        first_layer=1.0,
        schedules=(replace(IMAGENET, stages=((224, 20_000),)),),
        transfer=(
            replace(IMAGENET, stages=((112, 2000), (224, 1000)), lr=0.2, clip=True),
            replace(IMAGENET, stages=((224, 2000),), lr=0.2, clip=True),
        ),
        compared=100,
    ),
    sources=settings.Sources(
        proxy="cifar100",
        second_proxy="fashion_mnist",
        gan=GanSettings(rounds=100, updates=500, width=64),
        schedule=dict.fromkeys(TEACHERS, replace(SCHEDULE, clip=True)),
    ),
    from_scratch=settings.FromScratch(
        teacher="resnet34",
        images=140_000,
        fewer=(10_000, 25_000, 50_000),
        short=FROM_SCRATCH,
        long=replace(FROM_SCRATCH, rounds=250, mixup=0.2),
        rounds=(90, 170),
    ),
    continual=settings.Continual(
        networks=dict.fromkeys(
            ("resnet18", "vgg11_bn"), settings.Addition(replace(SCHEDULE, clip=True), ExtensionSettings())
        ),
        added=("cub200", "flowers102"),
        old=(0, 1, 3, 5, 8),  # airplane, automobile, cat, dog, ship; new: bird, deer, frog, horse, truck
        binary=TrainingSettings(epochs=2, lr=0.05),
    ),
    continual_imagenet=settings.Continual(
        networks={
            "resnet18": settings.Addition(
                Schedule(((224, 10_000),), lr=0.2, decay="step", jitter=29),
                ExtensionSettings(updates=20_000, batch_size=128, images_per_class=250, shift=16),
                Objective(alpha_tv=3e-5, alpha_tv_l1=0.1, alpha_l2=0.0, alpha_f=0.1, alpha_c=0.0),
                batch_size=100,
            ),
            "vgg16_bn": settings.Addition(
                Schedule(((224, 10_000),), lr=0.5, decay="step", jitter=29),
                ExtensionSettings(updates=20_000, batch_size=64, images_per_class=64, shift=16),
                Objective(alpha_tv=6e-5, alpha_tv_l1=0.2, alpha_l2=0.0, alpha_f=3e-2, alpha_c=0.0),
                batch_size=100,
            ),
        },
        added=("cub200", "flowers102"),
        size=224,
        methods=tuple(method for method in CONTINUAL_METHODS if method != "amortised"),
        binary=TrainingSettings(epochs=1, lr=0.01, shift=16),
    ),
    compression=settings.Compression(
        network="resnet34",
        ranking=PruningSettings(),
        eta=10.0,
        batch=1,
        steps=33,
        checked=30,
        shares=(0.2, 0.5),
        budgets=(0.97, 0.87, 0.82, 0.74, 0.68),
        fractions=(0.1, 0.2, 0.3, 0.4, 0.5),
        images=165_000,
        adaptive=25_000,
        alpha_c=10.0,
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
