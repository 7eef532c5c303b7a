"""Sec. 4.5 as cells: data sets added one after another to a trained network, by five methods (Tables 7 and 11)."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from dilib import data, sources
from dilib.artifacts import digest, has_tensors, load_tensors, save_tensors
from dilib.classifiers import CLASSES, Classifier
from dilib.data import Data, Split
from dilib.evaluation import predict, split_accuracy
from dilib.extension import METHODS, binary_cross_entropy, extend, learn_new_classes, shift_to_binary
from dilib.models import Preprocessing
from dilib.progress import bar
from dilib.recipe import Recipe
from dilib.scales import Continual
from dilib.statistics import FeatureStatistics
from dilib.study import TILES, Study, plain
from dilib.subject import Subject, of_imagenet, of_study
from dilib.training import train
from dilib.workers import cells_side_by_side, side_by_side

DREAMS = ("deepdream", "deepinversion")  # the methods that make images
WATCHED = 1000  # images of a data set that are looked at along the way, and that its statistics are measured on
AT_ONCE = 250  # images in a forward pass
HALF = "half"  # the base data set's classes, split into old ones and new ones that resemble them
Task = tuple[str, tuple[str, ...], str, int]  # the network, the data sets added to it, the method, the seed


@dataclass(frozen=True)
class Known:
    """A network as extended so far: its classes' names in order, and for each data set its first class.

    BatchNorm is frozen and remembers the base data set alone; `statistics` are of all data sets, each as large a part
    as it has classes.
    """

    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    starts: tuple[int, ...]
    statistics: FeatureStatistics


def sizes(study: Study) -> Continual:
    """The scale's settings for the study's data set."""
    return study.scale.continual_imagenet if study.dataset == "imagenet" else study.scale.continual


def check_addition(known: Sequence[str], channels: int, added: Data) -> None:
    """Raise ValueError unless the data set can be added to a network with these classes and input channels."""
    clash = sorted(set(known) & set(added.classes))
    if clash:
        raise ValueError(f"{added.title} has classes that are known already ({', '.join(clash[:3])}); rename them")
    if added.preprocessing.channels != channels:
        raise ValueError(
            f"{added.title} has {added.preprocessing.channels} channel(s), the network takes {channels}; convert it"
        )
    for label, name in enumerate(added.classes):
        if not (added.train.labels == label).any():
            raise ValueError(f"{added.title} has no training image of class {name!r}; remove the class or add images")


def chains(study: Study, added: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Which data sets (`added`, or the scale's) are added one after another, by the paper's task."""
    settings = sizes(study)
    names = tuple(added) or settings.added
    alone = {role: (name,) for role, name in zip(settings.roles, names, strict=False)}
    return alone | ({"both": names} if len(names) > 1 else {})


def tasks(study: Study, seeds: Sequence[int], added: Sequence[str] = ()) -> list[Task]:
    """Table 7: every method on every chain and, for the first seed, on halves of the base. Oracles have one seed.

    Table 11, where the scale has a second network: what the paper has of it, for the first seed.
    """
    settings, every = sizes(study), chains(study, added)
    first, *second = settings.networks
    table7 = [
        (first, chain, method, seed)
        for chain in every.values()
        for seed in seeds
        for method in settings.methods
        if seed == seeds[0] or not method.startswith("oracle")
    ]
    halves = [(first, (HALF,), method, seeds[0]) for method in settings.methods if settings.old]
    table11 = [
        (network, chain, method, seeds[0])
        for network in second
        for chain in every.values()
        for method in settings.methods
        if len(chain) == 1 and method != "deepdream"
    ]
    return [*table7, *halves, *table11]


def run(study: Study, tasks: Sequence[Task]) -> None:
    """The cells of these tasks, side by side, where they are not there yet."""
    for added in dict.fromkeys(added for _, added, _, _ in tasks):
        _check(study, added)
    # Images from the base networks are what all chains begin with: every process makes some of them.
    for network, added, method, seed in dict.fromkeys((n, a[:1] == (HALF,), m, s) for n, a, m, s in tasks):
        if method in DREAMS:
            dreams_cell(study, network, (HALF,) if added else (), method, seed)
    cells_side_by_side(cell, _key, study, tasks)


