"""Fixed sets of unlabelled images to teach from: real ones, others' (a proxy), a GAN's, and a teacher's own dreams."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from dilib import data, gan, transfer
from dilib.artifacts import digest
from dilib.data import Split
from dilib.evaluation import split_accuracy
from dilib.gan import ConditionalGenerator
from dilib.pool import ImagePool
from dilib.progress import bar, counted
from dilib.recipe import Recipe
from dilib.study import Study, plain
from dilib.subject import subject as subject_of

SOURCES = {
    "real": "real images",
    "proxy": "proxy images",
    "gan": "GAN",
    "deepinversion": "DeepInversion",
}


def settings(study: Study, source: str, teacher: str) -> dict:
    """Everything but the seed that a source's images depend on. Raises ValueError for an unknown source."""
    if source not in SOURCES:
        raise ValueError(f"unknown image source {source!r}; choose from {', '.join(SOURCES)}")
    of_scale, subject = study.scale.sources, subject_of(study, teacher)
    specific = {
        "real": {},
        "proxy": {"proxy": data.slug(of_scale.proxy)},
        "gan": {"gan": of_scale.gan},
        "deepinversion": {
            "teacher": subject.settings,
            "objective": subject.objective,
            "schedules": subject.schedules,
            "first_layer": subject.first_layer,
            "batch_size": subject.batch_size,
        },
    }
    return plain({"source": source, **specific[source]})


def available(study: Study) -> list[str]:
    """The sources that the study can have: without training images no real ones, and GANs of small images alone."""
    missing = {"real", "gan"} if len(study.data.train.labels) == 0 else set()
    if study.data.preprocessing.size > 64:
        missing.add("gan")
    return [source for source in SOURCES if source not in missing]


def images(study: Study, source: str, teacher: str, count: int, seed: int) -> Tensor:
    """`count` images, uint8 (N, C, H, W), on the CPU; the first of any larger number."""
    make: dict[str, Callable[[], Tensor]] = {
        "real": lambda: chosen(study.data.train.pixels, count, seed),
        "proxy": lambda: data.in_channels(chosen(_proxy(study), count, seed), study.data.preprocessing.channels),
        "gan": lambda: gan.sample(generator(study, seed)[0], count, seed).pixels,
        "deepinversion": lambda: dreamt(study, subject_of(study, teacher).recipe(seed), count).pixels,
    }
    return make[source]()


def chosen(pixels: Tensor, count: int, seed: int) -> Tensor:
    """`count` of the images (N, C, H, W) or labels (N,), drawn at random. Raises ValueError where there are fewer."""
    if count > len(pixels):
        raise ValueError(f"{count} images are asked for, but the data set has {len(pixels)}; ask for fewer")
    return pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))[:count]]


def _proxy(study: Study) -> Tensor:
    return data.load(study.scale.sources.proxy, study.data_folder, study.data.preprocessing.size).train.pixels


def dreamt(study: Study, recipe: Recipe, count: int) -> Split:
    """The first `count` images that a recipe makes, with their labels; its pool is filled as far as they reach."""
    pool, batches = _pool(study, recipe), -(-count // recipe.batch_size)
    with bar(batches, f"images from {recipe.teacher.name}, seed {recipe.seed}") as progress:
        for _ in pool.fill(batches, recipe.make):
            progress.update()

    def parts() -> Iterator[np.ndarray]:
        for index in range(batches):
            pixels = recipe.teacher.preprocessing.to_pixels(pool.load(index)[0])
            yield pixels[: count - index * recipe.batch_size].numpy()

    # Many processes, each with a share of a student, can then do with one copy in memory.
    pixels = data.mapped(pool.folder / f"pixels-{count}.npy", (count, *pool.load(0)[0].shape[1:]), parts)
    return Split(pixels, torch.cat([recipe.labels(index) for index in range(batches)])[:count])


def unmade(study: Study, recipe: Recipe, count: int) -> float:
    """The share of the batches of a recipe's first `count` images that nobody has made yet."""
    pool, batches = _pool(study, recipe), -(-count // recipe.batch_size)
    return sum(not pool.has(index) for index in range(batches)) / batches


def _pool(study: Study, recipe: Recipe) -> ImagePool:
    return ImagePool(study.pools / digest(recipe.card), recipe.card)


def pool_cell(study: Study, teacher: str, count: int, seed: int) -> dict:
    """What the teacher makes of the first `count` images of its pool; fills the pool first, by this process."""
    return study.cell(
        *pool_key(study, teacher, count, seed)[:2], lambda: _pool_metrics(study, teacher, count, seed), seed
    )


def pool_key(study: Study, teacher: str, count: int, seed: int) -> tuple[str, dict, int]:
    card = {**settings(study, "deepinversion", teacher), "images": count}
    return "pool", card, seed


def _pool_metrics(study: Study, teacher: str, count: int, seed: int) -> dict:
    recipe = subject_of(study, teacher).recipe(seed)
    share, started = unmade(study, recipe, count), time.perf_counter()
    made = dreamt(study, recipe, count)
    return {
        "images": count,
        "teacher_top1": split_accuracy(recipe.teacher.network, made, recipe.teacher.preprocessing),
        "seconds": (time.perf_counter() - started) / share if share else 0.0,
        "samples": transfer.by_class(made.pixels, made.labels, len(recipe.classes)),
    }


def gan_cell(study: Study, teacher: str, count: int, seed: int) -> dict:
    """What the teacher makes of `count` images of the GAN; trains the GAN first."""
    return study.cell(
        *gan_key(study, teacher, count, seed)[:2], lambda: _gan_metrics(study, teacher, count, seed), seed
    )


def gan_key(study: Study, teacher: str, count: int, seed: int) -> tuple[str, dict, int]:
    return (
        "gan",
        {**settings(study, "gan", teacher), "judge": subject_of(study, teacher).settings, "images": count},
        seed,
    )


def _gan_metrics(study: Study, teacher: str, count: int, seed: int) -> dict:
    network, seconds = generator(study, seed)
    made, judge = gan.sample(network, count, seed), subject_of(study, teacher).load()
    return {
        "images": count,
        "teacher_top1": split_accuracy(judge.network, made, judge.preprocessing),
        "seconds": seconds,
        "samples": transfer.by_class(made.pixels, made.labels, len(study.data.classes)),
    }


def generator(study: Study, seed: int) -> tuple[ConditionalGenerator, float]:
    """The GAN's generator, trained first if it is not there yet, and the seconds of its training."""
    of_gan = study.scale.sources.gan
    card = plain({"dataset": study.place.name, "gan": of_gan, "seed": seed})
    path = study.artifacts / "gans" / f"{digest(card)}.safetensors"
    with study.lock(f"gan-{path.stem}"), counted(of_gan.rounds, f"training the GAN, seed {seed}") as on_round:
        return gan.train_gan(
            study.data,
            of_gan,
            study.device,
            seed=seed,
            checkpoint=path,
            card=card,
            on_round=on_round,
        )
