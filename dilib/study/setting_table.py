"""Setting by setting: the paper's, what the scales have in its place, and why. Read from the scales, not typed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dilib.inversion import Objective
from dilib.study.scales import laptop, overnight, paper
from dilib.study.scales.settings import PAIRS, Addition, Scale
from dilib.study.tables import markdown, short

SMALLER = "for two cores and a few hours"
NIGHT = "for a night"
FEWER = "fewer updates need a higher rate"
CHOSEN = "chosen on validation images (13_choices)"
EARLIER = "settled before validation images were set aside (13_choices)"
WHICH = "which of the four for which pair is not said"
HEAD = """# Setting by setting

What the paper says, what the scales have, and why they differ: first why `paper` differs from the paper, then why
`overnight`, which is for knowledge transfer alone, and `laptop` differ from `paper`. DAFL's are those of Chen et al.
(2019) for CIFAR-10, as far as they go; [a] marks what the paper's authors have said in public, not in the paper.
Equations that are not mentioned are the paper's. `make report` writes this page from the scales."""
SCALES = {"paper": paper.SCALE, "overnight": overnight.SCALE, "laptop": laptop.SCALE}


@dataclass(frozen=True)
class Row:
    """One setting: the paper's value, where a scale has it, why `paper` has another, and why others have not that."""

    setting: str
    published: Any
    of: Callable[[Scale], Any]
    why: str = ""
    why_smaller: str = ""  # at laptop scale
    why_overnight: str = ""


def _same(value: str) -> Callable[[Scale], str]:
    """What is the same at every scale."""
    return lambda _: value


def _teaching(scale: Scale):
    return scale.distillation[PAIRS[0]]


def _total(scale: Scale) -> int:
    return _teaching(scale).rounds * _teaching(scale).updates


def _adding(scale: Scale, index: int) -> tuple[Addition, Objective]:
    """How Table 7's network (index 0) or Table 11's learns and dreams, on ImageNet where the scale has both there."""
    settings = scale.continual_imagenet if len(scale.continual_imagenet.networks) > 1 else scale.continual
    name = [*settings.networks][index]
    how = settings.networks[name]
    return how, how.objective or scale.objective[name].deepinversion()


def _vgg(name: str) -> Callable[[Scale], Any]:
    return lambda scale: getattr(scale.objective["vgg11_bn"], name)


def _continual(index: int, rate, tv, tv_l1, feature, count, batch) -> list[Row]:
    """What the paper has for each of two networks; small images share the rest with Sec. 4.1."""
    like = "for Table 1 above" if index else "for pruning and Table 1's third pair"
    small = f"small images: as {like}"
    return [
        Row("Adam's rate", rate, lambda s: _adding(s, index)[0].schedule.lr, why_smaller=small),
        Row("its decay", "step", lambda s: _adding(s, index)[0].schedule.decay, why_smaller=small),
        Row(
            "stages: resolution×updates",
            "224×10000",
            lambda s: short(_adding(s, index)[0].schedule.stages),
            why_smaller=SMALLER,
        ),
        Row("α_tv, ℓ2", tv, lambda s: _adding(s, index)[1].alpha_tv, why_smaller=small),
        Row("α_tv, ℓ1", tv_l1, lambda s: _adding(s, index)[1].alpha_tv_l1, why_smaller=small),
        Row("α_f", feature, lambda s: _adding(s, index)[1].alpha_f, why_smaller=small),
        Row(
            "images a class",
            count,
            lambda s: _adding(s, index)[0].extension.images_per_class,
            why_smaller="" if index else SMALLER,
        ),
        Row(
            "batch",
            batch,
            lambda s: _adding(s, index)[0].extension.batch_size,
            why_smaller="one for both networks" if index else "",
        ),
    ]


