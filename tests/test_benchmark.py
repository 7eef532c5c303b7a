import json

import pytest
import torch

from dilib import models
from dilib.benchmark import METHODS, Workload, measure

TINY = Workload("tiny", lambda: models.create("vgg11_bn", 4, width=1 / 16), batch=8, size=32, classes=4)


def test_rows_agree_with_each_other():
    rows = {row.method: row for row in measure(TINY, torch.device("cpu"), turns=2)}
    assert list(rows) == list(METHODS)
    assert rows["floor"].ratio_to_floor == rows["textbook"].speedup_over_textbook == 1
    for row in rows.values():
        assert row.images_per_second == pytest.approx(8 / row.seconds)
        assert row.ratio_to_floor == pytest.approx(row.seconds / rows["floor"].seconds)
        assert row.speedup_over_textbook == pytest.approx(rows["textbook"].seconds / row.seconds)
    json.dumps([vars(row) for row in rows.values()])
