"""How images made from a network spread among real ones in its features, and how near they come (Figs. 7 and 8)."""

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from dilib import compression, cuts, data, sources
from dilib.cuts import Cut
from dilib.evaluation import coverage, penultimate_features
from dilib.study import TILES, Study, plain

POINTS = 1000  # real images whose features are compared, or as many as there are
SHOWN = 300  # of them drawn in Fig. 7
ROUNDS = ("DeepInversion", *(f"ADI round {number + 1}" for number in range(compression.ROUNDS)))
SHOWN_ROUNDS = (ROUNDS[0], ROUNDS[-1])  # in Fig. 8


def cut_of(study: Study) -> Cut:
    """The pruned network that adaptive images compete with here: Table 4's smallest."""
    return compression.table4_cuts(study)[-1]


def resemblance_cell(study: Study, seed: int) -> dict:
    """Coverage of real features with each round's images, two principal components, and distances to real neighbours.

    Its samples are `rows` of TILES, and "nearest_classes" those of the real images that are nearest to them.
    """
    settings = study.scale.compression
    card = plain(
        {
            "cut": cut_of(study),
            "compression": settings,
            "images": sources.settings(study, "deepinversion", settings.network),
        }
    )
    return study.cell("resemblance", card, lambda: _metrics(study, seed), seed)


def rows(study: Study) -> list[str]:
    """What the samples' rows show: images of SHOWN_ROUNDS, each with the real ones nearest to it if these are FREE."""
    if study.dataset not in data.FREE:
        return list(SHOWN_ROUNDS)
    return [row for name in SHOWN_ROUNDS for row in (name, f"nearest to {name}")]


def _metrics(study: Study, seed: int) -> dict:
    teacher = cuts.subject(study).load()
    real, labels, rounds = _images(study, seed)

    def features(pixels: Tensor) -> Tensor:
        return penultimate_features(teacher.network, pixels, teacher.preprocessing)

    real_features, by_round = features(real), {name: features(pixels) for name, pixels in rounds.items()}
    plane = PCA(2, random_state=0).fit(real_features.numpy())
    nearest = {name: torch.cdist(found, real_features).min(1) for name, found in by_round.items()}
    neighbours = {name: nearest[name].indices[:TILES] for name in SHOWN_ROUNDS}
    tiles = {name: rounds[name][:TILES] for name in SHOWN_ROUNDS}
    tiles |= {f"nearest to {name}": real[found] for name, found in neighbours.items()}
    covered, so_far = {}, real_features[:0]
    for name, found in by_round.items():
        so_far = torch.cat([so_far, found])
        covered[name] = coverage(real_features, so_far)
    return {
        "coverage": covered,
        "plane": {
            name: plane.transform(found[:SHOWN].numpy()).round(3).tolist()
            for name, found in {"real": real_features, **by_round}.items()
        },
        "nearest": {name: found.values[:SHOWN].tolist() for name, found in nearest.items()},
        "nearest_among_real": torch.cdist(real_features, real_features).kthvalue(2).values[:SHOWN].tolist(),
        "nearest_classes": {
            name: [study.data.classes[label] for label in labels[found]] for name, found in neighbours.items()
        },
        "samples": torch.cat([tiles[row] for row in rows(study)]),
    }


def _images(study: Study, seed: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Real images, uint8 (N, C, H, W), their labels (N,), and the images of each round by ROUNDS."""
    train = study.data.train
    count = min(POINTS, len(train.labels))
    real, labels = (sources.chosen(values, count, seed) for values in (train.pixels, train.labels))
    return real, labels, dict(zip(ROUNDS, compression.adaptive_pools(study, cut_of(study), seed), strict=True))
