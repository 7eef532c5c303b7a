"""Adding classes to a trained network without its data: the loss and the training of Sec. 4.5 and E.1."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dilib import losses
from dilib.checks import check_gradients, check_not_negative, check_positive, check_whole
from dilib.classifier import Classifier, Frozen, head_of
from dilib.data import Split
from dilib.feature_statistics import batchnorm_layers
from dilib.precision import autocast_logits
from dilib.structure import copied
from dilib.training import augment, descend, sgd

CONTINUAL_METHODS = {  # in the paper's words, but for the one that is not the paper's
    "lwf_mc": "LwF.MC",
    "deepdream": "DeepDream",
    "deepinversion": "DeepInversion",
    "amortised": "Amortised DeepInversion",
    "oracle_distill": "Oracle (distill)",
    "oracle_classify": "Oracle (classify)",
}


@dataclass(frozen=True)
class ExtensionSettings:
    """How a network learns new classes: SGD whose rate falls to a fifth at each of `decay_at`, gradients clipped.

    A step takes `batch_size` old (synthesised) and as many new (real) images, of which there are `images_per_class`
    and as many as the data set has. `clip` is the largest norm of a gradient. Only the modules `trained` learn, or all
    where none is named.
    """

    updates: int = 5000
    batch_size: int = 128
    images_per_class: int = 250
    lr: float = 0.1
    decay_at: tuple[float, ...] = (1 / 3, 1 / 2, 2 / 3, 5 / 6)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip: float = 0.1
    shift: int = 2
    flip: bool = True
    trained: tuple[str, ...] = ()

    def __post_init__(self):
        check_whole(self, "updates", "batch_size", "images_per_class")
        check_positive(self, "lr", "clip")
        check_not_negative(self, "momentum", "weight_decay", "shift")

    def lr_factor(self, update: int) -> float:
        """What the learning rate is multiplied by at an update, counted from 0."""
        return 0.2 ** sum(update >= fraction * self.updates for fraction in self.decay_at)


@dataclass(frozen=True)
class Lesson:
    """What is learnt, and by which of CONTINUAL_METHODS: `new` images, whose labels count on from the old classes.

    `memories` are images of old classes with their labels, dreamt or real; LwF.MC has none. Raises ValueError for an
    unknown method, or for memories where there should be none, or none where there should be some.
    """

    method: str
    new: Split
    memories: Split | None = None

    def __post_init__(self):
        if self.method not in CONTINUAL_METHODS:
            raise ValueError(f"unknown method {self.method!r}; choose from {', '.join(CONTINUAL_METHODS)}")
        if (self.memories is None) != (self.method == "lwf_mc"):
            raise ValueError(f"{CONTINUAL_METHODS[self.method]} {'takes no' if self.memories else 'needs'} memories")


def extend(classifier: Classifier, new: int, seed: int) -> nn.Module:
    """A copy of the network whose last layer has `new` further outputs with random weights and the old ones' mean bias.

    Raises ValueError for a network without BatchNorm, or whose logits are not those of one linear layer.
    """
    batchnorm_layers(classifier.network)
    name = head_of(classifier)
    extended = copied(classifier.network).requires_grad_(True)
    old = extended.get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise ValueError(f"classes can't be added to {name} ({old}); give a classifier that ends in a linear layer")
    torch.manual_seed(seed)
    wide = nn.Linear(old.in_features, old.out_features + new, bias=old.bias is not None).to(old.weight)
    with torch.no_grad():
        wide.weight[: old.out_features] = old.weight
        if old.bias is not None:
            wide.bias[: old.out_features] = old.bias
            wide.bias[old.out_features :] = old.bias.mean()
    extended.set_submodule(name, wide)
    _check_extended(classifier, extended, name, new)
    return extended


def _check_extended(classifier: Classifier, extended: nn.Module, head: str, new: int) -> None:
    """Raise ValueError where more than the head made the logits."""
    old = classifier.structure().classes
    try:
        found = classifier.with_network(extended).structure().classes
    except ValueError:
        found = None
    if found != old + new:
        kind = type(classifier.network).__name__
        raise ValueError(f"classes can't be added to {kind}: its logits are not those of {head} alone; give another")


@torch.no_grad()
def shift_to_binary(classifier: Classifier, logits: Tensor) -> None:
    """Shift the last bias, in place, by the mean log-sum-exp of some logits (N, K) of the network.

    The softmax stays the same, and the sigmoid of an output comes near it, so that training with binary cross-entropy
    begins close to where the network was: with a thousand classes its gradients wreck the network otherwise.
    Raises ValueError for a last layer without a bias.
    """
    head = head_of(classifier)
    bias = classifier.network.get_submodule(head).bias
    if bias is None:
        raise ValueError(f"{head} has no bias to shift; give a classifier whose last layer has one")
    bias -= logits.logsumexp(1).mean()


def dreams_term(old_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(p_o(x̂), p_k(x̂)) over a batch, p_o (N, K) padded with zeros for the new classes of p_k (N, K + M). Eq. 11."""
    log_old = old_logits.log_softmax(1)
    log_new = logits.log_softmax(1)[:, : old_logits.shape[1]]
    return (log_old.exp() * (log_old - log_new)).sum(1).mean()


