"""How images made from a network spread among real ones in its features, and how near they come (Figs. 7 and 8)."""

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from dilib import compression, cuts, sources
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

    Its samples are rows of TILES: for each of SHOWN_ROUNDS images, and the real ones that are nearest to them.
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


def _metrics(study: Study, seed: int) -> dict:
    teacher = cuts.subject(study).load()
    real, rounds = _images(study, seed)

    def features(pixels: Tensor) -> Tensor:
        return penultimate_features(teacher.network, pixels, teacher.preprocessing)

    real_features, by_round = features(real), {name: features(pixels) for name, pixels in rounds.items()}
    plane = PCA(2, random_state=0).fit(real_features.numpy())
    nearest = {name: torch.cdist(found, real_features).min(1) for name, found in by_round.items()}
    tiles = [images for name in SHOWN_ROUNDS for images in (rounds[name][:TILES], real[nearest[name].indices[:TILES]])]
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
        "samples": torch.cat(tiles),
    }


def _images(study: Study, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Real images, and those of each round by ROUNDS, uint8 (N, C, H, W)."""
    train = study.data.train.pixels
    pools = compression.adaptive_pools(study, cut_of(study), seed)
    return sources.chosen(train, min(POINTS, len(train)), seed), dict(zip(ROUNDS, pools, strict=True))
