"""How large each scale is. One name picks all sizes; nothing else differs between scales."""

from dataclasses import dataclass, field

from dilib.distillation import DistillationSettings
from dilib.generator import GeneratorSettings
from dilib.inversion import Objective, Schedule
from dilib.training import TrainingSettings


@dataclass(frozen=True)
class Scale:
    name: str
    dataset: str
    widths: dict[str, float]
    training: dict[str, TrainingSettings]
    batch_size: int
    schedule: Schedule
    distillation: dict[str, DistillationSettings]  # by teacher
    generator: GeneratorSettings
    objective: Objective = field(default_factory=Objective)
    adaptive_after: int = 1  # an Adaptive DeepInversion run starts from this many plain DeepInversion batches
    statistics_images: tuple[int, ...] = (1, 10, 100, 1000)


def _published(rounds: dict[str, int], updates: dict[str, int]) -> dict[str, DistillationSettings]:
    return {name: DistillationSettings(rounds=rounds[name], updates=updates[name]) for name in rounds}


SCALES = {
    "smoke": Scale(
        name="smoke",
        dataset="digits",
        widths={"vgg11_bn": 1 / 16, "resnet18": 1 / 16, "resnet34": 1 / 16},
        training=dict.fromkeys(("vgg11_bn", "resnet34"), TrainingSettings(epochs=3, batch_size=100, flip=False)),
        batch_size=50,
        schedule=Schedule(stages=((32, 20),), lr=0.2, decay="cosine", jitter=2, flip=False),
        distillation=dict.fromkeys(
            ("vgg11_bn", "resnet34"), DistillationSettings(rounds=3, updates=8, shift=1, flip=False)
        ),
        generator=GeneratorSettings(rounds=2, updates=5, batch_size=50, width=16),
        statistics_images=(1, 10),
    ),
    "laptop": Scale(
        name="laptop",
        dataset="fashion_mnist",
        widths={"vgg11_bn": 1 / 4, "resnet18": 1 / 8, "resnet34": 1 / 8},
        training={"vgg11_bn": TrainingSettings(epochs=4), "resnet34": TrainingSettings(epochs=4)},
        batch_size=256,
        objective=Objective(alpha_tv=1e-3, alpha_f=5.0, alpha_c=50.0),
        schedule=Schedule(stages=((32, 100),), lr=0.3, decay="cosine", jitter=2),
        # half as many batches from ResNet-34, as in the paper
        distillation={
            "vgg11_bn": DistillationSettings(rounds=9, updates=110, batch_size=128, decay_at=(0.7, 0.9), shift=4),
            "resnet34": DistillationSettings(rounds=5, updates=160, batch_size=128, decay_at=(0.7, 0.9), shift=4),
        },
        generator=GeneratorSettings(rounds=12, updates=50, batch_size=128, width=32, decay_at=(0.7, 0.9)),
        adaptive_after=2,
    ),
    "gpu": Scale(
        name="gpu",
        dataset="cifar10",
        widths={"vgg11_bn": 1.0, "resnet18": 1.0, "resnet34": 1.0},
        training=dict.fromkeys(("vgg11_bn", "resnet34"), TrainingSettings(epochs=30)),
        batch_size=256,
        schedule=Schedule(stages=((32, 500),), lr=0.1, decay="cosine", jitter=2),
        distillation=_published({"vgg11_bn": 200, "resnet34": 200}, {"vgg11_bn": 100, "resnet34": 100}),
        generator=GeneratorSettings(rounds=100, updates=100),
    ),
    "paper": Scale(
        name="paper",
        dataset="cifar10",
        widths={"vgg11_bn": 1.0, "resnet18": 1.0, "resnet34": 1.0},
        training=dict.fromkeys(("vgg11_bn", "resnet34"), TrainingSettings(epochs=200, batch_size=128, lr=0.1)),
        batch_size=256,
        schedule=Schedule(stages=((32, 2000),), lr=0.05, jitter=4),
        # 250 epochs of 195 updates, with 4 new batches an epoch (VGG-11-BN) or 2 (ResNet-34)
        distillation=_published({"vgg11_bn": 1000, "resnet34": 500}, {"vgg11_bn": 49, "resnet34": 98}),
        generator=GeneratorSettings(rounds=250, updates=195),
    ),
}


def check_scale(name: str) -> None:
    """Raise ValueError unless `name` is a scale."""
    if name not in SCALES:
        raise ValueError(f"unknown scale {name!r}; choose from {', '.join(SCALES)}")
