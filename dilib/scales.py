"""How large each scale is. One name picks all sizes; nothing else differs between scales."""

from dataclasses import dataclass, field, replace

from dilib.distillation import DistillationSettings, PoolSettings
from dilib.extension import METHODS, ExtensionSettings
from dilib.gan import GanSettings
from dilib.generator import GeneratorSettings
from dilib.inversion import Objective, Schedule
from dilib.pruning import PruningSettings
from dilib.training import TrainingSettings

PAIRS = (("vgg11_bn", "vgg11_bn"), ("vgg11_bn", "resnet18"), ("resnet34", "resnet18"))  # teacher, student: Table 1

TEACHERS = ("vgg11_bn", "resnet34", "resnet18")  # Table 1 starts from the first two


@dataclass(frozen=True)
class Statistics:
    """Table 8: numbers of real images that feature statistics are measured on, and how its students are taught."""

    images: tuple[int, ...]
    student: DistillationSettings


@dataclass(frozen=True)
class Frontier:
    """Mean updates a batch that are compared, and how the students, of Table 1's first pair, are taught.

    `more_updates` are for the paper's kind of schedule alone.
    """

    updates: tuple[int, ...]
    more_updates: tuple[int, ...]
    student: DistillationSettings


@dataclass(frozen=True)
class Growth:
    """A torchvision network, the numbers of images and resolutions that it is timed at, and two ways through ours.

    `single` and `multi` are (resolution, updates) stages for 32×32 images, in the paper's proportions of 20 to 2 + 1.
    """

    network: str
    images: tuple[int, ...]
    sizes: tuple[int, ...]
    single: tuple[tuple[int, int], ...]
    multi: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Sources:
    """Where fixed sets of images come from: a proxy data set, a GAN, and a teacher's dreams by its schedule."""

    proxy: str
    gan: GanSettings
    schedule: dict[str, Schedule]  # by teacher


@dataclass(frozen=True)
class Scratch:
    """Sec. 4.4: the `teacher`'s own architecture taught from scratch on a fixed pool of `images`.

    Compared, too: `fewer` images, and a long schedule (with mixup) cut to so many of its `rounds`.
    """

    teacher: str
    images: int
    fewer: tuple[int, ...]
    short: PoolSettings
    long: PoolSettings
    rounds: tuple[int, ...]


@dataclass(frozen=True)
class Continual:
    """Sec. 4.5: the networks (of Table 7, and of Table 11) that data sets are added to, and how.

    Images have `size` pixels a side; dreamt ones are made `batch_size` at a time by `schedule`, with `objective` or, if
    that is None, the network's usual one. `binary` fine-tunes for LwF.MC. An added data set plays the paper's "first"
    (CUB) or "second" (Flowers). For the paper's limitation the base data set is split: `old` classes, and others that
    resemble them.
    """

    networks: tuple[str, ...]
    added: tuple[str, ...]
    schedule: Schedule
    extension: ExtensionSettings
    binary: TrainingSettings
    objective: Objective | None = None
    old: tuple[int, ...] = ()
    roles: tuple[str, ...] = ("first", "second")
    size: int = 32
    batch_size: int = 256
    methods: tuple[str, ...] = tuple(METHODS)


@dataclass(frozen=True)
class Compression:
    """Sec. 4.3: the network whose filters are removed, and how accuracy is regained.

    Removed are `shares` of the filters (Table 4) and other `fractions` (Table 10), or filters until `budgets` of the
    latency are left (Table 9); `eta` weighs latency where that counts. Latencies are of batches of `batch` images, from
    a table of `steps` numbers of channels, checked on as many networks as `checked` says. From each source come
    `images`, and `adaptive` more in each adaptive round, competing with weight `alpha_c`; `tuning` teaches the pruned
    network, `brief` does so for Table 9 and between rounds.
    """

    network: str
    ranking: PruningSettings
    eta: float
    batch: int
    steps: int
    checked: int
    shares: tuple[float, ...]
    budgets: tuple[float, ...]
    fractions: tuple[float, ...]
    images: int
    adaptive: int
    alpha_c: float
    tuning: PoolSettings
    brief: PoolSettings