def memory_term(old_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(p_o(x_k), p_k(x_k | old classes)) over a batch of new images, logits as in `dreams_term`. Eq. 11."""
    return losses.distillation(old_logits, logits[:, : old_logits.shape[1]], temperature=1.0)


def lwf_mc_loss(old_logits: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of every output: old ones to p_o's, new ones to the labels (N,). Rebuffi et al., 2017."""
    old = old_logits.shape[1]
    return binary_cross_entropy(logits[:, old:], labels - old) + _binary(logits[:, :old], old_logits.sigmoid())


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """One yes-or-no question a class: logits (N, K) with labels (N,), summed over classes, mean over the batch."""
    return _binary(logits, F.one_hot(labels, logits.shape[1]).to(logits.dtype))


def _binary(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()


def learn_new_classes(
    old: Classifier,
    extended: nn.Module,
    lesson: Lesson,
    settings: ExtensionSettings,
    *,
    seed: int = 0,
    on_update: Callable[[int], None] = lambda done: None,
) -> None:
    """Train `extended`, in place, on images of new classes and on memories of those that `old` knows. Eq. 11.

    BatchNorm stays frozen. Raises FloatingPointError when the loss is not finite at the end.
    """
    check_gradients()
    frozen = old.frozen()
    _freeze_all_but(extended, settings.trained)
    schedule = sgd(extended, settings, settings.lr_factor)
    random = torch.Generator().manual_seed(seed)
    for update in range(settings.updates):
        arriving = _batch(lesson.new, old, settings, random)
        remembered = lesson.memories and _batch(lesson.memories, old, settings, random)
        loss = _loss(frozen, extended, remembered, arriving, lesson.method)
        descend(schedule, loss, settings.clip)
        on_update(update + 1)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"loss {loss.item()} after {settings.updates} updates; lower lr ({settings.lr})")
    extended.eval()


def _loss(
    frozen: Frozen,
    extended: nn.Module,
    remembered: tuple[Tensor, Tensor] | None,
    arriving: tuple[Tensor, Tensor],
    method: str,
) -> Tensor:
    """The method's terms on a batch of memories, if it has any, and one of new images, each with its labels."""
    images, labels = arriving
    if remembered is None:
        return lwf_mc_loss(_predicted(frozen, images), autocast_logits(extended, images, frozen.dtype), labels)
    memories, truth = remembered
    both = autocast_logits(extended, torch.cat([memories, images]), frozen.dtype)
    of_memories, of_new = both.split(len(memories))
    loss = F.cross_entropy(of_new, labels)
    if method == "oracle_classify":
        return loss + F.cross_entropy(of_memories, truth)
    loss = loss + dreams_term(_predicted(frozen, memories), of_memories)
    return loss if method == "oracle_distill" else loss + memory_term(_predicted(frozen, images), of_new)


@torch.no_grad()
def _predicted(frozen: Frozen, images: Tensor) -> Tensor:
    return frozen(images)


def _freeze_all_but(network: nn.Module, trained: tuple[str, ...]) -> None:
    """Let these modules learn, or all where none is named, but never BatchNorm, which stays in evaluation mode."""
    network.train().requires_grad_(not trained)
    for name in trained:
        network.get_submodule(name).requires_grad_(True)
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval().requires_grad_(False)


def _batch(split: Split, old: Classifier, settings: ExtensionSettings, random) -> tuple[Tensor, Tensor]:
    chosen = torch.randint(len(split.labels), (settings.batch_size,), generator=random)
    images = augment(old.preprocessing.normalise(split.pixels[chosen]), settings.shift, settings.flip, random)
    return images.to(old.device), split.labels[chosen].to(old.device)
