"""A teacher that trains in seconds, for the examples that each notebook begins with."""

from pathlib import Path

import torch

from dilib import data, networks
from dilib.artifacts import load_tensors, plain, save_tensors, weights
from dilib.classifier import Classifier
from dilib.evaluation import split_accuracy
from dilib.inversion import Objective, Schedule
from dilib.timing import threads
from dilib.training import TrainingSettings, train

DIGITS = data.load("digits")
TRAINING = TrainingSettings(epochs=6, batch_size=100, flip=False)
OBJECTIVE = Objective(alpha_tv=0.2, alpha_l2=0.0, alpha_f=1.0, alpha_c=10.0)
SCHEDULE = Schedule(stages=((32, 60),), lr=0.25, decay="cosine", jitter=2, flip=False, clip=True)


def fresh_network(seed: int = 0) -> torch.nn.Module:
    """VGG-11-BN at an eighth of its width, for digits, with random weights."""
    torch.manual_seed(seed)
    return networks.create("vgg11_bn", classes=10, channels=1, width=1 / 8)


def digit_teacher(artifacts: str | Path) -> Classifier:
    """The toy network, trained on 1,500 digits the first time that it is asked for, in fp32."""
    teacher = Classifier(fresh_network(), DIGITS.preprocessing, "toy")
    path, card = Path(artifacts) / "toy" / "teacher.safetensors", plain({"training": TRAINING})
    if load_tensors(path, card) is None:
        with threads(1):  # so small a network gains nothing from more
            train(teacher, DIGITS.train, TRAINING)
        save_tensors(path, weights(teacher.network), card)
    teacher.network.load_state_dict(load_tensors(path, card)[0])
    teacher.network.eval()
    return teacher


def top1(classifier: Classifier) -> float:
    """Top-1 in percent on the 297 test digits."""
    return split_accuracy(classifier, DIGITS.test)
