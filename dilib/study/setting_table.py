"""Setting by setting: the paper's, what the scales have in its place, and why. Read from the scales, not typed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dilib.study.scales import laptop, paper
from dilib.study.scales.settings import PAIRS, Scale
from dilib.study.tables import markdown, short

SMALLER = "for two cores and two hours"
CHOSEN = "chosen on validation images (13_choices)"
SCALES = {"paper": paper.SCALE, "laptop": laptop.SCALE}


@dataclass(frozen=True)
class Row:
    """One setting: the paper's value, where a scale has it, and why the scale `paper` or a smaller one differs."""

    setting: str
    published: Any
    of: Callable[[Scale], Any]
    why: str = ""
    why_smaller: str = ""


def _same(value: str) -> Callable[[Scale], str]:
    """What is the same at every scale."""
    return lambda _: value


def _teaching(scale: Scale):
    return scale.distillation[PAIRS[0]]


def _total(scale: Scale) -> int:
    return _teaching(scale).rounds * _teaching(scale).updates


def _continual(index: int, part: str, name: str) -> Callable[[Scale], Any]:
    """A setting of Table 7's network (index 0) or of Table 11's; on ImageNet where the scale has two for it."""

    def found(scale: Scale) -> Any:
        settings = scale.continual_imagenet if len(scale.continual_imagenet.networks) > 1 else scale.continual
        how = [*settings.networks.values()][index]
        owner = {"schedule": how.schedule, "extension": how.extension, "objective": how.objective, "": how}[part]
        return getattr(owner, name) if owner else "as in Sec. 4.1's row"

    return found


def _vgg(name: str) -> Callable[[Scale], Any]:
    return lambda scale: getattr(scale.objective["vgg11_bn"], name)


