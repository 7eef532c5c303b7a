from dataclasses import asdict

import pytest

from dilib.frontier import FAMILIES, family
from dilib.scales import SCALES


def test_families_differ_from_the_scale_in_what_they_are_named_for():
    schedule = SCALES["laptop"].schedule
    changed = {
        name: {key for key, value in asdict(family(schedule, name, 40)).items() if value != asdict(schedule)[key]}
        for name in FAMILIES
    }
    assert changed == {
        "paper": {"stages", "lr", "decay", "clip"},
        "decay": {"stages"},
        "warm": {"stages", "warm_start"},
    }
    assert {family(schedule, name, 40).updates for name in FAMILIES} == {40}
    with pytest.raises(ValueError, match="unknown family 'adam'; choose from paper, decay, warm"):
        family(schedule, "adam", 40)
