"""What a network that somebody else built takes and gives, as far as one forward pass can tell."""

import copy
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dilib.downloads import reason

WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


@dataclass(frozen=True)
class Structure:
    """How many classes a classifier tells apart, and the layer that its logits come from.

    `head` is the name of a linear layer or a 1×1 convolution, or None where neither makes the logits.
    """

    classes: int
    head: str | None


def structure(network: nn.Module, images: Tensor) -> Structure:
    """What a forward pass of a network in evaluation mode shows, whatever order its layers were registered in.

    `images` (N, C, H, W) are normalised. Raises ValueError for an output that is no logits (N, K).
    """
    calls: list[tuple[str, Tensor]] = []
    handles = [
        layer.register_forward_hook(lambda layer, inputs, output, name=name: calls.append((name, output)))
        for name, layer in network.named_modules()
        if _may_be_head(layer)
    ]
    try:
        with undisturbed(), torch.enable_grad():
            logits = logits_of(network(images.detach().requires_grad_().clone()), network)
            classes = logits.shape[1]
            head = _last_before(logits, [call for call in calls if call[1].shape[1:2] == (classes,)])
    finally:
        for handle in handles:
            handle.remove()
    return Structure(classes, head)


def _may_be_head(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and set(layer.kernel_size) == {1})


def _last_before(logits: Tensor, calls: list[tuple[str, Tensor]]) -> str | None:
    """The layer called last of those that the logits depend on: other heads may run after it."""
    if not (calls and logits.requires_grad):
        return None
    gradients = torch.autograd.grad(logits.sum(), [output for _, output in calls], allow_unused=True)
    reached = [name for (name, _), gradient in zip(calls, gradients, strict=True) if gradient is not None]
    return reached[-1] if reached else None


def logits_of(output, network: nn.Module) -> Tensor:
    """The logits (N, K) in what a network returns: a tensor, `.logits`, a dictionary's "logits", or a tuple's first.

    Raises ValueError for anything else.
    """
    found = output
    if isinstance(found, Mapping) and "logits" in found:
        found = found["logits"]
    elif isinstance(getattr(found, "logits", None), Tensor):
        found = found.logits
    elif isinstance(found, tuple | list) and found:
        found = found[0]
    if isinstance(found, Tensor) and found.ndim == 4 and found.shape[2:] == (1, 1):
        found = found.flatten(1)
    if not (isinstance(found, Tensor) and found.ndim == 2 and found.is_floating_point()):
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise ValueError(
            f"{type(network).__name__} returns a {type(output).__name__}{shape} without logits (N, K); "
            "wrap it in a module whose forward returns them"
        )
    return found


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself out of DataParallel, DistributedDataParallel and torch.compile."""
    while (inner := WRAPPERS.get(type(network).__name__)) and hasattr(network, inner):
        network = getattr(network, inner)
    return network


def copied(network: nn.Module) -> nn.Module:
    """A deep copy; features that a network keeps from its last forward pass are copied without their graph.

    Raises ValueError for what can't be copied, such as a scripted module.
    """
    kind = type(network).__name__
    if any(isinstance(layer, torch.jit.ScriptModule) for layer in network.modules()):
        raise ValueError(
            f"{kind} is scripted, so its layers can't be looked into; give the module that it was made from"
        )
    try:
        with _WithoutGraphs():
            return copy.deepcopy(network)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{kind} can't be copied ({reason(error)}); keep no such thing in it") from error


class _WithoutGraphs(TorchFunctionMode):
    """Lets deepcopy take tensors that hang on a graph, which it refuses, as plain values."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return function(*args, **(kwargs or {}))


@contextmanager
def undisturbed(seed: int = 0):
    """Random numbers from `seed` inside; outside, torch's generators, on the CPU and the current GPU, are as before."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield
