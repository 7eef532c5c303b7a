"""A network tuned in a folder on images that stand in for its data; a run that was stopped goes on."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from dilib import precision as precisions
from dilib.artifacts import fingerprint_of
from dilib.calls import budget
from dilib.calls.given import identity
from dilib.classifier import Classifier, Size, sides
from dilib.data import Split
from dilib.distillation import PoolSettings, distill_on_pool
from dilib.evaluation import split_accuracy
from dilib.inversion import SMALL
from dilib.progress import counted
from dilib.rounds import Run
from dilib.weights import save_weights

ROUNDS = 10
NETWORK, CHECKPOINT = "network.safetensors", "checkpoint.safetensors"


@dataclass(frozen=True)
class Compressed:
    """A network, in evaluation mode, and its top-1 on the test images, if there are any, before and after tuning."""

    network: nn.Module
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Tuning:
    """What somebody asks for: images, uint8 (N, C, H, W), at which rate, and how long: `minutes`, or `updates`."""

    pixels: Tensor
    lr: float
    minutes: float
    updates: int | None
    precision: str | None
    seed: int
    keep_statistics: bool = False  # BatchNorm's, as they are

    def asked(self, teacher: Classifier, *before: object) -> dict:
        """What a folder is told apart by, the settings of what comes before tuning among it."""
        return {
            **({"updates": self.updates} if self.updates else {"minutes": self.minutes}),
            "precision": self.precision,
            "seed": self.seed,
            **identity(teacher, [self._settings(teacher), self.keep_statistics, *before]),
            "images": fingerprint_of({"pixels": self.pixels}),
        }

    def decided(self, teacher: Classifier, network: nn.Module) -> dict:
        """The precision, which is the teacher's here, and how many updates a round, for which a few are tried."""
        each = None if self.updates else budget.update_seconds(teacher, network, self.pixels, self._settings(teacher))
        updates = self.updates or 60 * self.minutes / each
        return {"precision": precisions.name(teacher.precision), "updates": max(1, int(updates / ROUNDS))}

    def tuned(
        self, teacher: Classifier, network: nn.Module, decided: dict, test: Split | None, folder: Path
    ) -> Compressed:
        """The network, taught in place to say what the teacher says of the images, and written into the folder."""
        before = None if test is None else split_accuracy(teacher.with_network(network), test)
        settings = replace(self._settings(teacher), updates=decided["updates"])
        with counted(ROUNDS, f"tuning {type(teacher.network).__name__}") as on_round:
            run = Run(self.seed, folder / CHECKPOINT, decided, on_round)
            keep = self.keep_statistics
            distill_on_pool(teacher, network, self.pixels, None, settings, run, keep_statistics=keep)
        save_weights(folder / NETWORK, network)
        after = None if test is None else split_accuracy(teacher.with_network(network), test)
        return Compressed(network.eval(), before, after)

    def _settings(self, teacher: Classifier) -> PoolSettings:
        shift = max(1, min(sides(teacher.preprocessing.size)) // 8)
        return PoolSettings(ROUNDS, 1, batch_size(teacher), lr=self.lr, decay="linear", temperature=5.0, shift=shift)


def batch_size(teacher: Classifier) -> int:
    """How many images a mini-batch has."""
    return 32 if large(teacher.preprocessing.size) else 128


def large(size: Size) -> bool:
    """Whether images of this size take so long that there will be few of them."""
    return max(sides(size)) > SMALL
