"""A straightforward implementation of DeepInversion, the baseline for the study's own step."""

import copy
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dilib.classifier import Classifier
from dilib.feature_statistics import batchnorm_layers
from dilib.inversion import Objective, Schedule, moves, seen


def textbook(
    teacher: Classifier, labels: Tensor, objective: Objective, schedule: Schedule, *, seed: int = 0
) -> Iterator[Tensor]:
    """Synthesise images in fp32 with stock operations: a forward hook per BatchNorm layer, weight gradients included.

    Yields the images (N, C, H, W) after each update. From the same noise as `inversion.updates`, with the same jitter
    and flips, at one resolution. Raises ValueError for what it does not know: ℓ1 total variation, a rate in steps.
    """
    if objective.alpha_tv_l1 or schedule.decay == "step":
        raise ValueError("the textbook's step knows no alpha_tv_l1 and no decay by steps; use dilib.inversion.updates")
    network = copy.deepcopy(teacher.network).to(memory_format=torch.contiguous_format)
    found: list[Tensor] = []

    def keep_distance(layer, inputs, _):
        features = inputs[0]
        mean = features.mean(dim=(0, 2, 3))
        variance = features.var(dim=(0, 2, 3), unbiased=False)
        found.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())

    for layer in batchnorm_layers(network).values():
        layer.register_forward_hook(keep_distance)
    ((size, count),) = schedule.stages
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(labels), teacher.preprocessing.channels, size, size, generator=generator)
    images = images.to(labels.device).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=schedule.lr)
    for step, move in enumerate(moves(schedule, size, count, generator)):
        view = seen(images, *move)
        if schedule.decay == "cosine":
            optimizer.param_groups[0]["lr"] = schedule.lr * (1 + math.cos(math.pi * step / count)) / 2
        found.clear()
        network.zero_grad()
        optimizer.zero_grad()
        loss = F.cross_entropy(network(view), labels) + objective.alpha_f * sum(found)
        across, down = view[..., 1:] - view[..., :-1], view[..., 1:, :] - view[..., :-1, :]
        falling, rising = view[..., 1:, 1:] - view[..., :-1, :-1], view[..., 1:, :-1] - view[..., :-1, 1:]
        loss = loss + objective.alpha_tv * (across.norm() + down.norm() + falling.norm() + rising.norm())
        loss = loss + objective.alpha_l2 * view.norm()
        loss.backward()
        optimizer.step()
        if schedule.clip:
            with torch.no_grad():
                images.copy_(teacher.preprocessing.clip(images))
        yield images.detach()