PARTS = {
    "Knowledge transfer on CIFAR-10 (Sec. 4.1, A.1)": [
        Row("width of the networks", 1.0, lambda s: s.widths["vgg11_bn"], why_smaller=SMALLER),
        Row("images a batch", 256, lambda s: s.batch_size),
        Row(
            "updates a batch",
            2000,
            lambda s: s.schedule["vgg11_bn"].stages[-1][1],
            why_smaller=f"{SMALLER}; after the first batch 40, from an earlier batch's images and noise (05_frontier)",
        ),
        Row("Adam's rate", 0.05, lambda s: s.schedule["vgg11_bn"].lr, why_smaller="fewer updates need a higher rate"),
        Row(
            "its decay",
            "constant",
            lambda s: s.schedule["vgg11_bn"].decay,
            why_smaller="as above; 05_frontier compares",
        ),
        Row("α_tv", 2.5e-5, _vgg("alpha_tv"), why_smaller=CHOSEN),
        Row("α_ℓ2", 3e-8, _vgg("alpha_l2")),
        Row("α_f", "1, 5, 10, 100", _vgg("alpha_f"), "which of the four goes with which pair is not said", CHOSEN),
        Row("α_c", 10.0, _vgg("alpha_c"), why_smaller=CHOSEN),
        Row("α_tv of DeepDream", 2.5e-5, lambda s: s.deepdream_tv, why_smaller=CHOSEN),
        Row(
            "largest jitter, pixels",
            "not said",
            lambda s: s.schedule["vgg11_bn"].jitter,
            "below 30 of 224 for ImageNet (B.1): 4 of 32",
        ),
        Row(
            "clipping (Eq. 16)",
            False,
            lambda s: s.schedule["vgg11_bn"].clip,
            why_smaller="pixels stay valid at a high rate",
        ),
        Row("new batches", 1000, lambda s: _teaching(s).rounds, "one every 50 of 48,750 updates", SMALLER),
        Row(
            "student's updates",
            48_750,
            _total,
            why_smaller=SMALLER,
        ),
        Row("student's batch", 256, lambda s: _teaching(s).batch_size, why_smaller=SMALLER),
        Row("student's rate", 0.1, lambda s: _teaching(s).lr, why_smaller="fewer updates need a higher rate"),
        Row("its decay", "step", lambda s: _teaching(s).decay, why_smaller="as above"),
        Row(
            "temperature τ",
            3.0,
            lambda s: _teaching(s).temperature,
            why_smaller="students learn faster from soft labels",
        ),
        Row(
            "batches before competition",
            "a first set",
            lambda s: s.adaptive_after,
            "how large the first set is, is not said",
            CHOSEN,
        ),
        Row(
            "DAFL's batch",
            1024,
            lambda s: _teaching(s).batch_size,
            "the same updates of as many images as DeepInversion's student",
        ),
        Row("DAFL's rate", 0.02, lambda s: s.dafl.lr, why_smaller=CHOSEN),
        Row("width of DAFL's generator", 128, lambda s: s.dafl.width, why_smaller=SMALLER),
        Row("DAFL's temperature", 1.0, lambda s: s.dafl.temperature, why_smaller=CHOSEN),
    ],
    "Images from ImageNet classifiers (Sec. 4.2, B.1; Tables 2, 3, Fig. 5)": [
        Row("network", "resnet50", lambda s: s.imagenet.teacher, why_smaller="to be had from the package index"),
        Row(
            "images a batch",
            1216,
            lambda s: s.imagenet.batch_size,
            "a GPU's share of the eight; R_feature is over one GPU's images",
            SMALLER,
        ),
        Row(
            "stages: resolution×updates",
            "224×20000",
            lambda s: short(s.imagenet.schedules[0].stages),
            why_smaller=SMALLER,
        ),
        Row("Adam's rate", 0.05, lambda s: s.imagenet.schedules[0].lr, why_smaller="fewer updates need a higher rate"),
        Row("its decay", "constant", lambda s: s.imagenet.schedules[0].decay, why_smaller="as above"),
        Row(
            "largest jitter, pixels",
            29,
            lambda s: s.imagenet.schedules[0].jitter,
            why_smaller="30, from before the rule was read as below 30",
        ),
        Row(
            "clipping (Eq. 16)",
            False,
            lambda s: s.imagenet.schedules[0].clip,
            why_smaller="07_imagenet leaves it out in turn",
        ),
        Row("α_tv", 1e-4, lambda s: s.imagenet.objective.alpha_tv, why_smaller="another network and fewer updates"),
        Row("α_ℓ2", "0, 0.01", lambda s: s.imagenet.objective.alpha_l2, "which goes with which network is not said"),
        Row("α_f", 1e-2, lambda s: s.imagenet.objective.alpha_f, why_smaller="another network, of 50 layers"),
        Row(
            "weight of the first BatchNorm (Eq. 4)",
            1.0,
            lambda s: s.imagenet.first_layer,
            why_smaller="colours; 07_imagenet leaves it out in turn",
        ),
    ],
    "Transfer on ImageNet (Sec. 4.4, D; Table 6)": [
        Row(
            "schemes, half and half",
            "112×2000, 224×1000 and 224×2000",
            lambda s: " and ".join(short(each.stages) for each in s.imagenet.transfer) or "one, on small images",
            why_smaller="done on small images",
        ),
        Row("Adam's rate", 0.2, lambda s: (s.imagenet.transfer or s.imagenet.schedules)[0].lr),
        Row("images", 140_000, lambda s: s.from_scratch.images, why_smaller=SMALLER),
        Row("student's batch", 1024, lambda s: s.from_scratch.short.batch_size, why_smaller=SMALLER),
        Row("student's rate", 1.024, lambda s: s.from_scratch.short.lr, why_smaller="for its batch"),
        Row(
            "its decay",
            "as in the original setup",
            lambda s: s.from_scratch.short.decay,
            "up over a tenth, then linearly down",
        ),
        Row("epochs", 90, lambda s: s.from_scratch.short.rounds, why_smaller=f"here rounds of 500 updates; {SMALLER}"),
        Row(
            "epochs with mixup",
            250,
            lambda s: s.from_scratch.long.rounds,
            why_smaller=f"here rounds of 400 updates; {SMALLER}",
        ),
        Row("mixup's α", "not said", lambda s: s.from_scratch.long.mixup, "0.2, as usual on ImageNet"),
        Row("temperature τ", 3.0, lambda s: s.from_scratch.short.temperature),
    ],
    "Pruning (Sec. 4.3, C)": [
        Row("network", "resnet50", lambda s: s.compression.network, "on CIFAR-10; on ImageNet it is resnet50", SMALLER),
        Row(
            "filters removed at a time",
            32,
            lambda s: s.compression.ranking.filters,
            why_smaller="of a network an eighth as wide",
        ),
        Row("in groups of", 16, lambda s: s.compression.ranking.group, why_smaller="of a network an eighth as wide"),
        Row("mini-batches between removals", 30, lambda s: s.compression.ranking.batches, why_smaller=SMALLER),
        Row(
            "tuned between removals",
            "yes",
            _same("no"),
            "every network is tuned once its filters are gone, so that tables differ by images alone",
        ),
        Row(
            "η (Eq. 10)",
            0.01,
            lambda s: s.compression.eta,
            f"in units of the median importance and saving, since the paper's are of its GPU; {CHOSEN}",
        ),
        Row(
            "look-up table",
            "every number of channels",
            lambda s: f"{s.compression.steps} numbers, interpolated",
            "a table of every number takes days; 10_table4_pruning checks it on whole networks",
        ),
        Row(
            "images a timed batch",
            1,
            lambda s: s.compression.batch,
            why_smaller="small networks are timed too coarsely by one",
        ),
        Row("temperature τ", "best of 5, 10, 15", lambda s: s.compression.tuning.temperature, f"one for all; {CHOSEN}"),
        Row("DeepInversion's images", 165_000, lambda s: s.compression.images, why_smaller=SMALLER),
        Row(
            "adaptive images, two rounds",
            "24000 and 26000",
            lambda s: s.compression.adaptive,
            "as many in each",
            SMALLER,
        ),
        Row("α_c", 0.2, lambda s: s.compression.alpha_c, "on CIFAR-10, where α_f is 10, it is Sec. 4.1's"),
        Row(
            "epochs of tuning",
            30,
            lambda s: s.compression.tuning.rounds,
            why_smaller=f"here rounds of 130 updates; {SMALLER}",
        ),
        Row("images a batch", 256, lambda s: s.compression.tuning.batch_size, why_smaller=SMALLER),
    ],
    "Continual learning (Sec. 4.5, E; Table 7's network, then Table 11's)": [
        row
        for index, (rate, tv, tv_l1, feature, count, batch) in enumerate(
            [(0.2, 3e-5, 0.1, 0.1, 250, 128), (0.5, 6e-5, 0.2, 3e-2, 64, 64)]
        )
        for row in (
            Row("Adam's rate", rate, _continual(index, "schedule", "lr"), why_smaller="small images"),
            Row("its decay", "step", _continual(index, "schedule", "decay"), why_smaller="small images"),
            Row(
                "stages: resolution×updates",
                "224×10000",
                lambda s, i=index: short(_continual(i, "schedule", "stages")(s)),
                why_smaller=SMALLER,
            ),
            Row("α_tv, ℓ2", tv, _continual(index, "objective", "alpha_tv"), why_smaller="small images"),
            Row("α_tv, ℓ1", tv_l1, _continual(index, "objective", "alpha_tv_l1"), why_smaller="small images"),
            Row("α_f", feature, _continual(index, "objective", "alpha_f"), why_smaller="small images"),
            Row("images a class", count, _continual(index, "extension", "images_per_class"), why_smaller=SMALLER),
            Row("batch", batch, _continual(index, "extension", "batch_size"), why_smaller="one for both networks"),
        )
    ]
    + [
        Row(
            "learning rate",
            "tuned for each method and data set",
            lambda s: "by method: " + (", ".join(f"{m} {lr:g}" for m, lr in s.continual.lr.items()) or "one for all"),
            f"tuned for each method; {CHOSEN}",
        ),
        Row(
            "rate ×0.2 at",
            "1/3, 1/2, 2/3, 5/6",
            lambda s: ", ".join(f"{at:.2g}" for at in next(iter(s.continual.networks.values())).extension.decay_at),
            "the same, in decimals",
            "fewer updates",
        ),
        Row("bias of new classes", "not said", _same("the old ones' mean"), "new classes begin with an average score"),
    ],
}


