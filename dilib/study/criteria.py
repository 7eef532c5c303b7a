"""What each claim of the paper is held to: its own words, or, where these are loose, the numbers in its tables.

A limit that is neither says so, and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dilib.study.paper import TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, TABLE_8, TABLE_10, TABLE_11

RELATIONS = {
    ">": lambda value, limit: value > limit,
    "≥": lambda value, limit: value >= limit,
    "≤": lambda value, limit: value <= limit,
}


@dataclass(frozen=True)
class Criterion:
    """What is measured, in words, and the relation to a limit that every number measured must have.

    `ours` says why the limit is what it is where it is not the paper's.
    """

    words: str
    relation: str
    limit: float
    unit: str = "points"
    ours: str = ""

    def holds(self, value: float) -> bool:
        """Whether a number has the relation; both rounded as the paper's tables are."""
        return RELATIONS[self.relation](round(value, 2), round(self.limit, 2))

    @property
    def bound(self) -> str:
        """The relation and the limit, as they stand in print."""
        return f"{self.relation} {round(self.limit, 2):g}"

    def __str__(self) -> str:
        why = f" (our limit: {self.ours})" if self.ours else ""
        return f"{self.words} {self.bound} {self.unit}".strip() + why


@dataclass(frozen=True)
class Claim:
    """A claim in words; by name, what tells whether its direction holds, and what tells whether its size does."""

    statement: str
    direction: Mapping[str, Criterion]
    size: Mapping[str, Criterion] = field(default_factory=dict)

    @property
    def criteria(self) -> dict[str, Criterion]:
        """All of them, direction first."""
        return {**self.direction, **self.size}


def _gains(upper: str, lower: str) -> list[float]:
    """Table 1: points between two rows, by pair."""
    return [high - low for high, low in zip(TABLE_1[upper], TABLE_1[lower], strict=True)]


def _pruned(upper: str, lower: str) -> list[tuple[float, float]]:
    """Table 4: pairs of two rows' entries, by share of the filters."""
    return list(zip(TABLE_4[upper], TABLE_4[lower], strict=True))


_NOISE, _DREAM, _DI, _ADI = list(TABLE_1)[:4]
_TASKS = [
    {method: row["combined"] for (of, method), row in table.items() if of == task}
    for table in (TABLE_7, TABLE_11)
    for task in dict.fromkeys(of for of, _ in table)
]  # of Tables 7 and 11: combined top-1 by method
_TWICE = "1 % is expected; among a few hundred images chance makes it 2 % in one of twenty cases"
_ALIKE = "at equal quality; the paper's is of the time alone"
_MORE = "any further images cover more; the paper's is growth alone"
_ORACLE_GAPS = [max(task["oracle_distill"], task["oracle_classify"]) - task["deepinversion"] for task in _TASKS]

