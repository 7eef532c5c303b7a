"""The loop that every training here is made of: rounds that are timed, checked, saved, and gone on from."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dilib import precision as precisions
from dilib.artifacts import load_tensors, save_tensors
from dilib.checks import check_gradients, check_seed
from dilib.structure import undisturbed

ROUND_SEEDS = 100_003  # round i of a run with seed s draws random numbers from seed s·ROUND_SEEDS + i


class Stateful(Protocol):
    """What a checkpoint holds: a module, an optimiser or a learning-rate scheduler."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> object: ...


@dataclass(frozen=True)
class Run:
    """How one training is run: its seed, the checkpoint it goes on from, and whom to tell after each round.

    `card` says what is trained; a checkpoint with another card is ignored. `on_round` is told how many rounds are done.
    Of processes that train one network together, only one `saves` its checkpoint.
    """

    seed: int = 0
    checkpoint: Path | None = None
    card: dict = field(default_factory=dict)
    on_round: Callable[[int], object] = lambda done: None
    saves: bool = True

    def __post_init__(self):
        check_seed(self.seed)

    def of(self, precision: torch.dtype, saves: bool = True) -> "Run":
        """The run of a network that computes in this precision: another one's checkpoint is another run's."""
        return replace(self, card={**self.card, "precision": precisions.name(precision)}, saves=saves)


def in_rounds(
    work: Callable[[int, torch.Generator], dict[str, float]],
    rounds: int,
    parts: Mapping[str, Stateful],
    run: Run,
    label: str,
) -> dict[str, list[float]]:
    """Call `work(round, random)` for each round that is not done yet; what it measured, one number a round, by name.

    `work` returns at least its "loss"; "seconds" are added unless it counts them itself. After each round the state of
    all `parts` is saved, so that a run which is stopped ends with the numbers of one which is not.
    Raises FloatingPointError when the loss stops being finite.
    """
    check_gradients()
    done, history = _restored(parts, run)
    for index in range(done, rounds):
        started = time.perf_counter()
        seed = run.seed * ROUND_SEEDS + index
        with undisturbed(seed):  # dropout draws from torch's own generator
            measured = work(index, torch.Generator().manual_seed(seed))
        loss = measured.pop("loss")
        if not math.isfinite(loss):
            raise FloatingPointError(f"{label}: loss {loss} in round {index + 1}; lower the learning rate")
        measured.setdefault("seconds", time.perf_counter() - started)
        for name, value in measured.items():
            history.setdefault(name, []).append(value)
        if run.checkpoint and run.saves:
            _save(parts, run, index + 1, history)
        run.on_round(index + 1)
    return history


def _save(parts: Mapping[str, Stateful], run: Run, done: int, history: dict) -> None:
    tensors: dict[str, Tensor] = {}
    state = {name: _without_tensors(part.state_dict(), name, tensors) for name, part in parts.items()}
    save_tensors(run.checkpoint, tensors, {**run.card, "done": done, "history": history, "state": state})


def _restored(parts: Mapping[str, Stateful], run: Run) -> tuple[int, dict[str, list[float]]]:
    """How many rounds are done, and their history, after loading the checkpoint into `parts` if there is one."""
    found = load_tensors(run.checkpoint, run.card) if run.checkpoint else None
    if found is None or found[1].get("state", {}).keys() != parts.keys():
        return 0, {}
    tensors, card = found
    for name, part in parts.items():
        part.load_state_dict(_with_tensors(card["state"][name], tensors))
        if isinstance(part, torch.optim.Optimizer):
            _in_memory_format_of_parameters(part)
    return card["done"], card["history"]


def _without_tensors(value, name: str, tensors: dict[str, Tensor]):
    """A state as JSON can hold it: its tensors go to `tensors`, and their names stand in their places."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _without_tensors(each, f"{name}.{key}", tensors)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_without_tensors(each, f"{name}.{index}", tensors) for index, each in enumerate(value)]
    return value


def _with_tensors(value, tensors: dict[str, Tensor]):
    if isinstance(value, list):
        return [_with_tensors(each, tensors) for each in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _with_tensors(each, tensors) for key, each in value["items"]}
    return value


def _in_memory_format_of_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Fused optimisers take it for granted that their state has the parameters' memory format; files have another."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)
