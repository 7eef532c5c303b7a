"""Verdicts by criteria: limits from the paper's tables, what meets them, and three that are recomputed by hand."""

import json
import statistics
from pathlib import Path

import pandas as pd
import pytest

from dilib.study import claims
from dilib.study.criteria import CLAIMS, Claim, Criterion

RESULTS = Path(__file__).parent.parent / "results" / "laptop" / "fashion_mnist"
CLAIM = Claim("A beats B by 40", {"gain": Criterion("gain", ">", 0)}, {"much": Criterion("gain", "≥", 40)})


def seeds(*values):
    return pd.Series(values, dtype=float)


@pytest.mark.parametrize(
    ("gains", "verdict", "said"),
    [
        ([seeds(45)], claims.HOLDS, "gain: pair 0 45 points (> 0, ≥ 40)"),
        ([seeds(45), seeds(39)], claims.IN_PART, "In part: gain ≥ 40 is not met. gain: pair 0 45, pair 1 39 points"),
        ([seeds(39.996)], claims.HOLDS, "pair 0 40 points"),
        ([seeds(45), seeds(-1)], claims.FAILS, "Its direction fails at this scale. gain: pair 0 45, pair 1 -1 points"),
        ([seeds(44, 46, 45)], claims.HOLDS, "pair 0 45 ± 1 (3 seeds) points"),
        ([seeds(38, 46)], claims.IN_PART, "In part: gain ≥ 40 is within the spread over seeds."),
        ([seeds(-3, 1)], claims.FAILS, "Its direction fails at this scale, within the spread over seeds."),
        ([seeds(-3, 1), seeds(-5, -4)], claims.FAILS, "Its direction fails at this scale. gain"),
        ([seeds()], claims.NOT_RUN, ""),
    ],
)
def test_a_claim_is_held_to_all_that_was_compared(gains, verdict, said):
    units = {f"pair {index}": values for index, values in enumerate(gains)}
    found, evidence = claims.judged(CLAIM, {"gain": units, "much": units})
    assert found == verdict
    assert said in evidence


def test_what_was_not_measured_is_not_taken_for_met():
    assert claims.judged(CLAIM, {"gain": {"": seeds(45)}}) == (
        claims.IN_PART,
        "In part: gain ≥ 40 not measured. gain: 45 points (> 0); of one seed",
    )


@pytest.mark.parametrize(
    ("claim", "name", "limit"),
    [
        (1, "noise", 3.61),  # 13.61 − 10
        (2, "much", 44.15),  # 83.82 − 39.67
        (3, "gap", 2.16),  # 95.42 − 93.26
        (5, "named", 80.1),
        (6, "much", 9.774),  # 60.6 / 6.2
        (7, "gap", 0.80),  # 84.44 − 83.64
        (8, "much", 54.0),  # 55.9 − 1.9
        (10, "cost", 0.7),  # 37.1 − 36.4
        (11, "gap", 3.46),  # 77.26 − 73.80
        (12, "much", 13.62),  # 80.85 − 67.23
        (12, "gap", 1.99),  # 72.71 − 70.72
        (18, "much", 1.1557),  # 4.90 / 4.24
        (18, "adaptive", 2.8),
        (18, "both", 2.1),
    ],
)
def test_limits_are_the_paper_s_own_numbers(claim, name, limit):
    assert CLAIMS[claim].criteria[name].limit == pytest.approx(limit, abs=5e-4)


def test_every_claim_has_a_direction():
    assert list(CLAIMS) == list(range(1, 19))
    assert all(claim.direction for claim in CLAIMS.values())


def by_seed(cell, number):
    """A number of a cell's metrics for every seed that there is."""
    found = [json.loads(path.read_text()) for path in RESULTS.glob(f"cells/{cell}--seed*.json")]
    return {each["seed"]: number(each["metrics"]) for each in found}


def met(units, limit, at_most=False):
    """Whether numbers by seed, for everything compared, meet a limit; None where they do but for the spread."""
    sign = -1 if at_most else 1
    margins = [[sign * (value - limit) for value in values.values()] for values in units]
    if any(round(statistics.mean(each), 2) < 0 for each in margins):
        return False
    sure = all(round(statistics.mean(each) - statistics.stdev(each), 2) >= 0 for each in margins if len(each) > 1)
    return True if sure else None


def verdict(direction, *size):
    """What follows from the criteria's outcomes."""
    if direction is False:
        return claims.FAILS
    return claims.HOLDS if all((direction, *size)) else claims.IN_PART


def test_three_verdicts_by_hand():
    """From the cells alone, by other arithmetic than the notebooks'."""
    found = claims.read(RESULTS)
    least = 0.01  # as the paper's tables are rounded, more than nothing
    gains, gaps = [], []
    for pair in ("vgg11_bn--vgg11_bn", "vgg11_bn--resnet18", "resnet34--resnet18"):
        plain, adaptive, teacher = (
            by_seed(cell, lambda metrics: metrics["top1"])
            for cell in (
                f"transfer--{pair}--deepinversion",
                f"transfer--{pair}--adaptive",
                f"teacher--{pair.split('--')[0]}",
            )
        )
        gains.append({seed: adaptive[seed] - plain[seed] for seed in adaptive})
        gaps.append({seed: teacher[seed] - adaptive[seed] for seed in adaptive})
    expected = verdict(met(gains, least), met(gains, 1), met(gaps, 2.16, at_most=True))
    assert found.loc[3, "verdict"] == expected
    for values in (*gains, *gaps):
        assert f"{statistics.mean(values.values()):.4g}" in found.loc[3, "evidence"]

    leads = []
    for budget in (0.95, 0.9, 0.8, 0.7, 0.6):
        aware, plain = (
            by_seed(f"tuned--latency-{budget}--{ranking}-kl-real--real--brief", lambda metrics: metrics["top1"])
            for ranking in ("hardware-aware", "taylor")
        )
        leads.append({seed: aware[seed] - plain[seed] for seed in aware})
    most = [{seed: leads[-1][seed] - lead[seed] for seed in lead} for lead in leads[:-1]]
    (r2,) = by_seed("latency", lambda metrics: metrics["r2"]).values()
    size = (met(leads, least), met(most, 0), round(r2, 2) >= 0.99)
    assert found.loc[9, "verdict"] == verdict(met(leads[-1:], least), *size)
    assert f"R² of looked-up latencies: {r2:.4g} (≥ 0.99)" in found.loc[9, "evidence"]

    more = by_seed("resemblance", lambda m: [m["coverage"][r] - m["coverage_of_plain"][r] for r in m["coverage"]])
    after_all = {seed: rounds[-1] for seed, rounds in more.items()}
    each = [{seed: rounds[i] - rounds[i - 1] for seed, rounds in more.items()} for i in (1, 2)]
    assert found.loc[15, "verdict"] == verdict(met([after_all], least), met(each, least))
    decisive = f"both rounds cover more than as many plain DI images by: {statistics.mean(after_all.values()):.4g}"
    assert decisive in found.loc[15, "evidence"]