@dataclass(frozen=True)
class Quantization:
    """Sec. 5: the network put on so many `bits`, with ranges set on `calibrating` images, and tuned on `images`."""

    network: str
    bits: tuple[int, ...]
    calibrating: int
    images: int
    tuning: PoolSettings


@dataclass(frozen=True)
class ImageNet:
    """Sec. 4.2: which network images are made from, which ones judge them, and how: one for each entry of `classes`.

    `scorer` classifies for the Inception Score. `first_layer` is the weight of the first BatchNorm layer. Batches take
    turns with the `schedules`. Variants for comparison are made of the first `compared` classes.
    """

    teacher: str
    judges: tuple[str, ...]
    scorer: str
    classes: tuple[int, ...]
    batch_size: int
    objective: Objective
    first_layer: float
    schedules: tuple[Schedule, ...]
    compared: int


@dataclass(frozen=True)
class Scale:
    name: str
    dataset: str
    widths: dict[str, float]
    training: dict[str, TrainingSettings]
    batch_size: int
    schedule: dict[str, Schedule]  # by teacher
    distillation: dict[tuple[str, str], DistillationSettings]  # by teacher and student
    generator: GeneratorSettings
    statistics: Statistics
    frontier: Frontier
    growth: Growth
    imagenet: ImageNet
    sources: Sources
    scratch: Scratch
    continual: Continual
    continual_imagenet: Continual
    compression: Compression
    quantization: Quantization
    objective: dict[str, Objective] = field(default_factory=lambda: dict.fromkeys(TEACHERS, Objective()))  # by teacher
    adaptive_after: int = 1  # an Adaptive DeepInversion run starts from this many plain DeepInversion batches

    @property
    def teachers(self) -> tuple[str, ...]:
        """The networks that experiments start from."""
        pruned, quantized = self.compression.network, self.quantization.network
        used = {*(teacher for teacher, _ in PAIRS), self.scratch.teacher, *self.continual.networks, pruned, quantized}
        return tuple(name for name in TEACHERS if name in used)


def _laptop(rounds: int, updates: int) -> DistillationSettings:
    return DistillationSettings(
        rounds=rounds, updates=updates, batch_size=128, lr=0.2, decay="linear", temperature=20.0, shift=4
    )


# ResNet-34's images need more updates than a warm start leaves them.
LAPTOP_SCHEDULE = Schedule(stages=((32, 120),), lr=0.25, decay="cosine", jitter=4, clip=True)
LAPTOP_WARM = replace(LAPTOP_SCHEDULE, stages=((32, 200),), warm_start=0.9, warm_updates=40)


def _pool_student(rounds: int, updates: int, **changes) -> PoolSettings:
    return PoolSettings(rounds=rounds, updates=updates, batch_size=128, lr=0.2, decay="linear", shift=4, **changes)


def _tuning(rounds: int, updates: int) -> PoolSettings:
    return PoolSettings(rounds, updates, 128, lr=0.05, decay="linear", temperature=5.0, shift=4)


