"""How images made from a network spread among real ones in its features, and how near they come (Figs. 7 and 8)."""

from functools import partial

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from dilib import data
from dilib.data import Split
from dilib.evaluation import coverage, penultimate_features
from dilib.experiments.image_sources import chosen, source_settings
from dilib.experiments.pruned_networks import Pruning, whole_network
from dilib.experiments.table4_pruning import ADAPTIVE_ROUNDS, adaptive_pools, table4
from dilib.study.cells import TILES, Cell, Study

POINTS = 1000  # real images whose features are compared, or as many as there are
SHOWN = 300  # of them drawn in Fig. 7
ROUNDS = ("DeepInversion", *(f"ADI round {number + 1}" for number in range(ADAPTIVE_ROUNDS)))
SHOWN_ROUNDS = (ROUNDS[0], ROUNDS[-1])  # in Fig. 8


def competitor(study: Study) -> Pruning:
    """The pruned network that adaptive images compete with here: Table 4's smallest."""
    return table4(study)[-1]


def coverage_cell(study: Study, seed: int = 0) -> Cell:
    """Coverage of real features with each round's images, two principal components, and distances to real neighbours.

    Its samples are `rows` of TILES, and "nearest_classes" those of the real images that are nearest to them.
    """
    settings = study.scale.compression
    card = {
        "cut": competitor(study),
        "compression": settings,
        "images": source_settings(study, "deepinversion", settings.network),
    }
    return Cell("resemblance", card, partial(_metrics, study, seed), seed)


def rows(study: Study) -> list[str]:
    """What the samples' rows show: images of SHOWN_ROUNDS, each with the real ones nearest to it if these are FREE."""
    if study.dataset not in data.FREE:
        return list(SHOWN_ROUNDS)
    return [row for name in SHOWN_ROUNDS for row in (name, f"nearest to {name}")]


def _metrics(study: Study, seed: int) -> dict:
    teacher = whole_network(study).load()
    real, rounds = _images(study, seed)
    real_features = penultimate_features(teacher, real.pixels)
    by_round = {name: penultimate_features(teacher, pixels) for name, pixels in rounds.items()}
    plane = PCA(2, random_state=0).fit(real_features.numpy())
    nearest = {name: torch.cdist(found, real_features).min(1) for name, found in by_round.items()}
    neighbours = {name: nearest[name].indices[:TILES] for name in SHOWN_ROUNDS}
    tiles = {name: rounds[name][:TILES] for name in SHOWN_ROUNDS}
    tiles |= {f"nearest to {name}": real.pixels[found] for name, found in neighbours.items()}
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
            name: [study.data.classes[label] for label in real.labels[found]] for name, found in neighbours.items()
        },
        "samples": torch.cat([tiles[row] for row in rows(study)]),
    }


def _images(study: Study, seed: int) -> tuple[Split, dict[str, Tensor]]:
    """Real images, and those of each round by ROUNDS, uint8 (N, C, H, W)."""
    train = study.data.train
    pools = adaptive_pools(study, competitor(study), seed)
    real = chosen(train, min(POINTS, len(train.labels)), seed)
    return real, {name: pool.pixels for name, pool in zip(ROUNDS, pools, strict=True)}
