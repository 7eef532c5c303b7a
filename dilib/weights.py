"""Weights of somebody's network from a file, without running any code that the file might hold."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dilib.artifacts import write_atomically
from dilib.downloads import reason

NESTED = ("state_dict", "model_state_dict", "model", "net")  # where training scripts keep a network's state
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of networks that were part of others when they were saved


def load_weights(network: nn.Module, path: Path | str) -> nn.Module:
    """The network with the weights of a file, in evaluation mode: safetensors, or a state dict that torch saved.

    A state dict may stand under "state_dict" or the like, and its names begin with "module." or "model.". Raises
    ValueError for a file that is neither, or does not fit the network.

    Example:
        >>> network = load_weights(my_package.my_network(), "weights.safetensors")
    """
    if not isinstance(network, nn.Module):
        raise ValueError(f"the network is a {type(network).__name__}; give a torch.nn.Module first, then the file")
    state = _unwrapped(_state(Path(path)), network)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        why = _first_misfit(network, state, error)
        raise ValueError(f"{path} does not fit {type(network).__name__} ({why})") from error
    return network.eval()


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's weights as safetensors, whole or not at all."""
    state = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    write_atomically(path, save(state, {"format": "pt"}))


def _state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give one of safetensors, or a state dict that torch saved")
    try:
        return load_file(path)
    except (SafetensorError, OSError):
        pass
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        said = "it holds more than tensors, as a whole network does"
        raise ValueError(f"{path} can't be read as weights ({said}); save network.state_dict() in its place") from error
    except Exception as error:  # unpickling raises whatever a file makes it stumble over
        raise ValueError(
            f"{path} can't be read as weights ({reason(error)}); save network.state_dict() by torch or safetensors"
        ) from error
    nested = (found[key] for key in NESTED if isinstance(found, Mapping) and isinstance(found.get(key), Mapping))
    found = next(nested, found)
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        names = f" but {', '.join(map(str, list(found)[:5]))}" if isinstance(found, Mapping) and found else ""
        raise ValueError(f"{path} holds no state dict{names}; save network.state_dict() by torch or safetensors")
    return found


def _unwrapped(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    own = network.state_dict()
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state) and not all(name.startswith(prefix) for name in own):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def _first_misfit(network: nn.Module, state: Mapping[str, Tensor], error: Exception) -> str:
    """The first name or shape that differs, which says more than torch's list of all."""
    own = network.state_dict()
    for name, value in own.items():
        if name not in state:
            return f"it lacks {name}"
        if value.shape != state[name].shape:
            return f"{name} is {tuple(state[name].shape)} there and {tuple(value.shape)} in the network"
    other = next((name for name in state if name not in own), None)
    return f"the network has no {other}" if other else reason(error)


def network_at(place: str) -> nn.Module:
    """What package.module:function returns, called without arguments. Raises ValueError where that is no network.

    Example:
        >>> network_at("torchvision.models:resnet18")
    """
    module, _, function = place.partition(":")
    if not (module and function):
        raise ValueError(f"{place!r} names no network; write it as package.module:function")
    try:
        found = import_module(module)
        made = getattr(found, function)() if hasattr(found, function) else None
    except Exception as error:  # importing and calling somebody's code may raise anything
        why = f"{type(error).__name__}: {reason(error)}"
        raise ValueError(f"{place} can't be made ({why}); is it importable here?") from error
    if not hasattr(found, function):
        raise ValueError(f"{module} has no {function}; write {module}: and the name of a function in it")
    if not isinstance(made, nn.Module):
        raise ValueError(f"{place} returns a {type(made).__name__}; have it return a torch.nn.Module")
    return made
