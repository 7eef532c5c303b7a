import json
from dataclasses import replace
from functools import partial

import torch

from dilib import benchmark, inversion, models
from dilib.benchmark import METHODS, Workload, measure, peak_memory, textbook
from dilib.inversion import Objective, Schedule

TINY = Workload("tiny", partial(models.create, "vgg11_bn", 4, width=1 / 16), batch=8, size=32, classes=4)


def test_rows_of_known_times(monkeypatch):
    """Ratios are taken within a turn, so a machine that slows down from turn to turn does not change them."""
    times = dict.fromkeys(METHODS, (1.0, 2.0, 3.0)) | {"textbook": (4.0, 8.0, 12.0), "DeepInversion": (3.0, 2.5, 3.75)}
    monkeypatch.setattr(benchmark, "peak_memory", lambda *arguments: None)
    monkeypatch.setattr(benchmark, "step_seconds", lambda *arguments: times)
    rows = {row.method: row for row in measure(TINY, torch.device("cpu"))}
    row = rows["DeepInversion"]
    assert (row.seconds, row.images_per_second) == (3.0, 8 / 3.0)
    assert (row.ratio_to_floor, row.speedup_over_textbook) == (1.25, 3.2)
    json.dumps([vars(row) for row in rows.values()])


def test_every_method_takes_every_turn():
    seconds = benchmark.step_seconds(TINY, torch.device("cpu"), turns=2)
    assert list(seconds) == list(METHODS)
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())


def test_peak_memory_holds_the_feature_maps():
    many = replace(TINY, batch=2048)
    first_map = 2048 * 4 * 32 * 32 * 2 / 2**20  # MiB, in half precision
    added = peak_memory(many, "floor", torch.device("cpu"))
    assert added is None or first_map < added < 30 * first_map


def test_our_loop_makes_the_images_of_the_textbook_loop(teacher, preprocessing, monkeypatch):
    monkeypatch.setattr(inversion, "compute_dtype", lambda device: torch.float32)
    objective = Objective(alpha_tv=1e-2, alpha_l2=1e-3, alpha_f=1.0).deepinversion()
    schedule = Schedule(stages=((32, 20),), lr=0.05, decay="cosine", jitter=3, clip=True)
    arguments = (teacher, preprocessing, torch.arange(8) % 4, objective, schedule)
    ours = [images.clone() for images, _ in inversion.updates(*arguments, seed=7)]
    theirs = [images.clone() for images in textbook(*arguments, seed=7)]
    assert len(ours) == len(theirs) == 20
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=0)  # a fiftieth of one update


def test_processes_are_timed_together():
    one, two = (benchmark.throughput(TINY, torch.device("cpu"), processes, steps=3) for processes in (1, 2))
    assert (one.processes, two.processes) == (1, 2)
    assert min(one.image_updates_per_second, two.image_updates_per_second) > 0


def test_what_was_measured_is_read_back(tmp_path):
    assert benchmark.measured(tmp_path).empty
    row = benchmark.Throughput("tiny", 2, 30.0)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "a.json").write_text(json.dumps({"device": "a", "processes": [vars(row)]}))
    found = benchmark.measured(tmp_path, benchmark.Throughput)
    assert found.to_dict("records") == [
        {"device": "a", "network": "tiny", "processes": 2, "image_updates_per_second": 30}
    ]
    assert list(benchmark.measured(tmp_path).columns)[:3] == ["device", "network", "method"]
