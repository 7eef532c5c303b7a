"""For CI: digits and toy networks, seconds a notebook; its numbers say only that everything runs."""

from dataclasses import replace

from dilib.amortised import AmortisedSettings
from dilib.baselines.dafl import GeneratorSettings
from dilib.baselines.gan import GanSettings
from dilib.compression.pruning import PruningSettings
from dilib.continual.extension import ExtensionSettings
from dilib.distillation import DistillationSettings, PoolSettings, StreamSettings
from dilib.inversion import Objective, Schedule
from dilib.study.scales import settings
from dilib.study.scales.laptop import LITE_CONTINUAL, LITE_IMAGENET
from dilib.study.scales.settings import JUDGE, PAIRS, TEACHERS
from dilib.training import TrainingSettings

SCHEDULE = Schedule(((32, 20),), lr=0.2, decay="cosine", jitter=2, flip=False)
SHORT = replace(SCHEDULE, stages=((32, 10),))


def _taught(rounds: int, updates: int) -> DistillationSettings:
    return DistillationSettings(rounds=rounds, updates=updates, batch_size=50, shift=1, flip=False)


def _on_pool(rounds: int, updates: int, batch_size: int, mixup: float = 0.0) -> PoolSettings:
    return PoolSettings(rounds=rounds, updates=updates, batch_size=batch_size, shift=1, flip=False, mixup=mixup)


def _tiny(first: int, last: int, updates: int) -> Schedule:
    return Schedule(stages=((first, updates), (last, updates)), lr=0.2, decay="cosine", jitter=8, clip=True)


SCALE = settings.Scale(
    name="smoke",
    dataset="digits",
    widths=dict.fromkeys((*TEACHERS, JUDGE), 1 / 16),
    training=dict.fromkeys((*TEACHERS, JUDGE), TrainingSettings(epochs=3, batch_size=100, flip=False)),
    batch_size=50,
    schedule={"vgg11_bn": replace(SCHEDULE, warm_start=0.9, warm_updates=8), "resnet34": SCHEDULE},
    distillation=dict.fromkeys(PAIRS, _taught(2, 6)),
    amortised=settings.Amortised(
        settings=AmortisedSettings(latents=16, width=8),
        batch_size=50,
        schedule=Schedule(((32, 2),), lr=2e-3, jitter=2),
        objective=dict.fromkeys(TEACHERS, Objective(alpha_tv=0.0, alpha_l2=0.0, alpha_f=1.0)),
        warm_up=2,
        student=dict.fromkeys(
            PAIRS, StreamSettings(rounds=2, updates=6, batch_size=50, shift=1, flip=False, batches=3)
        ),
        other_width=settings.OtherWidth(
            1 / 8, StreamSettings(rounds=2, updates=6, batch_size=50, shift=1, flip=False, batches=3)
        ),
    ),
    dafl=GeneratorSettings(latents=100, width=16),
    statistics=settings.Statistics((1, 10), _taught(2, 8)),
    frontier=settings.Frontier((3, 12), (), _taught(2, 4)),
    growth=settings.Growth("resnet18", (1, 2, 4), (32, 48, 64), single=((32, 20),), multi=((16, 2), (32, 1))),
    imagenet=replace(
        LITE_IMAGENET,
        classes=LITE_IMAGENET.classes[:4],
        batch_size=2,
        schedules=(_tiny(64, 128, 2),),
        compared=2,
        gallery=LITE_IMAGENET.gallery[:6],
    ),
    sources=settings.Sources(
        proxy="photographs",
        second_proxy="photographs_grey",
        gan=GanSettings(rounds=2, updates=5, batch_size=16, latents=16, width=8),
        schedule=dict.fromkeys(TEACHERS, SHORT),
    ),
    from_scratch=settings.FromScratch(
        teacher="vgg11_bn",
        images=100,
        fewer=(50,),
        short=_on_pool(1, 5, 50),
        long=_on_pool(2, 5, 50, mixup=1.0),
        rounds=(1,),
    ),
    continual=settings.Continual(
        networks=dict.fromkeys(
            ("resnet18", "vgg11_bn"),
            settings.Addition(
                SHORT,
                ExtensionSettings(updates=10, batch_size=20, images_per_class=5, shift=1, flip=False),
                batch_size=50,
            ),
        ),
        added=("photographs_grey",),
        old=(0, 2, 4, 6, 8),
        binary=TrainingSettings(epochs=1, batch_size=100, lr=0.05, flip=False),
    ),
    continual_imagenet=replace(
        LITE_CONTINUAL,
        size=64,
        networks={
            "efficientnet_lite0": replace(
                LITE_CONTINUAL.networks["efficientnet_lite0"],
                schedule=_tiny(32, 64, 1),
                extension=ExtensionSettings(updates=2, batch_size=4, images_per_class=1),
            )
        },
    ),
    compression=settings.Compression(
        network="resnet18",
        ranking=PruningSettings(filters=24, group=1, batches=1, batch_size=20),
        eta=3.0,
        batch=2,
        steps=3,
        checked=3,
        shares=(0.2,),
        budgets=(0.9, 0.8),
        fractions=(0.1, 0.2),
        images=50,
        adaptive=50,
        alpha_c=10.0,
        tuning=_on_pool(1, 3, 20),
        brief=_on_pool(1, 2, 20),
    ),
    quantization=settings.Quantization("resnet18", (8, 4), 20, 50, _on_pool(1, 2, 20)),
    trials=2,
)