PARTS["Procedures"] = [
    Row(
        "distillation loss (Eq. 1)",
        "KL",
        _same("τ² · KL"),
        "gradients shrink with 1/τ² (Hinton et al., 2015): without it a student stays far behind in as many updates",
    ),
    Row("half precision", "fp16", _same("bfloat16 where it is faster"), "needs no loss scaling, and CPUs have it"),
    Row(
        "augmentation of the student's images",
        "not said",
        _same("shifts and flips; a fresh batch as it is"),
        "as is usual for real ones",
    ),
    Row(
        "first ranking before anything is pruned",
        "KL",
        _same("CE to the network's own predictions"),
        "both networks still agree, so KL has no gradient",
    ),
    Row(
        "statistics of the data sets added (Table 7)",
        "not said",
        _same("measured on each as it is learnt"),
        "frozen BatchNorm never saw them, and dreams of their classes need them",
    ),
    Row(
        "latency of a group of filters (Eq. 13)",
        "what it saves",
        _same("its share of the next step that saves time"),
        "operators get faster in steps, of 16 channels here",
    ),
    Row(
        "adaptive rounds of pruning (Table 4)",
        "students at 61.9 and 73.0 %",
        _same("the pruned network as tuned so far"),
        "how far the paper's were tuned is not said",
    ),
    Row("ℓ1 total variation (E.1)", "a norm", _same("mean absolute difference"), "so that α is of the published size"),
]


def as_markdown() -> str:
    """The whole page, docs/settings.md."""
    parts = [f"## {part}\n\n{_table(rows)}" for part, rows in PARTS.items()]
    return "\n\n".join([_HEAD, *parts]) + "\n"


_HEAD = """# Setting by setting

What the paper says, what the scales `paper` and `laptop` have, and why they differ; where no reason stands they do not.
`make report` writes this page from the scales. Equations and procedures that have no number here are the paper's."""


def _table(rows: list[Row]) -> str:
    lines = [
        {"setting": row.setting, "the paper": short(row.published)}
        | {name: short(row.of(scale)) for name, scale in SCALES.items()}
        | {"why": "; ".join(filter(None, (row.why, row.why_smaller and f"laptop: {row.why_smaller}")))}
        for row in rows
    ]
    return markdown(pd.DataFrame(lines), index=False, disable_numparse=True)
