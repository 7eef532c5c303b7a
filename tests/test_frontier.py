from dataclasses import asdict

import pytest

from dilib.experiments.frontier import FAMILIES, family
from dilib.inversion import Schedule


def test_families_differ_from_the_scale_in_what_they_are_named_for():
    schedule = Schedule(stages=((16, 7), (32, 9)), lr=0.3, decay="cosine", clip=True)
    families = {name: family(schedule, name, 40, batches=6) for name in FAMILIES}
    changed = {
        name: {key for key, value in asdict(made).items() if value != asdict(schedule)[key]}
        for name, made in families.items()
    }
    assert changed == {
        "paper": {"stages", "lr", "decay", "clip"},
        "decay": {"stages"},
        "warm": {"stages", "warm_start", "warm_updates"},
    }
    assert families["warm"].stages == ((32, 120),)
    assert families["warm"].warm_updates == 24
    assert {made.updates(batches=6) for made in families.values()} == {240}
    with pytest.raises(ValueError, match="unknown family 'adam'; choose from paper, decay, warm"):
        family(schedule, "adam", 40, batches=6)
