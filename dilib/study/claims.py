"""The paper's claims and the verdicts on them: claims.csv."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from dilib.artifacts import damaged, write_atomically
from dilib.study.cells import Study
from dilib.study.paper import CLAIMS
from dilib.study.tables import NOT_RUN, read_csv


def verdict(direction: bool | None, size: bool) -> str:
    """ "confirmed" if the claim's direction and size hold, "mixed" if only its direction does, else "refuted".

    `direction` None means that the numbers are not there.
    """
    return NOT_RUN if direction is None else "refuted" if not direction else "confirmed" if size else "mixed"


def decide(study: Study, claim: int, direction: bool | None, size: bool, evidence: str) -> None:
    """Put the verdict on one claim, and what it rests on, into claims.csv; the other claims keep theirs."""
    with study.lock("claims"):
        claims = read(study.results)
        outcome = verdict(None if direction is None else bool(direction), bool(size))
        claims.loc[claim, ["verdict", "evidence"]] = [outcome, evidence]
        write_atomically(study.results / "claims.csv", claims.reset_index().to_csv(index=False).encode())


def read(results: Path) -> pd.DataFrame:
    """All claims of the paper, by number, with their verdicts so far in a folder of results.

    Raises ValueError where claims.csv there is damaged.
    """
    claims = pd.DataFrame({"statement": CLAIMS, "verdict": NOT_RUN, "evidence": ""}).rename_axis("claim")
    path = results / "claims.csv"
    if path.exists():
        columns = {"claim": int, "verdict": str, "evidence": str}
        found = read_csv(path, columns, keep_default_na=False).set_index("claim")
        if not found.index.is_unique or not set(found.index) <= set(claims.index):
            raise damaged(path, f"its claims are not numbers from 1 to {len(claims)}, each once")
        claims.update(found[["verdict", "evidence"]])
    return claims


def shown(study: Study, numbers: Sequence[int]) -> Styler:
    """Some claims as a notebook shows them: with their whole text."""
    table = read(study.results).loc[list(numbers)].reset_index()
    return table.style.hide(axis="index").set_properties(**{"text-align": "left", "white-space": "normal"})