CLAIMS = {
    1: Claim(
        "Noise teaches next to nothing; DeepDream little more",
        {"behind": Criterion("DI ahead by", ">", 0)},
        {
            "noise": Criterion("Noise above chance by", "≤", max(TABLE_1[_NOISE]) - 10),
            "dream": Criterion("DeepDream above chance by", "≤", max(TABLE_1[_DREAM]) - 10),
        },
    ),
    2: Claim(
        "R_feature adds 40–69 points over DeepDream (Table 1: 44.2–61.5)",
        {"gain": Criterion("R_feature adds", ">", 0)},
        {"much": Criterion("R_feature adds", "≥", min(_gains(_DI, _DREAM)))},
    ),
    3: Claim(
        "R_compete adds 1–10 points more and comes within about 2 points of the teacher",
        {"gain": Criterion("R_compete adds", ">", 0)},
        {
            "much": Criterion("R_compete adds", "≥", 1),
            "gap": Criterion("ADI below its teacher by", "≤", max(_gains("teacher", _ADI))),
        },
    ),
    4: Claim(
        "The teacher labels all its images right, while the student finds ADI images harder than DI images",
        {"harder": Criterion("student's top-1 on DI above that on ADI images by", ">", 0)},
        {"labels": Criterion("teacher's top-1 on its images", "≥", 99.5, "%", "all, rounded")},
    ),
    5: Claim(
        "Other networks recognise DI images (80–94 %) and not DeepDream's (7–28 %)",
        {"ahead": Criterion("DI images ahead of DeepDream's by", ">", 0)},
        {
            "named": Criterion("judges name of DI images", "≥", TABLE_2["vgg11"][1], "%"),
            "dreams": Criterion("judges name of DeepDream's", "≤", TABLE_2["resnet18"][0], "%"),
        },
    ),
    6: Claim(
        "DI's Inception Score is about ten times DeepDream's",
        {"ratio": Criterion("DI's score over DeepDream's", ">", 1, "")},
        {
            "much": Criterion(
                "DI's score over DeepDream's", "≥", TABLE_3["DeepInversion (224)"] / TABLE_3["DeepDream (224)"], ""
            )
        },
    ),
    7: Claim(
        "Statistics of a hundred images serve as well as BatchNorm's",
        {"few": Criterion("a hundred images better than one by", ">", 0)},
        {
            "gap": Criterion(
                "a hundred images below BatchNorm's by",
                "≤",
                max(a - b for a, b in zip(TABLE_8["BatchNorm running statistics"], TABLE_8["100 images"], strict=True)),
            )
        },
    ),
    8: Claim(
        "Fine-tuning a pruned network on DI images recovers over 54 points; ADI beats DI; real images beat both",
        {
            "gain": Criterion("DI regains", ">", 0),
            "adaptive": Criterion("ADI ahead of DI by", ">", 0),
            "real": Criterion("real images ahead of", ">", 0),
        },
        {"much": Criterion("DI regains", "≥", min(a - b for a, b in _pruned("deepinversion", "none")))},
    ),
    9: Claim(
        "At equal latency hardware-aware ranking beats plain Taylor, most at the tightest budget; the look-up table "
        "predicts latency (R² ≥ 0.99)",
        {"tightest": Criterion("hardware-aware ranking leads at the tightest budget by", ">", 0)},
        {
            "lead": Criterion("it leads at every budget by", ">", 0),
            "most": Criterion("its lead at the tightest budget above that at any other by", "≥", 0),
            "r2": Criterion("R² of looked-up latencies", "≥", 0.99, ""),
        },
    ),
    10: Claim(
        "Label-free ranking costs at most 0.7 points",
        {"mean": Criterion("on average over fractions it costs", "≤", 0.7, ours="the claim's, of the mean")},
        {"cost": Criterion("at each fraction it costs", "≤", max(a - b for a, b in TABLE_10.values()))},
    ),
    11: Claim(
        "A network can be taught from scratch, without data, to within a few points of its teacher; longer schedules "
        "with mixup help",
        {"longer": Criterion("the longer schedule adds", ">", 0)},
        {
            "gap": Criterion(
                "the student below its teacher by",
                "≤",
                TABLE_6["teacher", ""] - TABLE_6["deepinversion", "long"],
            )
        },
    ),
    12: Claim(
        "Continual learning with DI images is far ahead of LwF.MC, mostly ahead of DeepDream, and within about 2 "
        "points of the oracles",
        {"gain": Criterion("DI ahead of LwF.MC by", ">", 0)},
        {
            "much": Criterion("DI ahead of LwF.MC by", "≥", min(t["deepinversion"] - t["lwf_mc"] for t in _TASKS)),
            "dream": Criterion("share of tasks on which DI is ahead of DeepDream", ">", 50, "%"),
            "gap": Criterion("DI below the better oracle by", "≤", max(_ORACLE_GAPS)),
        },
    ),
    13: Claim(
        "Continual learning gains nothing when new classes resemble old ones",
        {"less": Criterion("gain over LwF.MC with alike classes below that with others by", ">", 0)},
        {"nothing": Criterion("gain over LwF.MC with alike classes", "≤", 0)},
    ),
    14: Claim(
        "Multi-resolution synthesis is 10× faster",
        {"faster": Criterion("times faster to images that a judge names as often", ">", 1, "", _ALIKE)},
        {"much": Criterion("times faster to images that a judge names as often", "≥", 10, "", _ALIKE)},
    ),
    15: Claim(
        "Feature coverage grows with each ADI round",
        {"more": Criterion("both rounds cover more than as many plain DI images by", ">", 0, ours=_MORE)},
        {"each": Criterion("each round adds more than as many further plain DI images by", ">", 0, ours=_MORE)},
    ),
    16: Claim(
        "Nearest neighbours differ from the synthesised images: no memorising",
        {
            "pixels": Criterion(
                "images nearer to a training image, in pixels, than 99 % of test images", "≤", 2, "%", _TWICE
            ),
            "features": Criterion("nearer, in features, than 99 % of test images", "≤", 2, "%", _TWICE),
        },
        {
            "farther": Criterion(
                "median distance in features over that of test images", "≥", 1, "", "no nearer than real images are"
            )
        },
    ),
    17: Claim(
        "DI and ADI teach better than a DAFL generator under the same setup",
        {"adaptive": Criterion("ADI ahead of DAFL by", ">", 0)},
        {"plain": Criterion("DI ahead of DAFL by", ">", 0)},
    ),
    18: Claim(
        "Hardware-aware pruning is 16 % faster at no loss; data-free it costs 2.8 points (ADI) or 2.1 (ADI + HA)",
        {"helps": Criterion("data-free, hardware-aware ranking (ADI + HA) ahead of ADI by", ">", 0)},
        {
            "much": Criterion(
                "hardware-aware: times faster", "≥", TABLE_5["Base model"][1] / TABLE_5["Hardware-Aware (HA)"][1], ""
            ),
            "loss": Criterion("hardware-aware ranking costs", "≤", 0),
            "adaptive": Criterion(
                "data-free (ADI) it costs", "≤", TABLE_5["Base model"][2] - TABLE_5["ADI (data-free)"][2]
            ),
            "both": Criterion("data-free (ADI + HA) it costs", "≤", TABLE_5["Base model"][2] - TABLE_5["ADI + HA"][2]),
        },
    ),
}
