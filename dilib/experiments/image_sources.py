"""Fixed sets of unlabelled images to teach from: real ones, others' (a proxy), a GAN's, and a teacher's own dreams."""

from functools import partial

import torch
from torch import Tensor

from dilib import data
from dilib.artifacts import digest, plain
from dilib.baselines import gan
from dilib.baselines.gan import ConditionalGenerator
from dilib.data import Split
from dilib.evaluation import split_accuracy
from dilib.experiments.table1_transfer import amortised_recipe, amortised_settings, by_class
from dilib.experiments.teachers import maker_of
from dilib.progress import bar, counted
from dilib.recipe import Recipe
from dilib.rounds import Run
from dilib.study.cells import Cell, Study

PROXIES = {"proxy": "proxy images", "second_proxy": "second proxy"}
SOURCES = {
    "real": "real images",
    "proxy": PROXIES["proxy"],
    "gan": "GAN",
    "deepinversion": "DeepInversion",
    "amortised": "amortised DeepInversion",
}


def source_settings(study: Study, source: str, teacher: str) -> dict:
    """Everything but the seed that a source's images depend on. Raises ValueError for an unknown source."""
    known = {**SOURCES, **PROXIES}
    if source not in known:
        raise ValueError(f"unknown image source {source!r}; choose from {', '.join(known)}")
    maker = maker_of(study, teacher)
    if source in PROXIES:
        return {"source": source, "proxy": data.identity(_proxy(study, source), study.data_folder)}
    specific = {
        "real": {},
        "gan": {"gan": study.scale.sources.gan},
        "deepinversion": {
            "teacher": maker.settings,
            "objective": maker.objective,
            "schedules": maker.schedules,
            "first_layer": maker.first_layer,
            "batch_size": maker.batch_size,
        },
        "amortised": {"teacher": maker.settings, **amortised_settings(study, teacher)},
    }
    return plain({"source": source, **specific[source]})


def available(study: Study) -> list[str]:
    """The sources that the study can have: generators make small images alone; ImageNet may lack training images."""
    if study.dataset != "imagenet":
        return list(SOURCES)
    missing = {"gan", "amortised"} | (set() if len(study.data.train.labels) else {"real"})
    return [source for source in SOURCES if source not in missing]


def images(study: Study, source: str, teacher: str, count: int, seed: int) -> Split:
    """`count` images, the first of any larger number, with labels where they have any that may be used.

    Of data sets that have fewer images, all.
    """
    if source == "deepinversion":
        return dreamt(study, maker_of(study, teacher, seed).recipe(seed), count)
    if source == "amortised":
        return dreamt(study, amortised_recipe(study, maker_of(study, teacher, seed).load(), seed), count)
    if source == "gan":
        generator, seconds = trained_gan(study, seed)
        made = gan.sample(generator, count, seed)
        return Split(made.pixels, made.labels, seconds)
    if source == "real":
        return chosen(study.data.train, min(count, len(study.data.train.labels)), seed)
    proxy = data.loaded(_proxy(study, source), study.data_folder, study.data.preprocessing.size).train
    found = chosen(proxy, min(count, len(proxy.labels)), seed)
    return Split(data.in_channels(found.pixels, study.data.preprocessing.channels), found.labels)


def _proxy(study: Study, source: str) -> str:
    """The data set that is a proxy."""
    sources = study.scale.sources
    return sources.second_proxy if source == "second_proxy" else sources.proxy


def chosen(split: Split, count: int, seed: int) -> Split:
    """`count` of the images, drawn at random. Raises ValueError where there are fewer."""
    if count > len(split.labels):
        raise ValueError(f"{count} images are asked for, but the data set has {len(split.labels)}; ask for fewer")
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed))[:count]
    return Split(split.pixels[order], split.labels[order])


def dreamt(study: Study, recipe: Recipe, count: int) -> Split:
    """The first `count` images that a recipe makes; its pool is filled as far as they reach.

    With a shared start, the first after the warm-up.
    """
    first = recipe.warm_up * recipe.batch_size
    batches = -(-(first + count) // recipe.batch_size)
    with bar(batches, f"images from {recipe.teacher.name}, seed {recipe.seed}") as progress:
        made = study.pool(recipe).split(first + count, progress.update)
    return Split(made.pixels[first:], made.labels[first:], made.seconds)


def pool_cell(study: Study, teacher: str, count: int, seed: int = 0, source: str = "deepinversion") -> Cell:
    """What the teacher makes of the first `count` images of its pool; fills the pool first."""
    settings = {**source_settings(study, source, teacher), "images": count}
    name = "pool" if source == "deepinversion" else f"pool--{source}"
    return Cell(name, settings, partial(_images_metrics, study, source, teacher, count, seed), seed)


def gan_cell(study: Study, teacher: str, count: int, seed: int = 0) -> Cell:
    """What the teacher makes of `count` images of the GAN; trains the GAN first."""
    judge = maker_of(study, teacher).settings
    settings = {**source_settings(study, "gan", teacher), "judge": judge, "images": count}
    return Cell("gan", settings, partial(_images_metrics, study, "gan", teacher, count, seed), seed)


def _images_metrics(study: Study, source: str, teacher: str, count: int, seed: int) -> dict:
    made, judge = images(study, source, teacher, count, seed), maker_of(study, teacher, seed)
    return {
        "images": count,
        "teacher_top1": split_accuracy(judge.load(), made),
        "seconds": made.seconds,
        "samples": by_class(made.pixels, made.labels, judge.classes()),
    }


def trained_gan(study: Study, seed: int) -> tuple[ConditionalGenerator, float]:
    """The GAN's generator, trained first if it is not there yet, and the seconds of its training."""
    settings = study.scale.sources.gan
    card = plain({"dataset": study.data_name, "gan": settings, "seed": seed})
    path = study.artifacts / "gans" / f"{digest(card)}.safetensors"
    with study.lock(f"gan-{path.stem}"), counted(settings.rounds, f"training the GAN, seed {seed}") as on_round:
        return gan.train_gan(study.data, settings, study.device, study.precision, Run(seed, path, card, on_round))


def pixels_of(splits: list[Split]) -> Tensor:
    """The images of several sets in one tensor."""
    return torch.cat([split.pixels for split in splits]) if len(splits) > 1 else splits[0].pixels
