"""Data-free knowledge transfer via DeepInversion: the method, its applications, and the study that reproduces it.

For a network of your own, `dilib.classifier.Classifier` and `Preprocessing` say what it is, and one call each does the
rest: `dilib.calls.distill.distill`, `dilib.calls.images.make_images`, `dilib.calls.prune.prune`,
`dilib.calls.quantize.quantize`, `dilib.calls.classes.add_classes`. All of them can be had from `dilib` itself.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dilib")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0"

EXPORTS = {  # from where
    "Classifier": "dilib.classifier",
    "PoolDataset": "dilib.pool",
    "Preprocessing": "dilib.classifier",
    "add_classes": "dilib.calls.classes",
    "distill": "dilib.calls.distill",
    "load_network": "dilib.calls.loading",
    "load_weights": "dilib.weights",
    "make_images": "dilib.calls.images",
    "prune": "dilib.calls.prune",
    "quantize": "dilib.calls.quantize",
}


def __getattr__(name: str):
    """What is exported, imported when it is first asked for: the commands start without waiting for torch."""
    if name not in EXPORTS:
        raise AttributeError(f"module dilib has no {name!r}")
    return getattr(import_module(EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *EXPORTS})
