"""The default of `make reproduce`: two CPU cores and a few hours, with networks a quarter or an eighth as wide."""

from dataclasses import replace

from dilib.baselines.dafl import GeneratorSettings
from dilib.baselines.gan import GanSettings
from dilib.compression.pruning import PruningSettings
from dilib.continual.extension import ExtensionSettings
from dilib.distillation import DistillationSettings, PoolSettings, StreamSettings
from dilib.inversion import Objective, Schedule
from dilib.study.scales import settings
from dilib.study.scales.settings import FOLDED_LR, JUDGE, PAIRS, TEACHERS
from dilib.training import TrainingSettings

# ResNet-34's images need more updates than a warm start leaves them.
SCHEDULE = Schedule(stages=((32, 120),), lr=0.25, decay="cosine", jitter=4, clip=True)
WARM = replace(SCHEDULE, stages=((32, 200),), warm_start=0.9, warm_updates=40)


def _taught(rounds: int, updates: int) -> DistillationSettings:
    return DistillationSettings(
        rounds=rounds, updates=updates, batch_size=128, lr=0.2, decay="linear", temperature=20.0, shift=4
    )


def _streamed(rounds: int, updates: int) -> StreamSettings:
    return StreamSettings(
        rounds=rounds, updates=updates, batch_size=128, lr=0.2, decay="linear", temperature=20.0, shift=4, batches=10
    )


def _on_pool(rounds: int, updates: int, mixup: float = 0.0) -> PoolSettings:
    return PoolSettings(rounds, updates, batch_size=128, lr=0.2, decay="linear", shift=4, mixup=mixup)


def _tuning(rounds: int, updates: int) -> PoolSettings:
    return PoolSettings(rounds, updates, batch_size=128, lr=0.05, decay="linear", temperature=5.0, shift=4)


# Goldfish, balloon, scorpion, school bus, flamingo, acoustic guitar, tiger, fire engine, bald eagle, tennis ball,
# macaw, sports car; ostrich, traffic light, loggerhead, zebra, peacock, giant panda, hummingbird, tabby, king penguin,
# golden retriever, bee, monarch.
CLASSES = (1, 417, 71, 779, 130, 402, 292, 555, 22, 852, 88, 817)
CLASSES += (9, 920, 33, 340, 84, 388, 94, 281, 145, 207, 309, 323)
# Brown bear, quill, trolleybus, cheeseburger, cup, volcano, daisy, cardoon: the paper's Fig. 6; catamaran: its Fig. 5.
FIGURES = (294, 749, 874, 933, 968, 980, 985, 946, 484)
TRIED = (13, 107, 235, 386, 430, 511, 604, 671, 751, 879, 945, 973)  # by which settings for pictures were chosen
GALLERY = tuple(each for each in dict.fromkeys((*CLASSES, *FIGURES, *range(5, 1000, 13))) if each not in TRIED)[:108]
LITE_IMAGENET = settings.ImageNet(
    teacher="efficientnet_lite0",
    judges=("efficientnet_lite1", "efficientnet_lite2"),
    scorer="efficientnet_lite2",
    classes=CLASSES,
    batch_size=12,
    objective=Objective(alpha_tv=0.04, alpha_l2=0.0, alpha_f=1e-3, alpha_c=0.0),
    first_layer=10.0,
    schedules=(Schedule(stages=((56, 400), (112, 300), (224, 90)), lr=0.2, decay="cosine", jitter=30, clip=True),),
    compared=12,
    deepdream_tv=0.04,
    gallery=GALLERY,
)
LITE_CONTINUAL = settings.Continual(
    networks={
        "efficientnet_lite0": settings.Addition(
            Schedule(stages=((80, 120), (160, 40)), lr=0.2, decay="cosine", jitter=20, clip=True),
            ExtensionSettings(
                updates=300, batch_size=32, images_per_class=1, lr=3.0, shift=8, trained=("_conv_head", "_fc")
            ),
            Objective(alpha_tv=0.1, alpha_l2=0.0, alpha_f=3e-3, alpha_c=0.0),
            batch_size=20,
        )
    },
    added=("flowers102",),
    roles=("second",),
    size=160,
    binary=TrainingSettings(epochs=2, batch_size=50, lr=0.002, shift=8),
    methods=("lwf_mc", "deepinversion", "oracle_distill"),
)

