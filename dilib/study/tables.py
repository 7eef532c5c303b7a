"""From finished cells to a table: tidy CSV, Markdown as people read it, and settings as they stand in notebooks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from dilib.artifacts import damaged, write_atomically
from dilib.study.cells import Cell, Study

NOT_RUN = "not run"


class Table:
    """A table of the paper, or one beside them, as it is filled in: means over the seeds that there are.

    Example:
        >>> table = Table(study, 1)
        >>> table.add("Noise (L)", "VGG-11-BN to VGG-11-BN", student_cell(study, pair, "noise"), paper=13.55)
        >>> table.write("Data-free knowledge transfer.")
    """

    def __init__(self, study: Study, number: int):
        self.study, self.number, self._entries = study, number, []
        self._by_seed: dict[tuple[str, str], pd.Series] = {}

    def add(
        self, row: str, column: str, found: Cell | Sequence[dict], paper: float | None = None, metric: str = "top1"
    ) -> None:
        """One entry: what `found`, a cell or finished ones, has of a metric, and the paper's number."""
        finished = self.study.finished(found) if isinstance(found, Cell) else found
        values = pd.Series({cell["seed"]: cell["metrics"][metric] for cell in finished}, dtype=float)
        self._by_seed[row, column] = values
        entry = {"table": f"table{self.number}", "row": row, "column": column, "metric": metric}
        ours = {"ours": values.mean(), "ours_std": values.std(), "seeds": len(values)}
        self._entries.append({**entry, **ours, "paper": paper})

    def by_seed(self, row: str, column: str) -> pd.Series:
        """One entry's number for each seed; empty where there is none."""
        return self._by_seed.get((row, column), pd.Series(dtype=float))

    @property
    def tidy(self) -> pd.DataFrame:
        """One line an entry: table, row, column, metric, ours, ours_std, seeds, paper."""
        return pd.DataFrame(self._entries)

    @property
    def ours(self) -> pd.DataFrame:
        """Our numbers alone, laid out as in print."""
        return self._laid_out("ours")

    def write(self, caption: str) -> pd.DataFrame:
        """Write tableN.csv (tidy) and tableN.md (as printed); the printed form."""
        path = self.study.results / f"table{self.number}.csv"
        write_atomically(path, self.tidy.to_csv(index=False, float_format="%.2f").encode())
        shown = self._laid_out("text").fillna("")
        text = f"**Table {self.number}.** {caption}\n\n{markdown(shown.rename(index=in_markdown))}\n"
        write_atomically(path.with_suffix(".md"), text.encode())
        return shown

    def _laid_out(self, values: str) -> pd.DataFrame:
        tidy = self.tidy
        tidy["text"] = [_text(entry) for entry in tidy.itertuples()]
        shown = tidy.pivot(index="row", columns="column", values=values)
        return shown.loc[tidy["row"].unique(), tidy["column"].unique()].rename_axis(index=None, columns=None)


def _text(entry) -> str:
    missing = "–" if "quoted" in entry.row else NOT_RUN
    ours = missing if entry.seeds == 0 else f"{entry.ours:.2f}"
    if entry.seeds > 1:
        ours += f" ± {entry.ours_std:.2f} ({entry.seeds} seeds)"
    return f"{ours} (paper: {entry.paper:.2f})" if pd.notna(entry.paper) else f"{ours} (paper: –)"


def read_csv(path: Path, columns: Mapping[str, type], **options) -> pd.DataFrame:
    """A table with at least these columns, of these types. Raises ValueError, which names the file, for another."""
    try:
        table = pd.read_csv(path, dtype=columns, **options)
    except (ValueError, TypeError) as error:
        raise damaged(path, error) from error
    if missing := [name for name in columns if name not in table]:
        raise damaged(path, f"it has no column {', '.join(missing)}")
    return table


def in_markdown(text: object) -> str:
    """A text from elsewhere as Markdown shows it: on one line, and not read as HTML, a link or the edge of a field."""
    return re.sub(r"([\\<\[|`*~&$]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(text).split()))


def markdown(table: pd.DataFrame, **options) -> str:
    """A table of texts from elsewhere and of numbers as Markdown."""
    named = table.rename(columns=in_markdown)
    return named.map(lambda value: in_markdown(value) if isinstance(value, str) else value).to_markdown(**options)


def settings(named: Mapping[str, object]) -> pd.DataFrame:
    """Settings (dataclasses) side by side, a column each, for a notebook."""
    return pd.DataFrame({name: {key: short(v) for key, v in asdict(value).items()} for name, value in named.items()})


def short(value) -> str:
    """A setting as a notebook shows it: pairs as 32×120, numbers without trailing zeros."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(short(each) if not isinstance(each, tuple) else "×".join(map(str, each)) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
