"""Pairs that a person looked at and found to be two pictures: they stay out of the result in every later run.

The file is a CSV or parquet table with columns `test` and `train` (as in pairs.parquet), and optionally `verdict`
(`same` keeps the pair, anything else vetoes it), `benchmark`, `corpus`, `who` and `why`.
"""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

SAME = ("same", "duplicate", "keep")


class BadVetoes(ValueError):
    """The file is missing, or has other columns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Veto:
    """A reviewed pair."""

    test: str
    train: str
    benchmark: str  # empty: any
    corpus: str
    who: str
    why: str

    def covers(self, *, test: str, train: str, benchmark: str, corpus: str) -> bool:
        """Whether it speaks of this pair."""
        return (self.test, self.train) == (test, train) and all(
            mine in ("", theirs) for mine, theirs in ((self.benchmark, benchmark), (self.corpus, corpus))
        )


def read(path: Path) -> list[Veto]:
    """The pairs of a file whose verdict is not `same`; raises BadVetoes."""
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else _csv(path)
    except FileNotFoundError as error:
        raise BadVetoes(
            f"{path} does not exist; it should list reviewed pairs in columns test, train, verdict"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise BadVetoes(f"{path} cannot be read as a table of reviewed pairs ({error})") from error
    if rows and not {"test", "train"} <= rows[0].keys():
        raise BadVetoes(f"{path} has columns {', '.join(rows[0])}; it needs test and train, as in pairs.parquet")
    return [_veto(row) for row in rows if _text(row, "verdict").lower() not in SAME]


def _csv(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def _veto(row: dict[str, Any]) -> Veto:
    return Veto(**{field.name: _text(row, field.name) for field in dataclasses.fields(Veto)})


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value)
