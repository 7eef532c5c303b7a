"""The precision that networks compute in: an argument everywhere, measured once as a default."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dilib.structure import logits_of
from dilib.timing import processor_seconds, threads


def fastest(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware gains clearly from it, else float32.

    A GPU is asked whether it has units for it, a CPU timed. That takes milliseconds, but two timings may differ: ask
    once, and pass the answer on.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    works = {dtype: _convolution(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(works, float("inf"))
    with threads(1):
        for _ in range(6):
            for dtype, work in works.items():
                best[dtype] = min(best[dtype], processor_seconds(work, device))
    return torch.bfloat16 if best[torch.bfloat16] * 1.5 < best[torch.float32] else torch.float32


def _convolution(device: torch.device, dtype: torch.dtype) -> Callable[[], float]:
    images = torch.ones(64, 64, 16, 16, device=device).to(dtype, memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
    return lambda: F.conv2d(images, weight, padding=1).sum().item()


def name(dtype: torch.dtype) -> str:
    """As it stands in cards and cells: "float32"."""
    return str(dtype).removeprefix("torch.")


def named(text: str) -> torch.dtype:
    """What `name` was given. Raises ValueError for anything but float32 and bfloat16."""
    known = {name(dtype): dtype for dtype in (torch.float32, torch.bfloat16)}
    if text not in known:
        raise ValueError(f"unknown precision {text!r}; choose from {', '.join(known)}")
    return known[text]


def autocast_logits(network: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits (N, K), fp32, of images (N, C, H, W) from a forward pass in `dtype`; weights and gradients stay fp32."""
    images = in_format(images, _memory_format(network))
    return autocast(lambda batch: logits_of(network(batch), network), images, dtype)


def autocast(function: Callable[[Tensor], Tensor], batch: Tensor, dtype: torch.dtype) -> Tensor:
    """What a function makes of a batch in `dtype`, as fp32; its weights and gradients stay fp32."""
    with torch.autocast(batch.device.type, dtype, enabled=dtype != torch.float32):
        return function(batch).float()


def _memory_format(network: nn.Module) -> torch.memory_format:
    """Channels last where the network's weights are: one that flattens features by view takes no other than its own."""
    for weight in network.parameters():
        if weight.ndim == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
    return torch.contiguous_format


def in_format(tensor: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The tensor (N, C, H, W) in a memory format; strides of one channel, which may say either, say no other."""
    ambiguous = memory_format == torch.contiguous_format and tensor.shape[1] == 1
    return (tensor.clone if ambiguous else tensor.contiguous)(memory_format=memory_format)


def in_safe_format(network: nn.Module) -> nn.Module:
    """The network, out of channels last where training it so may overwrite other memory.

    For weights of a strided 1×1 convolution that reads fewer than 8 channels, oneDNN 3.12 writes past its buffers on
    CPUs that have AVX2 and no more.
    """
    layers = (layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    if any(set(layer.kernel_size) == {1} and max(layer.stride) > 1 and layer.in_channels < 8 for layer in layers):
        for weight in network.parameters():
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)
    return network
