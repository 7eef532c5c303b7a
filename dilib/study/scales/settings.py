"""What a scale sets, experiment by experiment."""

from dataclasses import dataclass, field

from dilib.amortised import AmortisedSettings
from dilib.baselines.dafl import GeneratorSettings
from dilib.baselines.gan import GanSettings
from dilib.compression.pruning import PruningSettings
from dilib.continual.extension import CONTINUAL_METHODS, ExtensionSettings
from dilib.distillation import DistillationSettings, PoolSettings, StreamSettings
from dilib.inversion import Objective, Schedule
from dilib.parameterisation import SpectrumSettings
from dilib.training import TrainingSettings

PAIRS = (("vgg11_bn", "vgg11_bn"), ("vgg11_bn", "resnet18"), ("resnet34", "resnet18"))  # teacher, student: Table 1

TEACHERS = ("vgg11_bn", "resnet34", "resnet18")  # Table 1 starts from the first two

JUDGE = "mlp"  # judges images beside the teachers, as a network of another kind

FOLDED_LR = 1e-3  # without BatchNorm, which quantisation folds away, higher rates diverge


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
    """Where fixed sets of images come from: proxy data sets, a GAN, and a teacher's dreams by its schedule.

    The second proxy is for Table 4.
    """

    proxy: str
    second_proxy: str
    gan: GanSettings
    schedule: dict[str, Schedule]  # by teacher


@dataclass(frozen=True)
class FromScratch:
    """Sec. 4.4: the `teacher`'s own architecture taught from scratch on a fixed pool of `images`.

    Also compared: `fewer` images, and the long schedule (with mixup) cut short to each of `rounds`.
    """

    teacher: str
    images: int
    fewer: tuple[int, ...]
    short: PoolSettings
    long: PoolSettings
    rounds: tuple[int, ...]


@dataclass(frozen=True)
class Addition:
    """How classes are added to one network: `extension` for how it learns, the rest for the images that it dreams.

    They are made `batch_size` at a time by `schedule`, with `objective` or, if that is None, the network's usual one.
    """

    schedule: Schedule
    extension: ExtensionSettings
    objective: Objective | None = None
    batch_size: int = 256


@dataclass(frozen=True)
class Continual:
    """Sec. 4.5: the networks, of Table 7 and of Table 11, and the data sets that are `added` to each.

    Images have `size` pixels a side. DeepDream weighs total variation by `deepdream_tv`; `binary` fine-tunes for
    LwF.MC; methods in `lr` have a learning rate of their own. An added data set plays the paper's "first" (CUB) or
    "second" (Flowers). For the paper's limitation the base data set is split: `old` classes, and others that resemble
    them.
    """

    networks: dict[str, Addition]
    added: tuple[str, ...]
    binary: TrainingSettings
    old: tuple[int, ...] = ()
    deepdream_tv: float = 2.5e-5
    lr: dict[str, float] = field(default_factory=dict)
    roles: tuple[str, ...] = ("first", "second")
    size: int = 32
    methods: tuple[str, ...] = tuple(CONTINUAL_METHODS)  # on ImageNet without "amortised", whose images are small


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
    """Sec. 5: the network quantised to each of `bits`, calibrated on `calibrating` images and tuned on `images`."""

    network: str
    bits: tuple[int, ...]
    calibrating: int
    images: int
    tuning: PoolSettings


@dataclass(frozen=True)
class ImageNet:
    """Sec. 4.2: which network images are made from, which ones judge them, and how: one for each entry of `classes`.

    `scorer` classifies for the Inception Score. `first_layer` is the weight of the first BatchNorm layer. Batches take
    turns with the `schedules`, or, where images are to teach from, with those of `transfer`, if it has any (Sec. 4.4);
    those that compete with a student do so with weight `alpha_c`.
    Variants for comparison are made of the first `compared` classes. With a `spectrum` images begin as waves; `views`
    and `memory` are those of `inversion.updates`: in 07_imagenet alone. The `gallery` has all three, and more classes.
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
    transfer: tuple[Schedule, ...] = ()
    deepdream_tv: float = 1e-4
    alpha_c: float = 0.2
    spectrum: SpectrumSettings | None = None
    views: float = 0.0
    memory: float = 0.0
    gallery: tuple[int, ...] = ()


@dataclass(frozen=True)
class OtherWidth:
    """Another share of the published networks' width for Table 1's first pair, and how its student is taught."""

    width: float
    student: StreamSettings


@dataclass(frozen=True)
class Amortised:
    """Beside the paper's methods: images from a shared start, by `schedule`, and students that are taught on many.

    `objective` is by teacher, `student` by teacher and student. The first `warm_up` batches compete with nobody.
    The first pair is tried at another width, too, where there is one.
    """

    student: dict[tuple[str, str], StreamSettings]
    settings: AmortisedSettings = field(default_factory=AmortisedSettings)
    batch_size: int = 128
    schedule: Schedule = field(default_factory=lambda: Schedule(((32, 10),), lr=2e-3, jitter=2))
    objective: dict[str, Objective] = field(
        default_factory=lambda: dict.fromkeys(
            TEACHERS, Objective(alpha_tv=0.0, alpha_l2=0.0, alpha_f=1.0, alpha_c=100.0)
        )
    )
    warm_up: int = 10
    other_width: OtherWidth | None = None


@dataclass(frozen=True)
class OwnNetwork:
    """A call of `dilib.distill` as a user makes it, for the time that is usual, or for so many `updates`."""

    teacher: str
    student: str
    updates: int | None = None


@dataclass(frozen=True)
class Scale:
    """All sizes of a study. Networks go by name; `widths` are shares of the published ones'.

    `notebooks` are those that the scale is for, by name; without any, all.
    """

    name: str
    dataset: str
    widths: dict[str, float]
    training: dict[str, TrainingSettings]
    batch_size: int
    schedule: dict[str, Schedule]  # by teacher
    distillation: dict[tuple[str, str], DistillationSettings]  # by teacher and student
    dafl: GeneratorSettings
    amortised: Amortised
    statistics: Statistics
    frontier: Frontier
    growth: Growth
    imagenet: ImageNet
    sources: Sources
    from_scratch: FromScratch
    continual: Continual
    continual_imagenet: Continual
    compression: Compression
    quantization: Quantization
    deepdream_tv: float = 2.5e-5  # DeepDream's weight of total variation; the others' is in `objective`
    objective: dict[str, Objective] = field(default_factory=lambda: dict.fromkeys(TEACHERS, Objective()))  # by teacher
    own_networks: tuple[OwnNetwork, ...] = ()
    student_224: bool = False  # whether one is taught at 224×224, which takes hours
    notebooks: tuple[str, ...] = ()
    trials: int = 9  # values tried, at most, of whatever is chosen on validation images; 0: nothing is tried
    adaptive_after: int = 1  # an Adaptive DeepInversion run starts from this many plain DeepInversion batches

    def has(self, notebook: str) -> bool:
        """Whether the scale is for a notebook, which goes by its name."""
        return not self.notebooks or notebook in self.notebooks

    @property
    def teachers(self) -> tuple[str, ...]:
        """The networks that experiments start from, by name."""
        pruned, quantized = self.compression.network, self.quantization.network
        used = {
            *(teacher for teacher, _ in PAIRS),
            self.from_scratch.teacher,
            *self.continual.networks,
            pruned,
            quantized,
        }
        return tuple(name for name in TEACHERS if name in used)