def _check(study: Study, added: tuple[str, ...]) -> None:
    first, *others = _data_sets(study, added)
    classes, there = CLASSES if study.dataset == "imagenet" else first.classes, len(first.classes)
    if len(classes) != there:
        raise ValueError(f"{first.title} has {there} classes here and the network {len(classes)}; put the others there")
    for other in others:
        check_addition(classes, first.preprocessing.channels, other)
        classes += other.classes


def cell(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> dict:
    """Top-1 on each data set over all classes, after adding data sets one by one, and along the last addition."""
    name, settings, _ = _key(study, network, added, method, seed)
    return study.cell(name, settings, lambda: _metrics(study, network, added, method, seed), seed)


def finished(study: Study, network: str, added: tuple[str, ...], method: str) -> list[dict]:
    """The cells there are, one a seed."""
    name, settings, _ = _key(study, network, added, method, 0)
    return study.cells(name, settings)


def metric(column: str) -> str:
    """The name, in a cell's metrics, of top-1 on an added data set, or "combined", "base", or HALF as it is."""
    return column if column in ("combined", "base", HALF) else data.slug(column)


def trained(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> Known | None:
    """The extended network of a cell, or None where its weights are not in artifacts."""
    there = has_tensors(*_weights(study, network, added, method, seed))
    return _after(study, network, added, method, seed)[0] if there else None


def untrained(study: Study, network: str, classes: int) -> nn.Module:
    """A network of the same architecture with random weights and so many classes in all."""
    subject = _subject(study, network)
    return extend(subject.fresh(0), classes - subject.classes(), seed=0)


def dreams_cell(study: Study, network: str, halved: bool, method: str, seed: int) -> dict:
    """What a base network makes of images dreamt from itself; all processes make them together.

    Its samples are the first images, of classes `sample_labels`.
    """
    name, settings, _ = _dreams_key(study, network, halved, method, seed)
    return study.cell(name, settings, lambda: _dreams_metrics(study, network, halved, method, seed), seed)


def finished_dreams(study: Study, network: str, method: str) -> list[dict]:
    """The cells there are of the whole base network's dreams, one a seed."""
    name, settings, _ = _dreams_key(study, network, False, method, 0)
    return study.cells(name, settings)


def _dreams_key(study: Study, network: str, halved: bool, method: str, seed: int) -> tuple[str, dict, int]:
    name = f"continual-dreams--{network}{'--half' if halved else ''}--{method}"
    images = sizes(study).extension.images_per_class
    settings = {"base": _base_settings(study, network, halved), "dreams": _dreams(study, network, method)}
    return name, plain({**settings, "images_per_class": images}), seed


def _dreams_metrics(study: Study, network: str, halved: bool, method: str, seed: int) -> dict:
    known = base(study, network, halved, method)
    recipe, count = _recipe(study, network, known, method, seed), _dreams_of(study, known)
    unmade, started = sources.unmade(study, recipe, count), time.perf_counter()
    side_by_side(_fill, study, [(network, halved, method, seed)] * study.jobs)
    made = sources.dreamt(study, recipe, count)
    return {
        "images": count,
        "seconds": (time.perf_counter() - started) / unmade if unmade else 0.0,
        "processes": study.jobs,
        "teacher_top1": split_accuracy(known.network, made, known.preprocessing, AT_ONCE),
        "sample_labels": made.labels[: 2 * TILES].tolist(),
        "samples": made.pixels[: 2 * TILES],
    }


def _fill(study: Study, network: str, halved: bool, method: str, seed: int) -> dict:
    known = base(study, network, halved, method)
    sources.dreamt(study, _recipe(study, network, known, method, seed), _dreams_of(study, known))
    return {}


def _dreams(study: Study, network: str, method: str) -> dict:
    """How images are dreamt: what a recipe has beside network, classes and seed."""
    settings, subject = sizes(study), _subject(study, network)
    objective = settings.objective or subject.objective
    return {
        "batch_size": settings.batch_size,
        "objective": objective.deepdream() if method == "deepdream" else objective,
        "schedules": (settings.schedule,),
        "first_layer": subject.first_layer,
    }


def _recipe(study: Study, network: str, known: Known, method: str, seed: int) -> Recipe:
    # Neighbouring classes are often alike, and statistics want a batch of unlike ones.
    classes = torch.randperm(len(known.classes), generator=torch.Generator().manual_seed(seed))
    teacher = Classifier(network, known.network, known.preprocessing)
    dreams = _dreams(study, network, method)
    return Recipe(teacher, tuple(classes.tolist()), **dreams, seed=seed, statistics=known.statistics)


def _dreams_of(study: Study, known: Known) -> int:
    """How many images are dreamt from a network: so many a class, rounded up to whole batches."""
    settings = sizes(study)
    wanted = settings.extension.images_per_class * len(known.classes)
    return -(-wanted // settings.batch_size) * settings.batch_size


def _subject(study: Study, network: str) -> Subject:
    if study.dataset == "imagenet":
        return of_imagenet(study.scale, network, study.device)
    return of_study(study, network)


def _base_settings(study: Study, network: str, halved: bool) -> dict:
    """What a base network's weights depend on, and the resolution it is used at."""
    settings = sizes(study)
    return {
        "network": _subject(study, network).settings,
        "size": settings.size,
        "classes": settings.old if halved else "all",
    }


def _weights(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> tuple[Path, dict]:
    """Where the weights of an extended network are, and their card."""
    card = {"settings": _key(study, network, added, method, seed)[1], "seed": seed}
    return study.artifacts / "continual" / f"{digest(card)}.safetensors", card


def _key(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> tuple[str, dict, int]:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    of_scale, words = sizes(study), [metric(name) for name in added]
    settings = {
        "base": _base_settings(study, network, added == (HALF,)),
        "added": words,
        "method": method,
        "extension": of_scale.extension,
    }
    if method == "lwf_mc":
        settings["binary"] = of_scale.binary
    elif method in DREAMS:
        settings["dreams"] = _dreams(study, network, method)
    return f"continual--{network}--{'--'.join(words)}--{method}", plain(settings), seed


def _data_sets(study: Study, added: tuple[str, ...]) -> list[Data]:
    """The base and the data sets added to it, in order."""
    settings = sizes(study)
    if added == (HALF,):
        return list(halves(study.data, settings.old))
    first = _imagenet(study, settings.size) if study.dataset == "imagenet" else study.data
    return [first, *(_loaded(name, study.data_folder, settings.size) for name in added)]


def _imagenet(study: Study, size: int) -> Data:
    """ImageNet; of a validation split alone, every other image stands in for the training split."""
    whole = _loaded("imagenet", study.data_folder, size)
    if len(whole.train.labels):
        return whole
    return replace(whole, train=_every_other(whole.test, 0), test=_every_other(whole.test, 1))


def _every_other(split: Split, first: int) -> Split:
    return Split(split.pixels[first::2], split.labels[first::2])


_loaded = lru_cache(data.load)


def halves(whole: Data, old: Sequence[int]) -> tuple[Data, Data]:
    """A data set's old classes, and its others, each counted from 0."""
    new = [label for label in range(len(whole.classes)) if label not in old]
    return tuple(
        replace(
            whole,
            title=f"{whole.title}, {word} classes",
            train=_of_classes(whole.train, labels),
            test=_of_classes(whole.test, labels),
            classes=tuple(whole.classes[label] for label in labels),
        )
        for word, labels in (("old", sorted(old)), ("new", new))
    )


def _of_classes(split: Split, labels: list[int]) -> Split:
    chosen = torch.isin(split.labels, torch.tensor(labels))
    return Split(split.pixels[chosen], torch.searchsorted(torch.tensor(labels), split.labels[chosen]))


def base(study: Study, network: str, halved: bool, method: str) -> Known:
    """The network before anything is added; for LwF.MC fine-tuned with binary cross-entropy, as it asks for."""
    varied = _halved(study) if halved else study
    subject = _subject(varied, network)
    teacher = subject.load()
    preprocessing = replace(teacher.preprocessing, size=sizes(study).size)
    trained = _binary(varied, network, teacher.network, preprocessing) if method == "lwf_mc" else teacher.network
    return Known(
        trained,
        preprocessing,
        CLASSES if study.dataset == "imagenet" else varied.data.classes,
        (0,),
        FeatureStatistics.from_batchnorm(trained, first=subject.first_layer),
    )


def _halved(study: Study) -> Study:
    """The study on the old half of its classes, with a teacher of its own."""
    varied = copy.copy(study)
    varied.data = _data_sets(study, (HALF,))[0]
    varied.place = study.place.with_name(f"{study.place.name}-{HALF}")
    varied.artifacts = study.artifacts / HALF
    return varied


def _binary(study: Study, network: str, teacher: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """The teacher fine-tuned on its own data with binary cross-entropy."""
    settings, split = sizes(study).binary, _data_sets(study, ())[0].train
    card = plain({"teacher": _subject(study, network).settings, "binary": settings, "size": preprocessing.size})
    path = study.artifacts / "teachers" / f"{network}-binary.safetensors"
    with study.lock(f"teacher-binary-{network}"):
        if not has_tensors(path, card):
            shift_to_binary(teacher, _logits(teacher, preprocessing, _some(split, WATCHED)))
            with bar(settings.epochs, "binary cross-entropy for LwF.MC") as progress:
                train(
                    teacher.requires_grad_(True),
                    split.pixels.to(study.device),
                    split.labels.to(study.device),
                    settings,
                    loss_of=binary_cross_entropy,
                    prepare=preprocessing.normalise,
                    on_epoch=lambda epoch, _: progress.update(epoch - progress.n),
                )
            save_tensors(path, teacher.state_dict(), card)
    teacher.load_state_dict(load_tensors(path, card)[0])
    return teacher.eval()


def _metrics(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> dict:
    known, progress = _after(study, network, added, method, seed)
    top1s = [_top1(known, each.test, start) for each, start in zip(_data_sets(study, added), known.starts, strict=True)]
    return {
        "combined": sum(top1s) / len(top1s),
        **dict(zip(("base", *map(metric, added)), top1s, strict=True)),
        "classes": known.classes,
        "seconds": progress["seconds"].item(),
        "along": progress["along"].tolist(),  # updates done, then top-1 on each data set
        "guessed": progress["guessed"].tolist(),  # see `_guessed`; before and after
    }


def _after(study: Study, network: str, added: tuple[str, ...], method: str, seed: int) -> tuple[Known, dict]:
    """The network after these additions, made first if it is not there yet, and how the last one went, as tensors."""
    if not added:
        return base(study, network, False, method), {}
    path, card = _weights(study, network, added, method, seed)
    halved = added == (HALF,)
    before = base(study, network, True, method) if halved else _after(study, network, added[:-1], method, seed)[0]
    new = _data_sets(study, added)[-1]
    known = replace(
        before,
        network=extend(before.network, len(new.classes), seed),
        classes=before.classes + new.classes,
        starts=(*before.starts, len(before.classes)),
    )
    with study.lock(f"continual-{path.stem}"):
        if not has_tensors(path, card):
            progress = _learn(study, network, added, before, known, method, seed)
            weights = {f"network.{name}": value for name, value in known.network.state_dict().items()}
            save_tensors(path, weights | progress | _joined(before, known, new).tensors(), card)
    tensors, _ = load_tensors(path, card)
    known.network.load_state_dict({name[8:]: value for name, value in tensors.items() if name.startswith("network.")})
    known.network.eval()
    return replace(known, statistics=before.statistics.like(tensors)), tensors


def _joined(before: Known, known: Known, new: Data) -> FeatureStatistics:
    """The statistics so far, joined by those that the network has on the images it has just learnt."""
    images = known.preprocessing.normalise(_some(new.train, WATCHED).pixels)
    device = next(known.network.parameters()).device
    measured = FeatureStatistics.from_images(known.network, images.to(device), AT_ONCE)
    return before.statistics.joined(measured, share=len(new.classes) / len(known.classes))


def _learn(
    study: Study, network: str, added: tuple[str, ...], before: Known, known: Known, method: str, seed: int
) -> dict[str, Tensor]:
    """Train the extended network in place; the course of its accuracies, what was taken for what, and seconds."""
    started, settings = time.perf_counter(), sizes(study).extension
    data_sets = _data_sets(study, added)
    tests = [_some(each.test, WATCHED) for each in data_sets]
    label = f"{data_sets[-1].title} by {METHODS[method]}, seed {seed}"
    along, guessed = [], [_guessed(known, tests)]
    with bar(settings.updates, label) as progress:

        def watch(done: int) -> None:
            progress.update()
            if done % max(1, settings.updates // 10) == 0:
                along.append([done, *(_top1(known, *each) for each in zip(tests, known.starts, strict=True))])

        learn_new_classes(
            before.network,
            known.network,
            _memories(study, network, data_sets[:-1], before, method, seed),
            Split(data_sets[-1].train.pixels, data_sets[-1].train.labels + len(before.classes)),
            known.preprocessing,
            settings,
            method,
            seed=seed,
            on_update=watch,
        )
    guessed.append(_guessed(known, tests))
    return {
        "along": torch.tensor(along),
        "guessed": torch.stack(guessed),
        "seconds": torch.tensor(time.perf_counter() - started, dtype=torch.float64),
    }


def _memories(
    study: Study, network: str, known_data: list[Data], before: Known, method: str, seed: int
) -> Split | None:
    """Old classes' images as the method has them, with labels: none, real ones, or dreamt by the network so far."""
    if method == "lwf_mc":
        return None
    if method in DREAMS:
        return sources.dreamt(study, _recipe(study, network, before, method, seed), _dreams_of(study, before))
    count = sizes(study).extension.images_per_class
    parts = [_first_of_each(each, count, start) for each, start in zip(known_data, before.starts, strict=True)]
    return Split(*(torch.cat(columns) for columns in zip(*((p.pixels, p.labels) for p in parts), strict=True)))


def _first_of_each(each: Data, count: int, start: int) -> Split:
    """The first `count` training images of every class, labels counted from `start`."""
    chosen = torch.cat([(each.train.labels == label).nonzero()[:count, 0] for label in range(len(each.classes))])
    return Split(each.train.pixels[chosen], each.train.labels[chosen] + start)


def _some(split: Split, count: int) -> Split:
    """Every so many-th image, at most `count`."""
    step = -(-len(split.labels) // count)
    return Split(split.pixels[::step], split.labels[::step])


def _top1(known: Known, test: Split, start: int) -> float:
    """Top-1 in percent over all classes on a data set whose first class is `start`."""
    return split_accuracy(known.network, Split(test.pixels, test.labels + start), known.preprocessing, AT_ONCE)


def _guessed(known: Known, tests: Sequence[Split]) -> Tensor:
    """(D, D): how many percent of each data set's images (rows) are taken for a class of each data set (columns)."""
    boundaries = torch.tensor([*known.starts[1:], len(known.classes)])
    rows = []
    for test in tests:
        guesses = _logits(known.network, known.preprocessing, test).argmax(1).cpu()
        taken_for = torch.bucketize(guesses, boundaries, right=True)
        rows.append(100 * taken_for.bincount(minlength=len(tests)) / len(test.labels))
    return torch.stack(rows)


def _logits(network: nn.Module, preprocessing: Preprocessing, split: Split) -> Tensor:
    device = next(network.parameters()).device
    batches = [preprocessing.normalise(pixels).to(device) for pixels in split.pixels.split(AT_ONCE)]
    return torch.cat([predict(network, batch) for batch in batches])