# Goldfish, balloon, scorpion, school bus, flamingo, acoustic guitar, tiger, fire engine, bald eagle, tennis ball,
# macaw, sports car; ostrich, traffic light, loggerhead, zebra, peacock, giant panda, hummingbird, tabby, king penguin,
# golden retriever, bee, monarch.
LAPTOP_CLASSES = (1, 417, 71, 779, 130, 402, 292, 555, 22, 852, 88, 817)
LAPTOP_CLASSES += (9, 920, 33, 340, 84, 388, 94, 281, 145, 207, 309, 323)
LITE_IMAGENET = ImageNet(
    teacher="efficientnet_lite0",
    judges=("efficientnet_lite1", "efficientnet_lite2"),
    scorer="efficientnet_lite2",
    classes=LAPTOP_CLASSES,
    batch_size=12,
    objective=Objective(alpha_tv=0.04, alpha_l2=0.0, alpha_f=1e-3, alpha_c=0.0),
    first_layer=10.0,
    schedules=(Schedule(stages=((56, 400), (112, 300), (224, 90)), lr=0.2, decay="cosine", jitter=30, clip=True),),
    compared=12,
)
PAPER_IMAGENET = ImageNet(
    teacher="resnet50",
    judges=("resnet18", "inception_v3", "mobilenet_v2", "vgg11"),
    scorer="inception_v3",
    classes=tuple(range(1000)),
    batch_size=100,
    objective=Objective(alpha_tv=1e-4, alpha_l2=0.0, alpha_f=1e-2, alpha_c=0.0),
    first_layer=10.0,
    schedules=(Schedule(stages=((112, 2000), (224, 1000)), lr=0.2, decay="cosine", jitter=30, clip=True),),
    compared=100,
)

LITE_CONTINUAL = Continual(
    networks=("efficientnet_lite0",),
    added=("flowers102",),
    roles=("second",),
    size=160,
    batch_size=20,
    schedule=Schedule(stages=((80, 120), (160, 40)), lr=0.2, decay="cosine", jitter=20, clip=True),
    extension=ExtensionSettings(
        updates=300, batch_size=32, images_per_class=1, lr=3.0, shift=8, trained=("_conv_head", "_fc")
    ),
    binary=TrainingSettings(epochs=2, batch_size=50, lr=0.002, shift=8),
    objective=Objective(alpha_tv=0.1, alpha_l2=0.0, alpha_f=3e-3, alpha_c=0.0),
    methods=("lwf_mc", "deepinversion", "oracle_distill"),
)
PAPER_CONTINUAL = Continual(
    networks=("resnet18", "vgg16_bn"),
    added=("cub200", "flowers102"),
    size=224,
    batch_size=100,
    schedule=Schedule(stages=((224, 10_000),), lr=0.2, decay="cosine", jitter=30, clip=True),
    extension=ExtensionSettings(updates=20_000, shift=16),
    binary=TrainingSettings(epochs=1, lr=0.01, shift=16),
)

CIFAR_CONTINUAL = Continual(
    networks=("resnet34", "vgg11_bn"),
    added=("cub200", "flowers102"),
    old=(0, 1, 3, 5, 8),  # airplane, automobile, cat, dog, ship; new: bird, deer, frog, horse, truck
    schedule=Schedule(((32, 2000),), lr=0.05, jitter=4, clip=True),
    extension=ExtensionSettings(),
    binary=TrainingSettings(epochs=2, lr=0.05),
)

PAPER_COMPRESSION = Compression(
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
    tuning=PoolSettings(rounds=30, updates=645, lr=0.01, shift=4, temperature=10.0),
    brief=PoolSettings(rounds=15, updates=645, lr=0.01, decay_at=(2 / 3,), shift=4, temperature=10.0),
)

GPU_TUNING = PoolSettings(rounds=5, updates=200, lr=0.05, decay="linear", shift=4, temperature=5.0)

FOLDED_LR = 1e-3  # without BatchNorm, which quantisation folds away, higher rates diverge
CIFAR_QUANTIZATION = Quantization("resnet34", (8, 4, 3), 256, 20_000, replace(GPU_TUNING, lr=FOLDED_LR))

