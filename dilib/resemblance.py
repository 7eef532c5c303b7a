"""How images made from a network spread among real ones in its features, and how near they come (Figs. 7 and 8)."""

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from dilib import compression, sources
from dilib.compression import Cut
from dilib.evaluation import coverage, penultimate_features
from dilib.study import TILES, Study, plain

POINTS = 1000  # images of each set whose features are compared, or as many as there are
SHOWN = 300  # of them drawn in Fig. 7


def cut_of(study: Study) -> Cut:
    """The pruned network that adaptive images compete with here: Table 4's smallest."""
    return compression.table4_cuts(study)[-1]


def resemblance_cell(study: Study, seed: int) -> dict:
    """Coverage of real features by each round's images, two principal components, and distances to real neighbours.

    Its samples are rows of TILES: DeepInversion's images, their nearest real ones, adaptive images, and theirs.
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


def sets_of_images(study: Study, seed: int) -> dict[str, Tensor]:
    """Real images, DeepInversion's, and those with each further adaptive round, uint8 (N, C, H, W)."""
    made = compression.adaptive_pools(study, cut_of(study), seed)
    real = sources.chosen(study.data.train.pixels, min(POINTS, len(study.data.train.pixels)), seed)
    names = ["DeepInversion", *(f"+ ADI round {number + 1}" for number in range(len(made) - 1))]
    return {"real": real, **{name: torch.cat(made[: count + 1]) for count, name in enumerate(names)}, "ADI": made[-1]}


def _metrics(study: Study, seed: int) -> dict:
    teacher = compression.subject(study).load()
    images = sets_of_images(study, seed)
    features = {
        name: penultimate_features(teacher.network, pixels, teacher.preprocessing) for name, pixels in images.items()
    }
    real, only_adaptive = features["real"], features.pop("ADI")
    plane = PCA(2, random_state=0).fit(real.numpy())
    among_real = torch.cdist(real, real).kthvalue(2).values
    nearest = {"DeepInversion": torch.cdist(features["DeepInversion"], real), "ADI": torch.cdist(only_adaptive, real)}
    tiles = []
    for name, distances in nearest.items():
        shown = images[name][:TILES]
        tiles += [shown, images["real"][distances[: len(shown)].argmin(1)]]
    return {
        "coverage": {name: coverage(real, found) for name, found in features.items() if name != "real"},
        "plane": {name: plane.transform(found[:SHOWN].numpy()).round(3).tolist() for name, found in features.items()},
        "explained": plane.explained_variance_ratio_.tolist(),
        "nearest": {name: distances.min(1).values[:SHOWN].tolist() for name, distances in nearest.items()},
        "nearest_among_real": among_real[:SHOWN].tolist(),
        "samples": torch.cat(tiles),
    }
