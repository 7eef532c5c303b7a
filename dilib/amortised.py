"""Amortised DeepInversion: what was learnt from earlier batches of images is where the next one begins.

DeepInversion starts every batch from noise. Here a batch is a few updates of a generator and of the latents that it
makes images from, and the weights that it starts from then move some way towards those that it ended with. The losses
stay the paper's; the method is not: Fang et al., "Up to 100× Faster Data-free Knowledge Distillation", AAAI 2022.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dilib.checks import check_positive, check_whole
from dilib.classifier import Classifier, Preprocessing
from dilib.generator import Generator, ToImages
from dilib.inversion import Inversion, Objective, Schedule, invert
from dilib.parameterisation import Generated
from dilib.structure import undisturbed


@dataclass(frozen=True)
class AmortisedSettings:
    """The generator's size, the rate of its latents, and how far the shared start moves to each batch's weights.

    The rate of the weights and the number of updates a batch are the schedule's. A `step` of 0 starts every batch from
    the same random weights, one of 1 from those that the last one ended with.
    """

    latents: int = 256
    width: int = 16
    latent_lr: float = 1e-2
    step: float = 0.5

    def __post_init__(self):
        check_whole(self, "latents", "width")
        check_positive(self, "latent_lr")
        if not 0 <= self.step <= 1:
            raise ValueError(f"step {self.step} is out of range; choose from 0 (forget) to 1 (keep all)")


Start = dict[str, Tensor]  # a generator's weights by name


def first_start(teacher: Classifier, settings: AmortisedSettings, seed: int) -> Start:
    """The generator's random weights, which the first batch starts from."""
    return _weights(generator_of(teacher.preprocessing, settings, seed))


def generator_of(preprocessing: Preprocessing, settings: AmortisedSettings, seed: int = 0) -> Generator:
    """A generator of images for this preprocessing, with random weights."""
    with undisturbed(seed):
        return Generator(preprocessing, settings.latents, settings.width, ToImages(preprocessing))


def _weights(generator: Generator) -> Start:
    return {name: weight.detach().clone() for name, weight in generator.named_parameters()}


def batch(
    teacher: Classifier,
    labels: Tensor,
    objective: Objective,
    schedule: Schedule,
    settings: AmortisedSettings,
    start: Start,
    *,
    seed: int = 0,
    **options,
) -> tuple[Inversion, Start]:
    """A batch of images for `labels`, and where the next one is to start; the other options are those of `invert`.

    Example:
        >>> start = first_start(teacher, AmortisedSettings(), seed=0)
        >>> for index in range(20):
        ...     labels = balanced_labels(256, 10, seed=index)
        ...     made, start = batch(teacher, labels, objective, schedule, AmortisedSettings(), start, seed=index)
    """
    generator = generator_of(teacher.preprocessing, settings)
    generator.load_state_dict(start, strict=False)  # running statistics, which nobody reads, stay behind
    generator = generator.to(teacher.device, memory_format=torch.channels_last).train()
    random = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(labels), settings.latents, generator=random).to(teacher.device)
    image = Generated(generator, latents, settings.latent_lr, teacher.precision)
    made = invert(teacher, labels, objective, schedule, image=image, seed=seed, **options)
    with torch.no_grad():
        made = replace(made, images=image())  # what the last update made of them
    reached = _weights(generator)
    return made, {name: weight.lerp(reached[name].to(weight), settings.step) for name, weight in start.items()}
