"""The paper's own numbers, experiments and claims, to stand beside ours."""

from dataclasses import dataclass

TABLE_1 = {  # student top-1 in percent, by method and pair
    "Noise (L)": (13.55, 13.45, 13.61),
    "DeepDream (+R_prior)": (36.59, 39.67, 29.98),
    "DeepInversion (+R_feature)": (84.16, 83.82, 91.43),
    "Adaptive DeepInversion (+R_compete)": (90.78, 90.36, 93.26),
    "DAFL": (None, None, 92.22),
    "teacher": (92.34, 92.34, 95.42),
}
TABLE_1_COLUMNS = ("VGG-11-BN to VGG-11-BN", "VGG-11-BN to ResNet-18", "ResNet-34 to ResNet-18")

TABLE_2 = {  # top-1 in percent on images made from ResNet-50, by the network that classifies them
    "resnet50": (100.0, 100.0),
    "resnet18": (28.0, 94.4),
    "inception_v3": (27.6, 92.7),
    "mobilenet_v2": (13.9, 90.9),
    "vgg11": (6.7, 80.1),
}

TABLE_3 = {  # Inception Score, by method and resolution; the GANs are quoted there, and here
    "BigGAN (256)": 178.0,
    "BigGAN-deep (256)": 202.6,
    "SAGAN (128)": 52.5,
    "SNGAN (128)": 35.3,
    "WGAN-GP (128)": 11.6,
    "DeepInversion (224)": 60.6,
    "DeepDream (224)": 6.2,
}

TABLE_4 = {  # top-1 in percent with 20 and 50 % of the filters removed, by the source of images to tune by
    "none": (16.6, 1.9),
    "real": (74.9, 69.8),
    "proxy": (73.8, 66.0),
    "second_proxy": (70.8, 54.4),
    "gan": (73.7, 63.0),
    "deepinversion": (72.0, 55.9),
    "adaptive": (73.3, 60.7),
}

FLOPS_REMOVED = {0.2: 37.0, 0.5: 71.0}  # percent, by the share of the filters
BASELINE, BASELINE_MS = 76.1, 4.90  # of Tables 9 and 10: top-1 in percent and latency of the whole network

TABLE_5 = {  # GFLOPs, latency in ms, top-1 in percent; what the paper quotes from others has no latency
    "Base model": (4.1, 4.90, 76.1),
    "Taylor": (2.7, 4.38, 75.5),
    "SSS (quoted)": (2.8, None, 74.2),
    "ThiNet-70 (quoted)": (2.6, None, 72.0),
    "NISP-50-A (quoted)": (3.0, None, 72.8),
    "Hardware-Aware (HA)": (3.1, 4.24, 76.1),
    "ADI (data-free)": (2.7, 4.36, 73.3),
    "ADI + HA": (2.9, 4.22, 74.0),
}

TABLE_6 = {  # top-1 in percent of ResNet-50 taught from scratch, by image source and schedule (90 or 250 epochs)
    ("teacher", ""): 77.26,
    ("real", "short"): 76.1,
    ("proxy", "short"): 72.3,
    ("gan", "short"): 64.0,
    ("deepinversion", "short"): 68.0,
    ("deepinversion", "long"): 73.8,
}

TABLE_6_IMAGES = {"real": 215.0, "proxy": 127.0, "gan": 215.0, "deepinversion": 140.0}  # thousands

TABLE_9 = {  # top-1 in percent at five latencies, as shares of 4.90 ms: Taylor's, hardware-aware Taylor's
    0.976: (76.0, 76.5),
    0.865: (74.9, 75.9),
    0.816: (73.2, 73.8),
    0.741: (69.2, 71.6),
    0.680: (55.2, 70.0),
}

TABLE_10 = {  # top-1 in percent without tuning, by percent of filters removed: ranked with labels, and without
    10: (72.1, 72.0),
    20: (58.0, 58.1),
    30: (37.1, 36.4),
    40: (17.2, 16.6),
}

POOL_HOURS = {  # V100-hours for 215,000 images at 224×224, by the updates that each takes
    "20,000 at 224": 2800,
    "2,000 at 112, 1,000 at 224": 260,
}

_COLUMNS = ("combined", "base", "first", "second")  # ImageNet, to which CUB, then Flowers are added


def _continual(rows: dict) -> dict:
    return {key: dict(zip(_COLUMNS, values, strict=True)) for key, values in rows.items()}