SCALE = settings.Scale(
    name="laptop",
    dataset="fashion_mnist",
    widths={"vgg11_bn": 1 / 4, "resnet18": 1 / 8, "resnet34": 1 / 8, JUDGE: 1.0},
    training=dict.fromkeys((*TEACHERS, JUDGE), TrainingSettings(epochs=4)),
    batch_size=256,
    # VGG-11-BN's are chosen (13_choices). R_feature sums over layers, of which the ResNets have more.
    objective={
        "vgg11_bn": Objective(alpha_tv=3e-2, alpha_f=3.0, alpha_c=100.0),
        "resnet34": Objective(alpha_tv=1e-2, alpha_f=0.5, alpha_c=30.0),
        "resnet18": Objective(alpha_tv=1e-2, alpha_f=0.5, alpha_c=30.0),
    },
    schedule={"vgg11_bn": WARM, "resnet34": SCHEDULE},
    distillation=dict(zip(PAIRS, (_taught(14, 100), _taught(14, 110), _taught(6, 180)), strict=True)),
    amortised=settings.Amortised(
        student=dict(zip(PAIRS, (_streamed(8, 140), _streamed(9, 140), _streamed(12, 140)), strict=True)),
    ),
    dafl=GeneratorSettings(width=64, lr=2e-3, temperature=20.0),
    statistics=settings.Statistics((1, 10, 100, 1000), _taught(6, 100)),
    frontier=settings.Frontier((20, 40, 80), (160,), _taught(6, 100)),
    growth=settings.Growth("resnet50", (2, 4, 8, 16), (96, 128, 160, 192, 224), ((32, 1200),), ((16, 120), (32, 60))),
    imagenet=LITE_IMAGENET,
    sources=settings.Sources(
        proxy="photographs",
        second_proxy="digits",
        gan=GanSettings(rounds=12, updates=250),
        schedule=dict.fromkeys(TEACHERS, SCHEDULE) | {"vgg11_bn": replace(SCHEDULE, stages=((32, 250),))},
    ),
    from_scratch=settings.FromScratch(
        teacher="vgg11_bn",
        images=4000,
        fewer=(500, 1500),
        short=_on_pool(2, 500),
        long=_on_pool(10, 400, mixup=1.0),
        rounds=(2, 5),
    ),
    continual=settings.Continual(
        networks=dict.fromkeys(
            ("resnet18", "vgg11_bn"),
            settings.Addition(
                SCHEDULE, ExtensionSettings(updates=250, images_per_class=64, lr=0.5, decay_at=(0.6, 0.8))
            ),
        ),
        added=("digits", "photographs_grey"),
        old=(0, 1, 2, 5, 8),  # top, trouser, pullover, sandal, bag; new: dress, coat, shirt, sneaker, ankle boot
        binary=TrainingSettings(epochs=1, lr=0.05),
        deepdream_tv=1e-4,
        lr={
            "lwf_mc": 0.15,
            "deepdream": 0.05,
            "deepinversion": 0.5,
            "amortised": 0.5,
            "oracle_distill": 0.15,
            "oracle_classify": 0.15,
        },
    ),
    continual_imagenet=LITE_CONTINUAL,
    compression=settings.Compression(
        network="resnet18",
        ranking=PruningSettings(filters=16, group=2, batches=4, batch_size=128),
        eta=10.0,
        batch=64,
        steps=33,
        checked=30,
        shares=(0.2, 0.5),
        budgets=(0.95, 0.9, 0.8, 0.7, 0.6),
        fractions=(0.1, 0.2, 0.3, 0.4, 0.5),
        images=1024,
        adaptive=256,
        alpha_c=30.0,
        tuning=_tuning(2, 130),
        brief=_tuning(1, 130),
    ),
    quantization=settings.Quantization("resnet18", (8, 4, 3), 256, 1024, replace(_tuning(1, 130), lr=FOLDED_LR)),
    deepdream_tv=1e-4,
    adaptive_after=2,
)

EASY = ("digits", "fashion_mnist")  # small things on black ground
# Of 1,500 images an epoch is soon over, and mirrored digits are none.
DIGITS = replace(
    SCALE, training=dict.fromkeys((*TEACHERS, JUDGE), TrainingSettings(epochs=80, batch_size=128, lr=0.1, flip=False))
)
# Natural images take teachers three times as long and students more, and more varied, images: each batch is made from
# noise. Where a network takes 16×16 images (VGG-11-BN halves 32 five times), they begin so: in large shapes first.
# The paper's weight of competition leaves images that the teacher still names; three times that serves amortised ones
# better than ten times, and a generator that learns five times as fast better still.
NATURAL = replace(
    SCALE,
    training=dict.fromkeys((*TEACHERS, JUDGE), TrainingSettings(epochs=12)),
    objective={
        "vgg11_bn": Objective(alpha_tv=1e-2, alpha_f=1.0),
        "resnet34": Objective(alpha_tv=1e-2, alpha_f=0.5),
        "resnet18": Objective(alpha_tv=1e-2, alpha_f=0.5),
    },
    schedule={
        "vgg11_bn": replace(SCHEDULE, stages=((32, 80),)),
        "resnet34": replace(SCHEDULE, stages=((16, 120), (32, 60))),
    },
    distillation=dict(zip(PAIRS, (_taught(20, 100), _taught(20, 80), _taught(14, 120)), strict=True)),
    amortised=replace(
        SCALE.amortised,
        schedule=replace(SCALE.amortised.schedule, lr=1e-2),
        objective={name: replace(how, alpha_c=30.0) for name, how in SCALE.amortised.objective.items()},
        student=dict(zip(PAIRS, (_streamed(18, 160), _streamed(15, 160), _streamed(18, 160)), strict=True)),
        other_width=settings.OtherWidth(0.5, _streamed(24, 160)),
    ),
    continual=replace(SCALE.continual, added=("digits", "photographs"), old=(0, 1, 3, 5, 8)),
    own_networks=(
        settings.OwnNetwork("vgg11_bn", "vgg11_bn"),
        # As many as a quarter of an hour was enough for with VGG-11-BN; ResNet-20 is three times slower.
        settings.OwnNetwork("resnet20", "resnet20", updates=2250),
        settings.OwnNetwork("resnet20", "vgg11_bn", updates=2250),
        settings.OwnNetwork("resnet34", "resnet18", updates=2250),  # no setting of the calls was chosen on these
    ),
)
