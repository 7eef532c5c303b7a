"""What is optimised in the place of images: their pixels, waves, or a generator and the latents it makes them from."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dilib.checks import check_positive
from dilib.classifier import Preprocessing, Size, sides
from dilib.generator import Generator
from dilib.precision import autocast

BETAS = (0.9, 0.999)
# Red, green and blue of brightness and of two differences of colours: the square root of the covariance of colours on
# ImageNet, as in Lucid, the library of "Feature Visualization" (github.com/tensorflow/lucid).
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


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


@dataclass(frozen=True)
class SpectrumSettings:
    """How far from grey images begin, Adam's rate for their waves, and how strong a contrast these make.

    Waves of unit `deviation` add up to values of unit deviation, which are multiplied by `contrast` and go through a
    sigmoid to become pixels. An image's mean moves at the rate of its longest wave times `level`: at the full rate
    a batch splits into dark and bright images, the cheapest way to the variance that the statistics ask for.
    """

    deviation: float = 0.5
    lr: float = 0.05
    contrast: float = 3.0
    level: float = 0.4

    def __post_init__(self):
        check_positive(self, "deviation", "lr", "contrast", "level")


class Spectrum:
    """Images as Fourier sums of waves whose amplitudes fall with their frequency, in decorrelated colours.

    So large shapes and colours move as easily as fine ones: Olah et al., "Feature Visualization", Distill 2017. At
    another resolution they go on as pixels.
    """

    def __init__(self, waves: Tensor, size: Size, preprocessing: Preprocessing, settings: SpectrumSettings):
        self.waves = waves.detach().requires_grad_()  # (N, C, H, W // 2 + 1, 2): real and imaginary parts
        self.size, self.preprocessing, self.settings = sides(size), preprocessing, settings
        self.amplitudes = _amplitudes(*self.size, settings.level).to(waves.device)
        mixed = torch.tensor(COLOURS) if preprocessing.channels == 3 else torch.eye(preprocessing.channels)
        self.colours = (mixed / torch.linalg.vector_norm(mixed, dim=0).max()).to(waves.device)

    @classmethod
    def noise(
        cls, count: int, size: Size, preprocessing: Preprocessing, settings: SpectrumSettings, seed: int, device
    ) -> "Spectrum":
        """Random waves for so many images."""
        height, width = sides(size)
        shape = (count, preprocessing.channels, height, width // 2 + 1, 2)
        waves = settings.deviation * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return cls(waves.to(device), size, preprocessing, settings)

    def at(self, size: Size) -> "Spectrum | Pixels":
        """Up-sampled as pixels are, or the same."""
        return self if sides(size) == self.size else Pixels(self()).at(size)

    def groups(self, lr: float) -> list[dict]:
        return [{"params": [self.waves], "lr": self.settings.lr, "betas": BETAS}]

    def __call__(self) -> Tensor:
        spectrum = torch.view_as_complex(self.waves) * self.amplitudes
        values = torch.fft.irfft2(spectrum, s=self.size, norm="forward")
        values = torch.einsum("nchw,dc->ndhw", values, self.colours)
        return self.preprocessing.normalise(255 * torch.sigmoid(self.settings.contrast * values))

    def clip(self, preprocessing: Preprocessing) -> None:
        """Nothing to do: a sigmoid keeps pixels in their range."""


def _amplitudes(height: int, width: int, level: float) -> Tensor:
    """1 over the frequency of each wave (H, W // 2 + 1), such that unit waves add up to values of unit variance.

    That of the mean is `level` times the longest wave's.
    """
    frequencies = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))  # in waves a pixel
    amplitudes = 1 / frequencies.clamp_min(1 / max(height, width))
    amplitudes[0, 0] *= level
    # Each wave stands for its mirror image, too, but for those that are their own: only their real part counts.
    own = torch.arange(width // 2 + 1) * 2 % width == 0
    return amplitudes / (amplitudes.square() * torch.where(own, 1, 4)).sum().sqrt()


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
