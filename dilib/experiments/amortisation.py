"""Images that begin where earlier ones led: how diverse they are, and a student of another width taught on them."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from dilib.evaluation import coverage, penultimate_features
from dilib.experiments.figure7_coverage import nearest_images
from dilib.experiments.image_sources import chosen
from dilib.experiments.table1_transfer import (
    batch_size_of,
    batches_of,
    student_cell,
    student_settings,
    taught_by_inversion,
)
from dilib.experiments.teachers import fresh_network, load_teacher
from dilib.study.cells import Cell, Study
from dilib.study.scales.settings import PAIRS

PAIR = PAIRS[0]
METHODS = ("deepinversion", "adaptive", "amortised")
OTHER_WIDTH = "other-width"
POINTS = 1000  # training images that are to be covered


def diversity_cell(study: Study, seed: int = 0) -> Cell:
    """What each method's images, those of Table 1's first pair, cover of real ones, and how many neighbours they have.

    "coverage" and "neighbours", the number of training images that are nearest to one of them, are of as many images of
    each method, drawn at random; "coverage_of_all" of all that its student saw.
    """
    settings = {"students": {m: student_settings(study, PAIR, m) for m in METHODS}, "points": POINTS}
    return Cell("diversity", settings, partial(_diversity, study, seed), seed)


def other_width_cell(study: Study, seed: int = 0) -> Cell | None:
    """Table 1's amortised student of the first pair, it and its teacher at the scale's other width, if it has one."""
    other = study.scale.amortised.other_width
    if other is None:
        return None
    widths = study.scale.widths | dict.fromkeys(PAIR, other.width)
    how = replace(study.scale.amortised, student={PAIR: other.student})
    # Teachers' files go by their names: another width has a folder of its own.
    apart = replace(study.with_scale(widths=widths, amortised=how), artifacts=study.artifacts / OTHER_WIDTH)
    return replace(student_cell(apart, PAIR, "amortised", seed), name=f"{OTHER_WIDTH}--{'--'.join(PAIR)}")


def _diversity(study: Study, seed: int) -> dict:
    teacher, train = load_teacher(study, PAIR[0], seed), study.data.train
    made = {method: _images(study, method, seed) for method in METHODS}
    count = min(map(len, made.values()))
    random = torch.Generator().manual_seed(seed)
    alike = {method: pixels[torch.randperm(len(pixels), generator=random)[:count]] for method, pixels in made.items()}
    real = penultimate_features(teacher, chosen(train, min(POINTS, len(train.labels)), seed).pixels)
    found = nearest_images(teacher, train.pixels, alike, "features")
    return {
        "images": {method: len(pixels) for method, pixels in made.items()},
        "compared": count,
        "coverage": {method: coverage(real, penultimate_features(teacher, each)) for method, each in alike.items()},
        "coverage_of_all": {m: coverage(real, penultimate_features(teacher, each)) for m, each in made.items()},
        "neighbours": {method: len(nearest.unique()) for method, (_, nearest) in found.items()},
    }


def _images(study: Study, method: str, seed: int) -> Tensor:
    """All images that a student saw, uint8 (N, C, H, W); it is taught again where they are gone."""
    settings = student_settings(study, PAIR, method)
    taught = taught_by_inversion(study, PAIR, method=method, settings=settings, seed=seed)
    teacher, student = load_teacher(study, PAIR[0], seed), fresh_network(study, PAIR[1], seed=seed + 1)
    batch = batches_of(study, teacher, student, method, settings, seed)
    batches = range(taught["images"] // batch_size_of(study, method))
    return torch.cat([teacher.preprocessing.to_pixels(batch(index).images).cpu() for index in batches])
