"""A class-conditional GAN trained on real images, for comparison: the part that BigGAN plays in the paper.

Hinge losses (Lim and Ye, 2017), a projection discriminator with spectral norm (Miyato and Koyama, 2018), and images
from the generator's moving average.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dilib.artifacts import load_tensors, save_tensors
from dilib.data import Data, Split
from dilib.inversion import balanced_labels, compute_dtype
from dilib.models import Preprocessing
from dilib.training import adam_state, load_adam


@dataclass(frozen=True)
class GanSettings:
    """Sizes, Adam's rate (β 0, 0.9), and how long: `rounds` times `updates` of `batch_size` images.

    The discriminator's rate is four times the generator's `lr` (Heusel et al., 2017); `average` is the share that the
    moving average keeps at each update.
    """

    rounds: int = 50
    updates: int = 1000
    batch_size: int = 64
    latents: int = 64
    width: int = 32
    lr: float = 1e-4
    average: float = 0.995

    def __post_init__(self):
        if not 0 <= self.average < 1:
            raise ValueError(f"average {self.average} is out of range; choose 0 (none) to below 1")


class ConditionalGenerator(nn.Module):
    """Latents (N, Z) and labels (N,) → images (N, C, size, size), normalised as the preprocessing says."""

    def __init__(self, preprocessing: Preprocessing, classes: int, settings: GanSettings):
        super().__init__()
        width, self.size = settings.width, preprocessing.size // 8
        self.preprocessing = preprocessing
        self.embedding = nn.Embedding(classes, settings.latents)
        self.project = nn.Linear(2 * settings.latents, 4 * width * self.size**2)
        self.body = nn.Sequential(
            *_norm_relu(4 * width),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False),
            *_norm_relu(2 * width),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            *_norm_relu(width),
            nn.ConvTranspose2d(width, preprocessing.channels, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        features = self.project(torch.cat([latents, self.embedding(labels)], 1))
        pixels = self.body(features.unflatten(1, (-1, self.size, self.size)))
        return self.preprocessing.normalise(255 * pixels.float())


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


class ProjectionDiscriminator(nn.Module):
    """Images (N, C, H, W) and labels (N,) → how real each looks for its class (N,)."""

    def __init__(self, channels: int, classes: int, width: int):
        super().__init__()
        layers, inputs = [], channels
        for outputs in (width, 2 * width, 4 * width):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(0.1, inplace=True)]
            inputs = outputs
        self.body = nn.Sequential(*layers)
        self.head = spectral_norm(nn.Linear(inputs + 1, 1))
        self.embedding = spectral_norm(nn.Embedding(classes, inputs))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        maps = self.body(images)
        features, variety = maps.sum((2, 3)), maps.std(0).mean().expand(len(images), 1)
        return self.head(torch.cat([features, variety], 1))[:, 0] + (self.embedding(labels) * features).sum(1)


class Gan(nn.Module):
    """Generator, its moving average, and discriminator, with an optimiser each."""

    def __init__(self, data: Data, settings: GanSettings):
        super().__init__()
        channels, classes = data.preprocessing.channels, len(data.classes)
        self.settings = settings
        self.generator = ConditionalGenerator(data.preprocessing, classes, settings)
        self.average = copy.deepcopy(self.generator)
        self.discriminator = ProjectionDiscriminator(channels, classes, settings.width)
        self.optimizers = {
            name: torch.optim.Adam(getattr(self, name).parameters(), lr=rate, betas=(0.0, 0.9))
            for name, rate in (("generator", settings.lr), ("discriminator", 4 * settings.lr))
        }

    def step(self, images: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
        """One update of each network on real images (N, C, H, W) with labels (N,); the discriminator's loss."""
        device, dtype = labels.device, compute_dtype(labels.device)
        latents = torch.randn(len(labels), self.settings.latents, generator=random).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            made = self.generator(latents, labels)
            real, false = (self.discriminator(batch, labels).float() for batch in (images, made.detach()))
        loss = F.relu(1 - real).mean() + F.relu(1 + false).mean()
        self._move("discriminator", loss)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores = self.discriminator(made, labels).float()
        self._move("generator", -scores.mean())
        self._follow()
        return loss.detach()

    def _move(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()

    @torch.no_grad()
    def _follow(self) -> None:
        followed = self.generator.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(followed[name], 1 - self.settings.average)

    def state(self) -> dict[str, Tensor]:
        """Weights and the optimisers' moments, as named tensors."""
        tensors = {f"weights.{name}": value for name, value in self.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            tensors |= adam_state(optimizer, getattr(self, name), f"{name}.")
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        self.load_state_dict({name[8:]: value for name, value in tensors.items() if name.startswith("weights.")})
        for name, optimizer in self.optimizers.items():
            load_adam(optimizer, getattr(self, name), tensors, f"{name}.")


def train_gan(
    data: Data,
    settings: GanSettings,
    device: torch.device,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    card: dict | None = None,
    on_round: Callable[[int], None] | None = None,
) -> tuple[ConditionalGenerator, float]:
    """Train on the data's training split; the generator's moving average, in evaluation mode, and seconds of training.

    Goes on from `checkpoint` if there is one with the same `card`. Raises FloatingPointError on a loss not finite.
    """
    torch.manual_seed(seed)
    gan = Gan(data, settings).to(device, memory_format=torch.channels_last)
    found = load_tensors(checkpoint, card or {}) if checkpoint else None
    if found:
        gan.restore(found[0])
    seconds = found[0]["seconds"].item() if found else 0.0
    for index in range(found[1]["done"] if found else 0, settings.rounds):
        started = time.perf_counter()
        random = torch.Generator().manual_seed(seed * 100_003 + index)
        for _ in range(settings.updates):
            chosen = torch.randint(len(data.train.labels), (settings.batch_size,), generator=random)
            images = data.preprocessing.normalise(data.train.pixels[chosen].to(device))
            images = images.contiguous(memory_format=torch.channels_last)
            loss = gan.step(images, data.train.labels[chosen].to(device), random)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"GAN loss {loss.item()} in round {index + 1}; lower lr ({settings.lr})")
        seconds += time.perf_counter() - started
        if checkpoint:
            state = {**gan.state(), "seconds": torch.tensor(seconds, dtype=torch.float64)}
            save_tensors(checkpoint, state, {**(card or {}), "done": index + 1})
        if on_round:
            on_round(index + 1)
    return gan.average.eval(), seconds


@torch.no_grad()
def sample(generator: ConditionalGenerator, count: int, seed: int, batch_size: int = 256) -> Split:
    """`count` images, uint8, on the CPU, every class as often as every other."""
    device = next(generator.parameters()).device
    classes, latents = generator.embedding.weight.shape
    labels, random = balanced_labels(count, classes, seed), torch.Generator().manual_seed(seed)
    made = [
        generator(torch.randn(len(part), latents, generator=random).to(device), part.to(device))
        for part in labels.split(batch_size)
    ]
    return Split(generator.preprocessing.to_pixels(torch.cat(made)).cpu(), labels)
