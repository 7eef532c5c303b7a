"""The page on what differs from the paper: a reason for every difference, and none where there is none."""

from pathlib import Path

import pytest

from dilib.study.scales import laptop, overnight, paper
from dilib.study.setting_table import PARTS, TRANSFER, as_markdown
from dilib.study.tables import short

ROWS = [
    pytest.param(row, id=f"{part[:12]}-{number}") for part, rows in PARTS.items() for number, row in enumerate(rows)
]


@pytest.mark.parametrize("row", ROWS)
def test_every_difference_has_a_reason(row):
    published, ours, smaller = (short(value) for value in (row.published, row.of(paper.SCALE), row.of(laptop.SCALE)))
    assert bool(row.why) == (ours != published)
    assert bool(row.why_smaller) == (smaller != ours)
    assert bool(row.why_overnight) == (row in PARTS[TRANSFER] and short(row.of(overnight.SCALE)) != ours)


def test_rows_by_hand():
    lines = [[field.strip() for field in line.split("|")[1:-1]] for line in as_markdown().splitlines() if "|" in line]
    found = {(setting, published): (ours, *smaller) for setting, published, ours, *smaller, _ in lines}
    assert found["updates a batch", "2000"] == ("2000", "150", "200")
    assert found["student's updates", "48750"] == ("48750", "3000", "1400")
    assert found["stages: resolution×updates", "224×20000"] == ("224×20000", "56×400, 112×300, 224×90")
    assert found["α_tv, ℓ1", "0.2"][0] == "0.2"


def test_the_page_is_that_of_the_scales():
    assert (Path(__file__).parent.parent / "docs" / "settings.md").read_text() == as_markdown()
