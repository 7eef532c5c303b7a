import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dilib import networks
from dilib.baselines.textbook import textbook
from dilib.experiments import step_times, transfer_times
from dilib.experiments.step_times import LOOPS, Workload, measure, peak_memory
from dilib.inversion import Objective, Schedule, updates
from dilib.study.scales import SCALES

TINY = Workload("tiny", partial(networks.create, "vgg11_bn", 4, width=1 / 16), batch=8, size=32, classes=4)
CPU = torch.device("cpu")


def test_rows_of_known_times(monkeypatch):
    """Ratios are taken within a turn, so a machine that slows down from turn to turn does not change them."""
    times = dict.fromkeys(LOOPS, (1.0, 2.0, 3.0)) | {"textbook": (4.0, 8.0, 12.0), "DeepInversion": (3.0, 2.5, 3.75)}
    monkeypatch.setattr(step_times, "peak_memory", lambda *arguments: None)
    monkeypatch.setattr(step_times, "step_seconds", lambda *arguments: times)
    rows = {row.method: row for row in measure(TINY, CPU, torch.float32)}
    row = rows["DeepInversion"]
    assert (row.seconds, row.images_per_second) == (3.0, 8 / 3.0)
    assert (row.ratio_to_floor, row.speedup_over_textbook) == (1.25, 3.2)
    json.dumps([vars(row) for row in rows.values()])


def test_every_method_takes_every_turn():
    seconds = step_times.step_seconds(TINY, CPU, torch.float32, turns=2)
    assert list(seconds) == list(LOOPS)
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())


def test_peak_memory_holds_the_feature_maps():
    many = replace(TINY, batch=2048)
    first_map = 2048 * 4 * 32 * 32 * 4 / 2**20  # MiB
    added = peak_memory(many, "floor", CPU, torch.float32)
    if not Path("/proc/self/status").exists():
        assert added is None
    else:
        assert first_map < added < 30 * first_map


def test_our_loop_makes_the_images_of_the_textbook_loop(teacher):
    objective = Objective(alpha_tv=1e-2, alpha_l2=1e-3, alpha_f=1.0).deepinversion()
    schedule = Schedule(stages=((32, 20),), lr=0.05, decay="cosine", jitter=3, clip=True)
    arguments = (teacher, torch.arange(8) % 4, objective, schedule)
    ours = [images.clone() for images, _ in updates(*arguments, seed=7)]
    theirs = [images.clone() for images in textbook(*arguments, seed=7)]
    assert len(ours) == len(theirs) == 20
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=0)  # a fiftieth of one update


def test_processes_are_timed_together():
    one, two = (step_times.throughput(TINY, CPU, torch.float32, processes, steps=3) for processes in (1, 2))
    assert (one.processes, two.processes) == (1, 2)
    assert min(one.image_updates_per_second, two.image_updates_per_second) > 0


def test_a_transfer_takes_longer_than_its_bare_steps():
    how = SCALES["smoke"].amortised
    found = transfer_times.transfer(CPU, torch.float32, how, width=1 / 16, turns=1)
    teaching = how.student[transfer_times.PAIR]
    assert (found.batches, found.updates) == (teaching.batches, teaching.updates)
    assert found.ratio_to_bare == found.seconds / found.bare_seconds > 1


def test_what_was_measured_is_read_back(tmp_path):
    assert step_times.measured(tmp_path).empty
    row = step_times.Throughput("tiny", 2, 30.0)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "a.json").write_text(json.dumps({"device": "a", "processes": [vars(row)]}))
    found = step_times.measured(tmp_path, step_times.Throughput)
    assert found.to_dict("records") == [
        {"device": "a", "network": "tiny", "processes": 2, "image_updates_per_second": 30}
    ]
    assert list(step_times.measured(tmp_path).columns)[:3] == ["device", "network", "method"]