SCALES = {
    "smoke": Scale(
        name="smoke",
        dataset="digits",
        widths={"vgg11_bn": 1 / 16, "resnet18": 1 / 16, "resnet34": 1 / 16},
        training=dict.fromkeys(TEACHERS, TrainingSettings(epochs=3, batch_size=100, flip=False)),
        batch_size=50,
        schedule={
            "vgg11_bn": Schedule(
                ((32, 20),), lr=0.2, decay="cosine", jitter=2, flip=False, warm_start=0.9, warm_updates=8
            ),
            "resnet34": Schedule(((32, 20),), lr=0.2, decay="cosine", jitter=2, flip=False),
        },
        distillation=dict.fromkeys(PAIRS, DistillationSettings(rounds=3, updates=8, shift=1, flip=False)),
        generator=GeneratorSettings(student=DistillationSettings(rounds=2, updates=5, batch_size=50), width=16),
        statistics=Statistics((1, 10), DistillationSettings(rounds=2, updates=8, shift=1, flip=False)),
        frontier=Frontier((3, 12), (), student=DistillationSettings(rounds=2, updates=4, shift=1, flip=False)),
        growth=Growth("resnet18", (1, 2, 4), (32, 48, 64), single=((32, 20),), multi=((16, 2), (32, 1))),
        imagenet=replace(
            LITE_IMAGENET,
            classes=LAPTOP_CLASSES[:4],
            batch_size=2,
            schedules=(Schedule(stages=((64, 2), (128, 2)), lr=0.2, decay="cosine", jitter=8, clip=True),),
            compared=2,
        ),
        sources=Sources(
            proxy="photographs",
            gan=GanSettings(rounds=2, updates=5, batch_size=16, latents=16, width=8),
            schedule=dict.fromkeys(TEACHERS, Schedule(((32, 10),), lr=0.2, decay="cosine", jitter=2, flip=False)),
        ),
        scratch=Scratch(
            teacher="vgg11_bn",
            images=100,
            fewer=(50,),
            short=PoolSettings(rounds=1, updates=5, batch_size=50, shift=1, flip=False),
            long=PoolSettings(rounds=2, updates=5, batch_size=50, shift=1, flip=False, mixup=1.0),
            rounds=(1,),
        ),
        continual=Continual(
            networks=("vgg11_bn", "resnet18"),
            added=("photographs_grey",),
            old=(0, 2, 4, 6, 8),
            batch_size=50,
            schedule=Schedule(((32, 10),), lr=0.2, decay="cosine", jitter=2, flip=False),
            extension=ExtensionSettings(updates=10, batch_size=20, images_per_class=5, shift=1, flip=False),
            binary=TrainingSettings(epochs=1, batch_size=100, lr=0.05, flip=False),
        ),
        continual_imagenet=replace(
            LITE_CONTINUAL,
            size=64,
            schedule=Schedule(stages=((32, 1), (64, 1)), lr=0.2, decay="cosine", jitter=8, clip=True),
            extension=ExtensionSettings(updates=2, batch_size=4, images_per_class=1),
        ),
        compression=Compression(
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
            tuning=PoolSettings(rounds=1, updates=3, batch_size=20, shift=1, flip=False),
            brief=PoolSettings(rounds=1, updates=2, batch_size=20, shift=1, flip=False),
        ),
        quantization=Quantization(
            "resnet18", (8, 4), 20, 50, PoolSettings(rounds=1, updates=2, batch_size=20, shift=1, flip=False)
        ),
    ),
    "laptop": Scale(
        name="laptop",
        dataset="fashion_mnist",
        widths={"vgg11_bn": 1 / 4, "resnet18": 1 / 8, "resnet34": 1 / 8},
        training=dict.fromkeys(TEACHERS, TrainingSettings(epochs=4)),
        batch_size=256,
        # R_feature sums over layers, of which ResNet-34 has more
        objective={
            "vgg11_bn": Objective(alpha_tv=1e-2, alpha_f=1.0, alpha_c=30.0),
            "resnet34": Objective(alpha_tv=1e-2, alpha_f=0.5, alpha_c=30.0),
            "resnet18": Objective(alpha_tv=1e-2, alpha_f=0.5, alpha_c=30.0),
        },
        schedule={"vgg11_bn": LAPTOP_WARM, "resnet34": LAPTOP_SCHEDULE},
        distillation=dict(zip(PAIRS, (_laptop(14, 100), _laptop(14, 110), _laptop(6, 180)), strict=True)),
        generator=GeneratorSettings(
            student=DistillationSettings(
                rounds=12, updates=50, batch_size=128, lr=0.2, decay="linear", temperature=20.0
            ),
            width=32,
        ),
        statistics=Statistics((1, 10, 100, 1000), _laptop(10, 100)),
        frontier=Frontier((20, 40, 80), (160,), student=_laptop(6, 100)),
        growth=Growth("resnet50", (2, 4, 8, 16), (96, 128, 160, 192, 224), ((32, 1200),), ((16, 120), (32, 60))),
        imagenet=LITE_IMAGENET,
        sources=Sources(
            proxy="photographs",
            gan=GanSettings(rounds=12, updates=250),
            schedule=dict.fromkeys(TEACHERS, LAPTOP_SCHEDULE)
            | {"vgg11_bn": replace(LAPTOP_SCHEDULE, stages=((32, 250),))},
        ),
        scratch=Scratch(
            teacher="vgg11_bn",
            images=4000,
            fewer=(500, 1500),
            short=_pool_student(2, 500),
            long=_pool_student(10, 400, mixup=1.0),
            rounds=(2, 5),
        ),
        continual=Continual(
            networks=("vgg11_bn", "resnet18"),
            added=("digits", "photographs_grey"),
            old=(0, 1, 2, 5, 8),  # top, trouser, pullover, sandal, bag; new: dress, coat, shirt, sneaker, ankle boot
            schedule=replace(LAPTOP_SCHEDULE, stages=((32, 120),)),
            extension=ExtensionSettings(updates=250, images_per_class=64, lr=0.5, decay_at=(0.6, 0.8)),
            binary=TrainingSettings(epochs=1, lr=0.05),
        ),
        continual_imagenet=LITE_CONTINUAL,
        compression=Compression(
            network="resnet18",
            ranking=PruningSettings(filters=16, group=2, batches=4, batch_size=128),
            eta=3.0,
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
        quantization=Quantization("resnet18", (8, 4, 3), 256, 1024, replace(_tuning(1, 130), lr=FOLDED_LR)),
        adaptive_after=2,
    ),
    "gpu": Scale(
        name="gpu",
        dataset="cifar10",
        widths={"vgg11_bn": 1.0, "resnet18": 1.0, "resnet34": 1.0},
        training=dict.fromkeys(TEACHERS, TrainingSettings(epochs=30)),
        batch_size=256,
        schedule=dict.fromkeys(TEACHERS, Schedule(((32, 500),), lr=0.1, decay="cosine", jitter=2)),
        # As in the paper, half as many batches from ResNet-34, whose updates take longer
        distillation={
            pair: DistillationSettings(rounds=200, updates=100)
            if pair[0] == "vgg11_bn"
            else DistillationSettings(rounds=100, updates=200)
            for pair in PAIRS
        },
        generator=GeneratorSettings(student=DistillationSettings(rounds=100, updates=100)),
        statistics=Statistics((1, 10, 100, 1000), DistillationSettings(rounds=200, updates=100)),
        frontier=Frontier((62, 125, 250, 500), (1000, 2000), student=DistillationSettings(rounds=50, updates=100)),
        growth=Growth("resnet50", (16, 32, 64, 128), (96, 128, 160, 192, 224), ((32, 2000),), ((16, 200), (32, 100))),
        imagenet=PAPER_IMAGENET,
        sources=Sources(
            proxy="cifar100",
            gan=GanSettings(rounds=100, updates=500, width=64),
            schedule=dict.fromkeys(TEACHERS, Schedule(((32, 500),), lr=0.1, decay="cosine", jitter=2)),
        ),
        scratch=Scratch(
            teacher="resnet34",
            images=50_000,
            fewer=(5_000, 10_000, 25_000),
            short=PoolSettings(rounds=30, updates=195, lr=0.1, shift=4),
            long=PoolSettings(rounds=80, updates=195, lr=0.1, shift=4, mixup=0.2),
            rounds=(30, 55),
        ),
        continual=CIFAR_CONTINUAL,
        continual_imagenet=PAPER_CONTINUAL,
        compression=replace(
            PAPER_COMPRESSION,
            images=20_000,
            adaptive=5_000,
            tuning=PoolSettings(rounds=10, updates=200, lr=0.05, decay="linear", shift=4, temperature=5.0),
            brief=GPU_TUNING,
        ),
        quantization=CIFAR_QUANTIZATION,
    ),
    "paper": Scale(
        name="paper",
        dataset="cifar10",
        widths={"vgg11_bn": 1.0, "resnet18": 1.0, "resnet34": 1.0},
        training=dict.fromkeys(TEACHERS, TrainingSettings(epochs=200, batch_size=128, lr=0.1)),
        batch_size=256,
        schedule=dict.fromkeys(TEACHERS, Schedule(((32, 2000),), lr=0.05, jitter=4)),
        # 250 epochs of 195 updates, with 4 new batches an epoch (VGG-11-BN) or 2 (ResNet-34)
        distillation={
            pair: DistillationSettings(rounds=1000, updates=49)
            if pair[0] == "vgg11_bn"
            else DistillationSettings(rounds=500, updates=98)
            for pair in PAIRS
        },
        generator=GeneratorSettings(student=DistillationSettings(rounds=250, updates=195)),
        statistics=Statistics((1, 10, 100, 1000), DistillationSettings(rounds=1000, updates=49)),
        frontier=Frontier((250, 500, 1000, 2000), (), student=DistillationSettings(rounds=200, updates=49)),
        growth=Growth(
            "resnet50", (16, 32, 64, 128), (96, 128, 160, 192, 224), ((32, 20_000),), ((16, 2000), (32, 1000))
        ),
        imagenet=PAPER_IMAGENET,
        sources=Sources(
            proxy="cifar100",
            gan=GanSettings(rounds=100, updates=500, width=64),
            schedule=dict.fromkeys(TEACHERS, Schedule(((32, 2000),), lr=0.05, jitter=4, clip=True)),
        ),
        scratch=Scratch(
            teacher="resnet34",
            images=50_000,
            fewer=(5_000, 10_000, 25_000),
            short=PoolSettings(rounds=90, updates=195, lr=0.1, shift=4),
            long=PoolSettings(rounds=250, updates=195, lr=0.1, shift=4, mixup=0.2),
            rounds=(90, 170),
        ),
        continual=CIFAR_CONTINUAL,
        continual_imagenet=PAPER_CONTINUAL,
        compression=PAPER_COMPRESSION,
        quantization=CIFAR_QUANTIZATION,
    ),
}


EASY = ("digits", "fashion_mnist")  # small things on black ground
# Natural images take teachers three times as long and students more, and more varied, images: each batch is made from
# noise. Where a network takes 16×16 images (VGG-11-BN halves 32 five times), they begin so: in large shapes first.
# The paper's weight of competition leaves images that the teacher still names.
LAPTOP_NATURAL = replace(
    SCALES["laptop"],
    training=dict.fromkeys(TEACHERS, TrainingSettings(epochs=12)),
    objective={name: replace(found, alpha_c=10.0) for name, found in SCALES["laptop"].objective.items()},
    schedule={
        "vgg11_bn": replace(LAPTOP_SCHEDULE, stages=((32, 80),)),
        "resnet34": replace(LAPTOP_SCHEDULE, stages=((16, 120), (32, 60))),
    },
    distillation=dict(zip(PAIRS, (_laptop(20, 100), _laptop(20, 80), _laptop(14, 120)), strict=True)),
    continual=replace(SCALES["laptop"].continual, added=("digits", "photographs"), old=CIFAR_CONTINUAL.old),
)


def scale_for(name: str, dataset: str) -> Scale:
    """The sizes of a scale for a data set. Raises ValueError unless `name` is a scale."""
    check_scale(name)
    return LAPTOP_NATURAL if name == "laptop" and dataset not in EASY else SCALES[name]


def check_scale(name: str) -> None:
    """Raise ValueError unless `name` is a scale."""
    if name not in SCALES:
        raise ValueError(f"unknown scale {name!r}; choose from {', '.join(SCALES)}")
