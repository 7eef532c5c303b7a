"""Sec. 5's data-free quantisation as cells: accuracy on few bits, by the images that ranges and tuning come from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dilib import sources
from dilib.data import Split
from dilib.distillation import distill_on_pool
from dilib.evaluation import top1
from dilib.models import Preprocessing
from dilib.progress import counted
from dilib.quantization import quantized
from dilib.study import Study, plain
from dilib.subject import Subject, teacher_top1
from dilib.subject import subject as subject_of
from dilib.workers import cells_side_by_side

NOISE = "noise"
SOURCES = {NOISE: "Noise", **sources.SOURCES}


def available(study: Study) -> list[str]:
    """The sources that the study can have."""
    return [NOISE, *sources.available(study)]


def run(study: Study, seeds: Sequence[int]) -> None:
    """Every cell that is not there yet: on few bits as it is, and tuned where bits are fewest."""
    settings = study.scale.quantization
    tasks = [(source, bits, False) for bits in settings.bits for source in available(study)]
    tasks += [(source, min(settings.bits), True) for source in available(study)]
    cells_side_by_side(cell, _key, study, [(*task, seed) for seed in seeds for task in tasks])


def cell(study: Study, source: str, bits: int, tuned: bool, seed: int) -> dict:
    """Top-1 of the teacher on so many bits, its ranges set on a source's images, and tuned by them if asked for."""
    name, settings, _ = _key(study, source, bits, tuned, seed)
    return study.cell(name, settings, lambda: _metrics(study, source, bits, tuned, seed), seed)


def finished(study: Study, source: str, bits: int, tuned: bool) -> list[dict]:
    """The cells there are, one a seed."""
    return study.cells(*_key(study, source, bits, tuned, 0)[:2])


def _key(study: Study, source: str, bits: int, tuned: bool, seed: int) -> tuple[str, dict, int]:
    settings = study.scale.quantization
    card = {
        "teacher": _subject(study).settings,
        "source": source if source == NOISE else sources.settings(study, source, settings.network),
        "bits": bits,
        "calibrating": settings.calibrating,
    }
    if tuned:
        card |= {"images": settings.images, "tuning": settings.tuning}
    return f"quantized--{bits}-bits--{source}{'--tuned' if tuned else ''}", plain(card), seed


def _subject(study: Study) -> Subject:
    return subject_of(study, study.scale.quantization.network)


def _metrics(study: Study, source: str, bits: int, tuned: bool, seed: int) -> dict:
    settings, teacher = study.scale.quantization, _subject(study).load()
    count = settings.images if tuned else settings.calibrating
    pool = _images(study, source, count, seed)
    student = quantized(teacher.network, teacher.preprocessing.normalise(pool[: settings.calibrating]), bits)
    history = _tuned(study, teacher, student, pool, f"{bits} bits, {source}", seed) if tuned else []
    return {
        "top1": _exact_top1(student, study.data.test, teacher.preprocessing),
        "teacher_top1": teacher_top1(study, settings.network),
        "images": count,
        "history": history,
    }


@torch.no_grad()
def _exact_top1(network: nn.Module, split: Split, preprocessing: Preprocessing) -> float:
    """Top-1 in percent, computed in fp32: bfloat16 is itself coarser than eight bits."""
    device = next(network.parameters()).device
    network = network.to(memory_format=torch.channels_last)
    batches = (preprocessing.normalise(pixels).to(device) for pixels in split.pixels.split(1000))
    logits = [network(batch.contiguous(memory_format=torch.channels_last)) for batch in batches]
    return top1(torch.cat(logits), split.labels)


def _images(study: Study, source: str, count: int, seed: int) -> Tensor:
    """Images, uint8 (N, C, H, W); noise has the data's own mean and deviation."""
    if source != NOISE:
        return sources.images(study, source, study.scale.quantization.network, count, seed)
    preprocessing = study.data.preprocessing
    shape = (count, preprocessing.channels, preprocessing.size, preprocessing.size)
    return preprocessing.to_pixels(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def _tuned(study: Study, teacher, student: nn.Module, pool: Tensor, words: str, seed: int) -> list[float]:
    """Top-1 along the distillation of the whole network into the rounded one, in place."""
    tuning = study.scale.quantization.tuning
    with counted(tuning.rounds, f"tuning {words}, seed {seed}") as on_round:
        history = distill_on_pool(
            teacher.network,
            student,
            pool,
            teacher.preprocessing,
            study.data.test,
            tuning,
            seed=seed,
            on_round=on_round,
        )
    return history["student_on_test"]
