"""How images made from a network spread among real ones in its features, and how near they come (Figs. 7 and 8)."""

from functools import partial

import torch
from torch import Tensor

from dilib import data
from dilib.classifier import Classifier
from dilib.evaluation import coverage, penultimate_features
from dilib.experiments.image_sources import chosen, images, source_settings
from dilib.experiments.pruned_networks import Pruning, whole_network
from dilib.experiments.table4_pruning import ADAPTIVE_ROUNDS, adaptive_pools, table4
from dilib.study.cells import TILES, Cell, Study

POINTS = 1000  # training images that are to be covered, and test images whose neighbours are sought
SHOWN = 300  # of them drawn in Fig. 7
AT_ONCE = 10_000  # training images that neighbours are sought among
NEAR = 0.01  # the share of test images that come nearer to a training image than what counts as near
ROUNDS = ("DeepInversion", *(f"ADI round {number + 1}" for number in range(ADAPTIVE_ROUNDS)))
SHOWN_ROUNDS = (ROUNDS[0], ROUNDS[-1])  # in Fig. 8
SPACES = ("features", "pixels")


def competitor(study: Study) -> Pruning:
    """The pruned network that adaptive images compete with here: Table 4's smallest."""
    return table4(study)[-1]


def coverage_cell(study: Study, seed: int = 0) -> Cell:
    """What each round's images cover of real ones, and how near they come to any training image, by SPACES.

    "coverage" is of a round with those before it, "coverage_of_plain" that of as many of DeepInversion's images alone.
    "near" is the percentage of images that come nearer to a training image than all but NEAR of the test images do;
    "farther" their median distance over that of test images. Its samples are `rows` of TILES, and "nearest_classes"
    those of the training images that are nearest to them.
    """
    settings = study.scale.compression
    card = {
        "cut": competitor(study),
        "compression": settings,
        "images": source_settings(study, "deepinversion", settings.network),
        "points": POINTS,
        "near": NEAR,
    }
    return Cell("resemblance", card, partial(_metrics, study, seed), seed)


def rows(study: Study) -> list[str]:
    """What the samples' rows show: images of SHOWN_ROUNDS, each with the real ones nearest to it if these are FREE."""
    if study.dataset not in data.FREE:
        return list(SHOWN_ROUNDS)
    return [row for name in SHOWN_ROUNDS for row in (name, f"nearest to {name}")]


def _metrics(study: Study, seed: int) -> dict:
    teacher, train = whole_network(study, seed).load(), study.data.train
    rounds, plain = _rounds(study, seed)
    test = chosen(study.data.test, min(POINTS, len(study.data.test.labels)), seed).pixels
    sought = {"test": test, **rounds}
    nearest = {space: nearest_images(teacher, train.pixels, sought, space) for space in SPACES}
    neighbours = {name: nearest["features"][name][1][:TILES] for name in SHOWN_ROUNDS}
    tiles = {name: rounds[name][:TILES] for name in SHOWN_ROUNDS}
    tiles |= {f"nearest to {name}": train.pixels[found] for name, found in neighbours.items()}
    return {
        **_spread(teacher, chosen(train, min(POINTS, len(train.labels)), seed).pixels, rounds, plain),
        "nearest": {
            space: {name: distances[:SHOWN].tolist() for name, (distances, _) in found.items()}
            for space, found in nearest.items()
        },
        **{space: _against_test(found) for space, found in nearest.items()},
        "nearest_classes": {
            name: [study.data.classes[label] for label in train.labels[found]] for name, found in neighbours.items()
        },
        "samples": torch.cat([tiles[row] for row in rows(study)]),
    }


def _rounds(study: Study, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Images of each round by ROUNDS, and as many of DeepInversion's alone, uint8 (N, C, H, W)."""
    rounds = [pool.pixels for pool in adaptive_pools(study, competitor(study), seed)]
    network, count = study.scale.compression.network, sum(map(len, rounds))
    return dict(zip(ROUNDS, rounds, strict=True)), images(study, "deepinversion", network, count, seed).pixels


def _spread(teacher: Classifier, real: Tensor, rounds: dict[str, Tensor], plain: Tensor) -> dict:
    """Coverage of real images by the rounds' and by plain ones, and some of them on the real ones' principal plane."""
    from sklearn.decomposition import PCA

    features = {"real": penultimate_features(teacher, real)}
    features |= {name: penultimate_features(teacher, pixels) for name, pixels in rounds.items()}
    plane = PCA(2, random_state=0).fit(features["real"].numpy())
    of_plain, so_far, covered, by_plain = penultimate_features(teacher, plain), [], {}, {}
    for name in rounds:
        so_far.append(features[name])
        covered[name] = coverage(features["real"], torch.cat(so_far))
        by_plain[name] = coverage(features["real"], of_plain[: sum(map(len, so_far))])
    return {
        "coverage": covered,
        "coverage_of_plain": by_plain,
        "plane": {name: plane.transform(found[:SHOWN].numpy()).round(3).tolist() for name, found in features.items()},
    }


def nearest_images(
    teacher: Classifier, train: Tensor, sought: dict[str, Tensor], space: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """For each set of images: distances (N,) to the nearest training image, and which that is.

    In features, or as the root mean square difference of pixels, 0 to 255.
    """

    def points(pixels: Tensor) -> Tensor:
        if space == "features":
            return penultimate_features(teacher, pixels)
        flat = pixels.flatten(1).float()
        return flat / flat.shape[1] ** 0.5

    places = {name: points(pixels) for name, pixels in sought.items()}
    best = {
        name: (torch.full((len(found),), torch.inf), torch.zeros(len(found)).long()) for name, found in places.items()
    }
    for start in range(0, len(train), AT_ONCE):
        among = points(train[start : start + AT_ONCE])
        for name, found in places.items():
            distances, index = torch.cdist(found, among).min(1)
            nearer = distances < best[name][0]
            best[name] = (
                torch.where(nearer, distances, best[name][0]),
                torch.where(nearer, index + start, best[name][1]),
            )
    return best


def _against_test(nearest: dict[str, tuple[Tensor, Tensor]]) -> dict[str, dict[str, float]]:
    """By set of images: how many percent are near training images, and how much farther they are than test images."""
    of_test = nearest["test"][0]
    made = {name: distances for name, (distances, _) in nearest.items() if name != "test"}
    return {
        name: {
            "near": 100 * (distances <= of_test.quantile(NEAR)).double().mean().item(),
            "farther": (distances.median() / of_test.median()).item(),
        }
        for name, distances in made.items()
    }