TRANSFER = "Knowledge transfer on CIFAR-10 (Sec. 4.1, A.1)"
PARTS = {
    TRANSFER: [
        Row("width of the networks", 1.0, lambda s: s.widths["vgg11_bn"], why_smaller=SMALLER),
        Row("teachers' epochs", "not said", lambda s: s.training["vgg11_bn"].epochs, "as is usual", SMALLER, NIGHT),
        Row("the ResNets'", "not said", lambda s: s.training["resnet34"].epochs, "as is usual", SMALLER, NIGHT),
        Row(
            "their batch and rate",
            "not said",
            lambda s: f"{s.training['vgg11_bn'].batch_size} and {s.training['vgg11_bn'].lr:g}",
            "as is usual",
            "fewer epochs",
            "fewer epochs",
        ),
        Row(
            "their shift, pixels",
            "not said",
            lambda s: s.training["vgg11_bn"].shift,
            "small",
            "",
            "usual on CIFAR-10",
        ),
        Row("images a batch", 256, lambda s: s.batch_size),
        Row(
            "updates a batch",
            2000,
            lambda s: s.schedule["vgg11_bn"].stages[-1][1],
            why_smaller=f"{SMALLER}; after the first batch 40, from an earlier batch's images and noise (05_frontier)",
            why_overnight=NIGHT,
        ),
        Row("Adam's rate", 0.05, lambda s: s.schedule["vgg11_bn"].lr, "", FEWER, FEWER),
        Row(
            "its decay",
            "constant",
            lambda s: s.schedule["vgg11_bn"].decay,
            why_smaller="as above; 05_frontier compares",
            why_overnight="as above",
        ),
        Row("α_tv", 2.5e-5, _vgg("alpha_tv"), why_smaller=CHOSEN),
        Row("α_ℓ2", 3e-8, _vgg("alpha_l2")),
        Row("α_f", "1, 5, 10, 100", _vgg("alpha_f"), WHICH, CHOSEN),
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
        Row("new batches [a]", 1000, lambda s: _teaching(s).rounds, "one every 50 of 48,750 updates", SMALLER, NIGHT),
        Row(
            "student's updates",
            48_750,
            _total,
            why_smaller=SMALLER,
            why_overnight=NIGHT,
        ),
        Row("student's batch", 256, lambda s: _teaching(s).batch_size, why_smaller=SMALLER),
        Row("student's rate", 0.1, lambda s: _teaching(s).lr, why_smaller=FEWER),
        Row("its decay", "step", lambda s: _teaching(s).decay, why_smaller="as above"),
        Row(
            "temperature τ [a]",
            3.0,
            lambda s: _teaching(s).temperature,
            why_smaller="students learn faster from soft labels",
        ),
        Row(
            "batches before competition [a]",
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
            SMALLER,
        ),
        Row("DAFL's rate", 0.02, lambda s: s.dafl.lr, why_smaller=CHOSEN),
        Row("width of DAFL's generator", 128, lambda s: s.dafl.width, why_smaller=SMALLER),
        Row("DAFL's temperature", 1.0, lambda s: s.dafl.temperature, why_smaller=CHOSEN),
        Row("DAFL's latents", 1000, lambda s: s.dafl.latents),
        Row("DAFL's weights: one-hot", 0.05, lambda s: s.dafl.one_hot),
        Row("activation", 0.01, lambda s: s.dafl.activation),
        Row("entropy", 5.0, lambda s: s.dafl.entropy),
        Row("ResNet-34's images: updates", 2000, lambda s: s.schedule["resnet34"].stages[-1][1], "", SMALLER, NIGHT),
        Row(
            "its new batches",
            500,
            lambda s: s.distillation[PAIRS[2]].rounds,
            "one every 100 of 48,750 updates",
            SMALLER,
            NIGHT,
        ),
        Row("its α_tv", 2.5e-5, lambda s: s.objective["resnet34"].alpha_tv, why_smaller=EARLIER),
        Row("its α_f", "1, 5, 10, 100", lambda s: s.objective["resnet34"].alpha_f, WHICH, EARLIER),
        Row("its α_c", 10.0, lambda s: s.objective["resnet34"].alpha_c, why_smaller=EARLIER),
        Row(
            "Table 8: student's updates",
            48_750,
            lambda s: s.statistics.student.rounds * s.statistics.student.updates,
            why_smaller=SMALLER,
            why_overnight=NIGHT,
        ),
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
        Row("Adam's rate", 0.05, lambda s: s.imagenet.schedules[0].lr, why_smaller=FEWER),
        Row("its decay", "constant", lambda s: s.imagenet.schedules[0].decay, why_smaller="as above"),
        Row(
            "largest jitter, pixels",
            29,
            lambda s: s.imagenet.schedules[0].jitter,
            why_smaller="30 of 224, one more than below 30 allows",
        ),
        Row(
            "clipping (Eq. 16)",
            False,
            lambda s: s.imagenet.schedules[0].clip,
            why_smaller="07_imagenet leaves it out in turn",
        ),
        Row("α_tv", 1e-4, lambda s: s.imagenet.objective.alpha_tv, why_smaller="another network and fewer updates"),
        Row(
            "α_tv of DeepDream",
            1e-4,
            lambda s: s.imagenet.deepdream_tv,
            why_smaller="DeepInversion's: it was not tuned for DeepDream",
        ),
        Row("α_ℓ2", 1e-2, lambda s: s.imagenet.objective.alpha_l2, why_smaller="another network"),
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
        Row(
            "Adam's rate",
            0.2,
            lambda s: s.imagenet.transfer[0].lr if s.imagenet.transfer else s.sources.schedule["vgg11_bn"].lr,
            why_smaller="on small images, as in Sec. 4.1",
        ),
        Row("images", 140_000, lambda s: s.from_scratch.images, why_smaller=SMALLER),
        Row("student's batch", 1024, lambda s: s.from_scratch.short.batch_size, why_smaller=SMALLER),
        Row("student's rate", 1.024, lambda s: s.from_scratch.short.lr, why_smaller="for its batch"),
        Row(
            "its decay",
            "as in the original setup",
            lambda s: s.from_scratch.short.decay,
            "as our other students' with few epochs; the original setup warms up and falls by a cosine",
        ),
        Row("epochs", 90, lambda s: s.from_scratch.short.rounds, why_smaller=f"here rounds of 500 updates; {SMALLER}"),
        Row(
            "epochs with mixup",
            250,
            lambda s: s.from_scratch.long.rounds,
            why_smaller=f"here rounds of 400 updates; {SMALLER}",
        ),
        Row("mixup's α", "not said", lambda s: s.from_scratch.long.mixup, "usual on ImageNet", "usual on CIFAR-10"),
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
            f"in units of the median importance and saving, as the paper's are of its GPU; {CHOSEN}, at laptop scale",
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
        Row(
            "temperature τ",
            "best of 5, 10, 15",
            lambda s: s.compression.tuning.temperature,
            "one for all: choosing by the tables' test images is no choice",
            "fewer updates",
        ),
        Row("DeepInversion's images", 165_000, lambda s: s.compression.images, why_smaller=SMALLER),
        Row(
            "adaptive images, two rounds",
            "24000 and 26000",
            lambda s: s.compression.adaptive,
            "as many in each",
            SMALLER,
        ),
        Row(
            "α_c",
            0.2,
            lambda s: s.compression.alpha_c,
            "on CIFAR-10, where α_f is 10, it is Sec. 4.1's; on ImageNet 0.2",
            "not tuned",
        ),
        Row(
            "epochs of tuning",
            30,
            lambda s: s.compression.tuning.rounds,
            why_smaller=f"here rounds of 130 updates; {SMALLER}",
        ),
        Row("images a batch", 256, lambda s: s.compression.tuning.batch_size, why_smaller=SMALLER),
        Row("rate of tuning", 0.01, lambda s: s.compression.tuning.lr, why_smaller=FEWER),
        Row("Table 9: epochs of tuning", 15, lambda s: s.compression.brief.rounds, why_smaller="as above"),
        Row(
            "Table 5: networks of",
            "80 % of the filters",
            lambda s: f"{s.compression.budgets[len(s.compression.budgets) // 2]:.0%} of the latency",
            "Table 9's middle budget: methods are compared at one latency",
            "as above",
        ),
    ],
    "Continual learning (Sec. 4.5, E; Table 7's network, then Table 11's)": [
        row
        for index, (rate, tv, tv_l1, feature, count, batch) in enumerate(
            [(0.2, 3e-5, 0.1, 0.1, 250, 128), (0.5, 6e-5, 0.2, 3e-2, 64, 64)]
        )
        for row in _continual(index, rate, tv, tv_l1, feature, count, batch)
    ]
    + [
        Row(
            "images a batch, dreamt",
            "not said",
            lambda s: _adding(s, 0)[0].batch_size,
            "as many as fit",
            "as elsewhere",
        ),
        Row(
            "learning rate",
            "tuned for each method and data set",
            lambda s: ", ".join(f"{method} {lr:g}" for method, lr in s.continual.lr.items()) or "0.1",
            "one for all: tuning takes all of its runs several times",
            f"tuned for each method, with one network and one data set; {CHOSEN}",
        ),
        Row(
            "updates of the network",
            "tuned for each method and data set",
            lambda s: _adding(s, 0)[0].extension.updates,
            "one number for all",
            SMALLER,
        ),
        Row(
            "rate ×0.2 at",
            "1/3, 1/2, 2/3, 5/6",
            lambda s: ", ".join(f"{at:.2g}" for at in _adding(s, 0)[0].extension.decay_at),
            "the same, in decimals",
            "fewer updates",
        ),
        Row(
            "α_tv of DeepDream",
            "not said",
            lambda s: s.continual.deepdream_tv,
            "Sec. 4.1's",
            f"as for Table 1; {CHOSEN}",
        ),
        Row("bias of new classes", "not said", _same("the old ones' mean"), "new classes begin with an average score"),
    ],
    "Procedures": [
        Row(
            "accuracy that is shown",
            "the highest (Table 9, C.2)",
            _same("the last epoch's"),
            "the highest on test images is a choice by them",
        ),
        Row(
            "images by source (Tables 4, 6)",
            "100k to 215k, 9.9k of PASCAL VOC",
            _same("equally many, or all there are"),
            "so that sources differ, not their numbers",
        ),
        Row(
            "network of Table 6",
            "ResNet50v1.5 of 77.26 %",
            _same("the study's own; on ImageNet torchvision's"),
            "its weights are not torchvision's",
        ),
        Row(
            "images for pruning on ImageNet",
            "by Sec. 4.2's scheme",
            _same("by Sec. 4.4's"),
            "a tenth of the time",
        ),
        Row(
            "distillation loss (Eq. 1)",
            "KL",
            _same("τ² · KL"),
            "gradients shrink with 1/τ² (Hinton et al., 2015): without it a student stays far behind",
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
        Row(
            "ℓ1 total variation (E.1)",
            "a norm",
            _same("mean absolute difference"),
            "so that α is of the published size",
        ),
    ],
}


def as_markdown() -> str:
    """The whole page, docs/settings.md."""
    parts = [f"## {part}\n\n{_table(rows, _scales_of(part))}" for part, rows in PARTS.items()]
    return "\n\n".join([HEAD, *parts]) + "\n"


def _scales_of(part: str) -> list[str]:
    """The scales that a part of the page is about."""
    return [name for name in SCALES if name != "overnight" or part == TRANSFER]


def _table(rows: list[Row], scales: list[str]) -> str:
    lines = [
        {"setting": row.setting, "the paper": short(row.published)}
        | {f"scale {name}": short(row.of(SCALES[name])) for name in scales}
        | {"why": "; ".join(_reasons(row, scales))}
        for row in rows
    ]
    return markdown(pd.DataFrame(lines), index=False, disable_numparse=True)


def _reasons(row: Row, scales: list[str]) -> Iterator[str]:
    if row.why:
        yield row.why
    if row.why_overnight and "overnight" in scales:
        yield f"overnight: {row.why_overnight}"
    if row.why_smaller:
        yield f"laptop: {row.why_smaller}"
