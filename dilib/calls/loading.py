"""The network in a folder that a call wrote, found again."""

from pathlib import Path

from torch import nn

from dilib.calls import folders
from dilib.calls.classes import with_classes
from dilib.calls.distill import STUDENT
from dilib.calls.given import classes_of
from dilib.calls.prune import without_filters
from dilib.calls.quantize import on_bits
from dilib.calls.tuning import NETWORK
from dilib.classifier import Classifier
from dilib.weights import load_weights


def load_network(teacher: Classifier, folder: Path | str) -> nn.Module:
    """The network in a folder that `prune`, `quantize` or `add_classes` wrote, in evaluation mode.

    Of the teacher only the architecture matters. Raises ValueError for another folder, or one that is not done.

    Example:
        >>> smaller = load_network(teacher, "my-pruned")
    """
    folder = folders.place(folder)
    classes_of(teacher, trained=False)
    asked = folders.asked(folder)
    shaped = {
        "prune": lambda: without_filters(teacher, folder),
        "quantize": lambda: on_bits(teacher, asked["bits"], teacher.example),
        "add_classes": lambda: with_classes(teacher, asked["classes"], asked["seed"]),
    }
    if asked.get("call") == "distill":
        raise ValueError(f"{folder} holds a student; read it by load_weights(student, {str(folder / STUDENT)!r})")
    if asked.get("call") not in shaped:
        raise ValueError(f"{folder} holds a run of {asked.get('call')}; give a folder of {', '.join(shaped)}")
    if not (folder / NETWORK).exists():
        raise ValueError(f"{folder} is not done; repeat the call that began it")
    return load_weights(shaped[asked["call"]](), folder / NETWORK)
