"""A class-conditional GAN trained on real images, for comparison: the part that BigGAN plays in the paper.

Hinge losses (Lim and Ye, 2017), a projection discriminator with spectral norm (Miyato and Koyama, 2018), and images
from the generator's moving average.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dilib.checks import check_positive, check_whole
from dilib.classifier import Preprocessing
from dilib.data import Data, Split
from dilib.inversion import balanced_labels
from dilib.rounds import Run, in_rounds


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
        check_whole(self, "rounds", "updates", "batch_size", "latents", "width")
        check_positive(self, "lr")


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


def train_gan(
    data: Data,
    settings: GanSettings,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    run: Run = Run(),
) -> tuple[ConditionalGenerator, float]:
    """Train on the data's training split; the generator's moving average, in evaluation mode, and seconds of training.

    Raises FloatingPointError when the loss stops being finite.
    """
    torch.manual_seed(run.seed)
    generator = ConditionalGenerator(data.preprocessing, len(data.classes), settings)
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=True)
    average.update_parameters(generator)  # its first update copies, and so counts none of the training
    discriminator = ProjectionDiscriminator(data.preprocessing.channels, len(data.classes), settings.width)
    parts = {"generator": generator, "average": average, "discriminator": discriminator}
    for network in parts.values():
        network.to(device, memory_format=torch.channels_last)
    parts["generator_optimizer"] = _adam(generator, settings.lr)
    parts["discriminator_optimizer"] = _adam(discriminator, 4 * settings.lr)

    def round_of_updates(index: int, random: torch.Generator) -> dict[str, float]:
        for _ in range(settings.updates):
            chosen = torch.randint(len(data.train.labels), (settings.batch_size,), generator=random)
            images = data.preprocessing.normalise(data.train.pixels[chosen].to(device))
            images = images.contiguous(memory_format=torch.channels_last)
            latents = torch.randn(settings.batch_size, settings.latents, generator=random).to(device)
            loss = _step(parts, images, data.train.labels[chosen].to(device), latents, precision)
            average.update_parameters(generator)
        return {"loss": loss.item()}

    history = in_rounds(round_of_updates, settings.rounds, parts, run.of(precision), "GAN")
    return average.module.eval(), sum(history["seconds"])


def _adam(network: nn.Module, lr: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=lr, betas=(0.0, 0.9))


def _step(parts: dict, images: Tensor, labels: Tensor, latents: Tensor, precision: torch.dtype) -> Tensor:
    """One update of each network on real images (N, C, H, W) with labels (N,); the discriminator's loss."""
    generator, discriminator = parts["generator"], parts["discriminator"]
    half = {"device_type": labels.device.type, "dtype": precision, "enabled": precision != torch.float32}
    with torch.autocast(**half):
        made = generator(latents, labels)
        real, false = (discriminator(batch, labels).float() for batch in (images, made.detach()))
    loss = F.relu(1 - real).mean() + F.relu(1 + false).mean()
    _descend(parts["discriminator_optimizer"], loss)
    with torch.autocast(**half):
        scores = discriminator(made, labels).float()
    _descend(parts["generator_optimizer"], -scores.mean())
    return loss.detach()


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


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
