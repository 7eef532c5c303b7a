"""DAFL, the baseline that trains a generator against a fixed teacher while the student learns from its images.

Chen et al., "Data-Free Learning of Student Networks", ICCV 2019.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dilib.checks import check_not_negative, check_positive, check_whole
from dilib.classifier import Classifier, Frozen, Preprocessing, head_of, logits_and_features
from dilib.distillation import DistillationSettings, scaled_distillation
from dilib.evaluation import accuracy, glimpse
from dilib.generator import Generator
from dilib.precision import autocast, autocast_logits
from dilib.rounds import Run, in_rounds
from dilib.training import descend, sgd
from dilib.trial import checked_student


@dataclass(frozen=True)
class GeneratorSettings:
    """The generator's size and learning rate, the weights of its losses, and the temperature of the student's loss.

    Defaults: DAFL's published ones for CIFAR-10.
    """

    latents: int = 1000
    width: int = 128
    lr: float = 0.02
    one_hot: float = 0.05
    activation: float = 0.01
    entropy: float = 5.0
    temperature: float = 1.0

    def __post_init__(self):
        check_whole(self, "latents", "width")
        check_positive(self, "lr", "temperature")
        check_not_negative(self, "one_hot", "activation", "entropy")


def one_hot_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of the teacher's logits (N, K) to their own arg max: be sure of some class. DAFL Eq. 3."""
    return F.cross_entropy(logits, logits.argmax(1))


def activation_loss(features: Tensor) -> Tensor:
    """Minus the mean absolute feature (N, D): excite the teacher as real images do. DAFL Eq. 4."""
    return -features.abs().mean()


def information_entropy_loss(logits: Tensor) -> Tensor:
    """Minus the entropy, by decimal logarithms, of the batch's mean prediction: use all classes alike. DAFL Eq. 5."""
    mean = logits.softmax(1).mean(0)
    return (mean * torch.log10(mean.clamp_min(1e-12))).sum()


def distill_with_generator(
    teacher: Classifier,
    student: nn.Module,
    test: tuple[Tensor, Tensor],
    teaching: DistillationSettings,
    settings: GeneratorSettings,
    run: Run = Run(),
) -> tuple[Generator, dict[str, list[float]]]:
    """Train a generator and, in place, the student; the generator, and "student_on_test" and seconds of each round.

    `teaching` has the number of joint steps, their images, and the student's rate; images are not augmented, and the
    temperature is that of `settings`.
    Raises ValueError for a student with another number of classes, and FloatingPointError when the loss stops being
    finite.
    """
    checked_student(teacher, student)
    frozen, head = teacher.frozen(), head_of(teacher)
    torch.manual_seed(run.seed)
    generator = dafl_generator(teacher.preprocessing, settings)
    generator = generator.to(teacher.device, memory_format=torch.channels_last)
    schedule = sgd(student, teaching, teaching.lr_factor)
    adam = torch.optim.Adam(generator.parameters(), lr=settings.lr, fused=True)

    def teach(index: int, random: torch.Generator) -> dict[str, float]:
        student.train()
        generator.train()
        for _ in range(teaching.updates):
            latents = torch.randn(teaching.batch_size, settings.latents, generator=random).to(teacher.device)
            loss = _joint_step((frozen, head), student, schedule, generator, adam, latents, settings)
        shown = test if index + 1 == teaching.rounds else glimpse(test)
        return {"loss": loss.item(), "student_on_test": accuracy(teacher.with_network(student), *shown)}

    parts = {"student": student, "generator": generator, "optimizer": schedule.optimizer}
    parts |= {"schedule": schedule, "generator_optimizer": adam}
    history = in_rounds(teach, teaching.rounds, parts, run.of(teacher.precision), "DAFL")
    student.eval()
    return generator.eval(), history


def dafl_generator(preprocessing: Preprocessing, settings: GeneratorSettings) -> Generator:
    """A generator with random weights, each channel of whose images is standardised by a last BatchNorm."""
    ending = nn.Tanh(), nn.BatchNorm2d(preprocessing.channels, affine=False)
    return Generator(preprocessing, settings.latents, settings.width, *ending)


def _joint_step(teacher: tuple[Frozen, str], student, schedule, generator, adam, latents: Tensor, settings) -> Tensor:
    """One update of the generator against the teacher, and one of the student on the same images; the latter's loss."""
    frozen, head = teacher
    images = autocast(generator, latents, frozen.dtype)
    logits, features = logits_and_features(frozen, head, images)
    generator_loss = (
        settings.one_hot * one_hot_loss(logits)
        + settings.activation * activation_loss(features)
        + settings.entropy * information_entropy_loss(logits)
    )
    student_logits = autocast_logits(student, images.detach(), frozen.dtype)
    loss = scaled_distillation(logits.detach(), student_logits, settings.temperature)
    adam.zero_grad()
    descend(schedule, generator_loss + loss)  # their graphs share no weight
    adam.step()
    return loss.detach()