TABLE_7 = _continual(  # ResNet-18: top-1 in percent over all classes, by task and method
    {
        ("first", "lwf_mc"): (47.64, 53.98, 41.30, None),
        ("first", "deepdream"): (63.00, 56.02, 69.97, None),
        ("first", "deepinversion"): (67.61, 65.54, 69.68, None),
        ("first", "oracle_distill"): (69.12, 68.09, 70.16, None),
        ("first", "oracle_classify"): (68.17, 67.18, 69.16, None),
        ("second", "lwf_mc"): (67.23, 55.62, None, 78.84),
        ("second", "deepdream"): (79.84, 65.69, None, 94.00),
        ("second", "deepinversion"): (80.85, 68.03, None, 93.67),
        ("second", "oracle_distill"): (80.71, 68.73, None, 92.70),
        ("second", "oracle_classify"): (79.42, 67.59, None, 91.25),
        ("both", "lwf_mc"): (41.72, 40.51, 26.63, 58.01),
        ("both", "deepinversion"): (74.61, 64.10, 66.57, 93.17),
        ("both", "oracle_distill"): (76.18, 67.16, 69.57, 91.82),
        ("both", "oracle_classify"): (74.67, 66.25, 66.64, 91.14),
    }
)

TABLE_11 = _continual(  # VGG-16-BN
    {
        ("first", "lwf_mc"): (47.43, 64.38, 30.48, None),
        ("first", "deepinversion"): (70.72, 68.35, 73.09, None),
        ("first", "oracle_distill"): (72.71, 71.95, 73.47, None),
        ("first", "oracle_classify"): (72.03, 71.20, 72.85, None),
        ("second", "lwf_mc"): (67.67, 65.10, None, 70.24),
        ("second", "deepinversion"): (82.47, 72.11, None, 92.83),
        ("second", "oracle_distill"): (83.07, 72.84, None, 93.30),
        ("second", "oracle_classify"): (81.56, 71.97, None, 91.15),
    }
)

TABLE_8 = {  # student top-1 in percent with DI and ADI, by source of the feature statistics
    "1 image": (61.78, 84.28),
    "10 images": (80.94, 89.99),
    "100 images": (83.64, 90.52),
    "1000 images": (84.53, 90.62),
    "BatchNorm running statistics": (84.44, 90.68),
}


@dataclass(frozen=True)
class Experiment:
    """What the paper shows, the notebook that shows it here, and the table, figure or claim that it fills."""

    name: str
    shows: str
    notebook: str
    file: str = ""
    claim: int | None = None


EXPERIMENTS = (
    Experiment("Table 1", "each method over three pairs of networks", "02_table1_transfer", "table1.csv"),
    Experiment("Table 2", "images of one classifier judged by others", "07_imagenet", "table2.csv"),
    Experiment("Table 3", "Inception Score of DI and DeepDream", "07_imagenet", "table3.csv"),
    Experiment("Table 4", "pruned networks tuned on each source of images", "10_table4_pruning", "table4.csv"),
    Experiment("Table 5", "accuracy, FLOPs and latency by ranking", "10_table4_pruning", "table5.csv"),
    Experiment("Table 6", "transfer from scratch by source and schedule", "08_table6_from_scratch", "table6.csv"),
    Experiment("Table 7", "data sets added to a classifier, by each method", "09_table7_continual", "table7.csv"),
    Experiment("Table 8", "feature statistics from few images", "03_table8_statistics", "table8.csv"),
    Experiment("Table 9", "Taylor and hardware-aware ranking at equal latency", "10_table4_pruning", "table9.csv"),
    Experiment("Table 10", "ranking with labels and without", "10_table4_pruning", "table10.csv"),
    Experiment("Table 11", "Table 7 with a second network", "09_table7_continual", "table11.csv"),
    Experiment("Figure 2", "what competition does", "04_figure2_competition", "figure2.png"),
    Experiment("Figure 3", "images by method from one teacher", "02_table1_transfer", "figure3.png"),
    Experiment("Figure 4", "accuracy on images and real ones along transfer", "02_table1_transfer", "figure4.png"),
    Experiment("Figure 5", "images of ImageNet's classes", "07_imagenet", "figure5.png"),
    Experiment("Figure 6", "images that a student was taught on", "08_table6_from_scratch", "figure6.png"),
    Experiment("Figure 7", "coverage over rounds of ADI", "10_table4_pruning", "figure7.png"),
    Experiment("Figure 8", "nearest real neighbours", "10_table4_pruning", "figure8.png"),
    Experiment("Sec. 5", "time grows linearly with images", "06_growth", "growth.png"),
    Experiment("Sec. 5", "colours and backgrounds are alike", "07_imagenet", "imagenet_colours.png"),
    Experiment("Sec. 5", "nothing is gained where classes are alike", "09_table7_continual", claim=13),
    Experiment("Sec. 5", "data-free quantisation", "11_quantization", "table12.csv"),
)
