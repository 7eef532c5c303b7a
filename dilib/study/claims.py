"""The verdicts on the paper's claims, and what decided them: claims.csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from dilib.artifacts import damaged, write_atomically
from dilib.study.cells import Study
from dilib.study.criteria import CLAIMS, Claim, Criterion
from dilib.study.tables import NOT_RUN, read_csv

HOLDS, IN_PART, FAILS, UNTESTABLE = "holds", "holds in part", "does not hold", "can't be tested here"
VERDICTS = (HOLDS, IN_PART, FAILS, UNTESTABLE, NOT_RUN)
SPREAD = "± is the standard deviation over seeds."
TRUE, UNSURE, FALSE = "is met", "is within the spread over seeds", "is not met"  # of a criterion

Measured = Mapping[str, Mapping[str, pd.Series]]  # by criterion and by what was compared: a number a seed


def decide(study: Study, number: int, measured: Measured, beside: str = "") -> None:
    """Judge one claim by what was measured, and put the verdict into claims.csv; the other claims keep theirs.

    `measured` has, for each of the claim's criteria, numbers by pair, task or the like; `beside` is added to the
    evidence.
    """
    _put(study, number, *judged(CLAIMS[number], measured), beside)


def leave_open(study: Study, number: int, why: str) -> None:
    """Put into claims.csv that this study can't test a claim, and why."""
    _put(study, number, UNTESTABLE, why)


def judged(claim: Claim, measured: Measured) -> tuple[str, str]:
    """Verdict and evidence: a claim holds if all criteria do; where its direction fails, it does not.

    A criterion is met if the mean over seeds meets it for everything compared; where one standard deviation nearer to
    the limit would not, the claim holds in part.
    """
    measured = {name: kept for name, units in measured.items() if (kept := _measured(units))}
    if not any(name in measured for name in claim.direction):
        return NOT_RUN, ""
    outcomes = {name: _outcome(claim.criteria[name], units) for name, units in measured.items()}
    evidence = _in_words(claim, measured)
    failing = [name for name in claim.direction if outcomes.get(name) == FALSE]
    if failing:
        near = all(_within_spread(claim.criteria[name], measured[name]) for name in failing)
        return FAILS, f"Its direction fails at this scale{', within the spread over seeds' if near else ''}. {evidence}"
    unmet = [
        f"{criterion.words} {criterion.bound} {outcomes.get(name, 'not measured')}"
        for name, criterion in claim.criteria.items()
        if outcomes.get(name) != TRUE
    ]
    return (IN_PART, f"In part: {', '.join(unmet)}. {evidence}") if unmet else (HOLDS, evidence)


def _measured(units: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    return {unit: values.dropna() for unit, values in units.items() if len(values.dropna())}


def _outcome(criterion: Criterion, units: Mapping[str, pd.Series]) -> str:
    nearer = 1 if criterion.relation == "≤" else -1
    if not all(criterion.holds(values.mean()) for values in units.values()):
        return FALSE
    sure = all(criterion.holds(v.mean() + nearer * v.std()) for v in units.values() if len(v) > 1)
    return TRUE if sure else UNSURE


def _within_spread(criterion: Criterion, units: Mapping[str, pd.Series]) -> bool:
    """Whether all that fails would meet the criterion if it were one standard deviation better."""
    better = -1 if criterion.relation == "≤" else 1
    failing = [values for values in units.values() if not criterion.holds(values.mean())]
    return all(len(v) > 1 and criterion.holds(v.mean() + better * v.std()) for v in failing)


def _in_words(claim: Claim, measured: Measured) -> str:
    """The numbers that decided, each with the bounds that it is held to."""
    bounds: dict[tuple[str, str], list[str]] = {}
    for name, units in measured.items():
        criterion = claim.criteria[name]
        numbers = ", ".join(f"{unit} {_number(values)}".strip() for unit, values in units.items())
        bounds.setdefault((criterion.words, f"{numbers} {criterion.unit}".strip()), []).append(criterion.bound)
    said = [f"{words}: {numbers} ({', '.join(found)})" for (words, numbers), found in bounds.items()]
    alone = all(len(values) == 1 for units in measured.values() for values in units.values())
    return "; ".join([*said, *(["of one seed"] if alone else [])])


def _number(values: pd.Series) -> str:
    spread = f" ± {values.std():.2g} ({len(values)} seeds)" if len(values) > 1 else ""
    return f"{values.mean():.4g}{spread}"


def _put(study: Study, number: int, verdict: str, evidence: str, beside: str = "") -> None:
    with study.lock("claims"):
        claims = read(study.results)
        claims.loc[number, ["verdict", "evidence"]] = [verdict, "; ".join(filter(None, [evidence, beside]))]
        write_atomically(study.results / "claims.csv", claims.reset_index().to_csv(index=False).encode())


def read(results: Path) -> pd.DataFrame:
    """All claims of the paper, by number, with their criteria and their verdicts so far in a folder of results.

    Raises ValueError where claims.csv there is damaged.
    """
    rows = [
        {
            "claim": number,
            "statement": claim.statement,
            "verdict": NOT_RUN,
            "evidence": "",
            "direction": "; ".join(map(str, claim.direction.values())),
            "size": "; ".join(map(str, claim.size.values())),
        }
        for number, claim in CLAIMS.items()
    ]
    claims = pd.DataFrame(rows).set_index("claim")
    path = results / "claims.csv"
    if path.exists():
        columns = {"claim": int, "verdict": str, "evidence": str}
        found = read_csv(path, columns, keep_default_na=False).set_index("claim")
        if not found.index.is_unique or not set(found.index) <= set(claims.index):
            raise damaged(path, f"its claims are not numbers from 1 to {len(claims)}, each once")
        # Other words are of other criteria, and no verdict by these.
        claims.update(found.loc[found["verdict"].isin(VERDICTS), ["verdict", "evidence"]])
    return claims


def in_a_sentence(claims: pd.DataFrame) -> str:
    """What a study finds as a whole."""
    counts = {verdict: int((claims["verdict"] == verdict).sum()) for verdict in VERDICTS}
    tested = sum(counts[verdict] for verdict in (HOLDS, IN_PART, FAILS))
    found = (
        f"of {tested} claims tested, {counts[HOLDS]} hold, {counts[IN_PART]} hold in part, {counts[FAILS]} do not hold"
    )
    return f"{found}; {counts[UNTESTABLE]} can't be tested here and {counts[NOT_RUN]} were not run."


def shown(study: Study, numbers: Sequence[int]) -> Styler:
    """Some claims as a notebook shows them: with their whole text."""
    table = read(study.results).loc[list(numbers)].reset_index()
    return table.style.hide(axis="index").set_properties(**{"text-align": "left", "white-space": "normal"})
