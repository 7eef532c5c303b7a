"""What is optimised in the place of images: their pixels, or a generator and the latents that it makes them from."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dilib.classifier import Preprocessing, Size, sides
from dilib.generator import Generator
from dilib.precision import autocast

BETAS = (0.9, 0.999)


class Parameterisation(Protocol):
    """Images (N, C, H, W) as a function of what Adam optimises."""

    def at(self, size: Size) -> "Parameterisation":
        """The same images at a resolution."""

    def groups(self, lr: float) -> list[dict]:
        """Adam's parameter groups, where the schedule's rate is `lr`."""

    def __call__(self) -> Tensor:
        """The images, normalised."""

    def clip(self, preprocessing: Preprocessing) -> None:
        """Keep pixels in their range, if that takes anything after an update. Eq. 16."""


class Pixels:
    """The paper's: every value of every image is a parameter."""

    def __init__(self, images: Tensor):
        self.images = images.detach().contiguous(memory_format=torch.channels_last).requires_grad_()

    def at(self, size: Size) -> "Pixels":
        """Nearest-neighbour up-sampled, Sec. 4.4."""
        images = self.images.detach()
        return Pixels(images if tuple(images.shape[2:]) == sides(size) else F.interpolate(images, sides(size)))

    def groups(self, lr: float) -> list[dict]:
        return [{"params": [self.images], "lr": lr, "betas": BETAS}]

    def __call__(self) -> Tensor:
        return self.images

    @torch.no_grad()
    def clip(self, preprocessing: Preprocessing) -> None:
        self.images.copy_(preprocessing.clip(self.images))


class Generated:
    """Images that a generator makes of latents, both optimised, the latents at a rate of their own.

    Raises ValueError where another resolution than the generator's is asked for.
    """

    def __init__(self, generator: Generator, latents: Tensor, latent_lr: float, precision: torch.dtype):
        self.generator, self.latents, self.latent_lr = generator, latents.requires_grad_(), latent_lr
        self.precision = precision

    def at(self, size: Size) -> "Generated":
        wanted, made = sides(size), tuple(4 * side for side in self.generator.shape[1:])
        if wanted != made:
            raise ValueError(
                f"the generator makes images of {made} pixels, not of {wanted}; give it one stage of these"
            )
        return self

    def groups(self, lr: float) -> list[dict]:
        betas = (0.5, BETAS[1])  # as is usual for generators
        weights = {"params": list(self.generator.parameters()), "lr": lr, "betas": betas}
        return [weights, {"params": [self.latents], "lr": self.latent_lr, "betas": betas}]

    def __call__(self) -> Tensor:
        return autocast(self.generator, self.latents, self.precision)

    def clip(self, preprocessing: Preprocessing) -> None:
        """Nothing to do: the generator's images are pixels already."""
