"""How good a network is."""

import torch
from torch import Tensor, nn

from dilib.inversion import compute_dtype
from dilib.statistics import frozen_copy


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, batch_size: int = 1000) -> Tensor:
    """Logits (N, K), fp32, of normalised images (N, C, H, W), in evaluation mode; the network is left as it was."""
    dtype = compute_dtype(images.device)
    frozen = frozen_copy(network, dtype)
    batches = images.split(batch_size)
    return torch.cat([frozen(batch.to(dtype, memory_format=torch.channels_last)).float() for batch in batches])


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent on normalised images (N, C, H, W) with labels (N,)."""
    return 100 * (predict(network, images).argmax(1) == labels).float().mean().item()
