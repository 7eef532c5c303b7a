"""When a curve reaches a quality, by hand."""

import pytest

from dilib.experiments.growth import seconds_to, shortened


def test_seconds_to_a_quality_by_hand():
    curve = [(8.0, 80.0), (1.0, 20.0), (2.0, 40.0), (4.0, 30.0)]
    assert seconds_to(40, curve) == 2
    assert seconds_to(30, curve) == 1.5
    assert seconds_to(55, curve) == 6  # half way from 4 s and 30 to 8 s and 80
    assert seconds_to(10, curve) == 1
    with pytest.raises(ValueError, match=r"a quality of 81 is never reached; the best is 80\.0"):
        seconds_to(81, curve)


def test_shortened_stages_keep_an_update():
    assert shortened(((16, 120), (32, 60)), 1 / 8) == ((16, 15), (32, 8))
    assert shortened(((32, 2),), 1 / 16) == ((32, 1),)
