"""Sec. 5's data-free quantisation: accuracy on few bits, by the images that ranges and tuning come from."""

import time
from functools import partial

import torch
from torch import nn

from dilib.classifier import Classifier
from dilib.compression.quantization import quantized
from dilib.data import Split
from dilib.distillation import distill_on_pool
from dilib.evaluation import split_accuracy, top1
from dilib.experiments import image_sources
from dilib.experiments.image_sources import images, source_settings
from dilib.experiments.teachers import maker_of
from dilib.progress import counted
from dilib.rounds import Run
from dilib.study.cells import Cell, Study

NOISE = "noise"


def available(study: Study) -> list[str]:
    """The sources that the study can have."""
    return [NOISE, *image_sources.available(study)]


def quantized_cell(study: Study, source: str, bits: int, tuned: bool, seed: int = 0) -> Cell:
    """Top-1 of the teacher on `bits` bits: ranges set on a source's images, and fine-tuned on them if `tuned`."""
    settings = study.scale.quantization
    card = {
        "teacher": maker_of(study, settings.network).settings,
        "source": source if source == NOISE else source_settings(study, source, settings.network),
        "bits": bits,
        "calibrating": settings.calibrating,
    }
    if tuned:
        card |= {"images": settings.images, "tuning": settings.tuning}
    name = f"quantized--{bits}-bits--{source}{'--tuned' if tuned else ''}"
    return Cell(name, card, partial(_metrics, study, source, bits, tuned, seed), seed)


def _metrics(study: Study, source: str, bits: int, tuned: bool, seed: int) -> dict:
    settings, teacher = study.scale.quantization, maker_of(study, study.scale.quantization.network, seed).load()
    pool = _images(study, source, settings.images if tuned else settings.calibrating, seed)
    started = time.perf_counter()
    ranges = teacher.preprocessing.normalise(pool.pixels[: settings.calibrating])
    student, history = quantized(teacher.network, ranges, bits), []
    if tuned:
        with counted(settings.tuning.rounds, f"tuning {bits} bits, {source}, seed {seed}") as on_round:
            run = Run(seed, on_round=on_round)
            history = distill_on_pool(teacher, student, pool.pixels, study.data.test, settings.tuning, run)
            history = history["student_on_test"]
    top1_on_few_bits = _exact_top1(teacher.with_network(student), study.data.test)
    return {
        "top1": top1_on_few_bits,
        "teacher_top1": split_accuracy(teacher, study.data.test),
        "images": len(pool.labels),
        "seconds": pool.seconds + time.perf_counter() - started,
        "history": history,
    }


@torch.no_grad()
def _exact_top1(classifier: Classifier, split: Split) -> float:
    """Top-1 in percent, computed in fp32: bfloat16 is itself coarser than eight bits."""
    network: nn.Module = classifier.network.to(memory_format=torch.channels_last)
    batches = (classifier.preprocessing.normalise(pixels).to(classifier.device) for pixels in split.pixels.split(1000))
    logits = [network(batch.contiguous(memory_format=torch.channels_last)) for batch in batches]
    return top1(torch.cat(logits), split.labels)


def _images(study: Study, source: str, count: int, seed: int) -> Split:
    """`count` images; noise has the data's own mean and deviation."""
    if source != NOISE:
        return images(study, source, study.scale.quantization.network, count, seed)
    preprocessing = study.data.preprocessing
    shape = (count, preprocessing.channels, preprocessing.size, preprocessing.size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Split(preprocessing.to_pixels(noise), torch.zeros(count, dtype=torch.long))
