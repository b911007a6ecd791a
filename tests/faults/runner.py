"""Tries rows and says what happened: a table for people, JSON for the page about reliability."""

import dataclasses
import datetime
import json
import random
import re
import subprocess
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.checkout import ROOT
from tests.faults import lanes
from tests.faults.bed import Bed, bed
from tests.faults.row import Draw, NotRun, Row
from tests.faults.rows import ROWS

RESULTS = ROOT / "test-results" / "faults.json"
console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a row."""

    number: int
    fault: str
    survived: int
    times: int
    redone: str  # the most, with its unit
    recovery: str  # seconds, the longest
    seconds: float  # that all of it took
    seed: int
    commit: str
    day: str
    failures: list[str]
    not_run: str = ""
    fewer: str = ""
    left_out: str = ""

    @property
    def count(self) -> str:
        return "not run" if self.not_run else f"{self.survived}/{self.times}"


def chosen(text: str) -> list[Row]:
    """The rows of `1,4-8` or `all`; raises ValueError naming what there is."""
    if text == "all":
        return list(ROWS)
    wanted: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if found is None:
            raise ValueError(f"{part!r} is no row: write numbers like 1,4-8, or all")
        wanted += range(int(found[1]), int(found[2] or found[1]) + 1)
    known = {row.number: row for row in ROWS}
    missing = sorted(set(wanted) - known.keys())
    if missing:
        named = ", ".join(map(str, sorted(known)))
        raise ValueError(f"there is no row {', '.join(map(str, missing))}; there are {named}")
    return [known[number] for number in dict.fromkeys(wanted)]


def run(rows: Sequence[Row], *, trials: range | None, seed: int, out: Path, kept: Path | None = None) -> list[Result]:
    """Try the rows one after the other; what each gave is in `out` as soon as it is known, in place of what was."""
    results: list[Result] = []
    with bed(kept) as where:
        for row in rows:
            results.append(attempt(row, where, numbers=trials or range(row.times), seed=seed))
            write(results[-1], out)
            console.print(line(results[-1]))
    return results


def attempt(row: Row, where: Bed, *, numbers: range, seed: int) -> Result:
    """So many trials of one row, each with random choices of its own."""
    start, trials, failures, not_run = time.monotonic(), list[Any](), list[str](), ""
    for number in numbers:
        try:
            draw = Draw(number=number, source=random.Random(f"{seed}/{row.number}/{number}"))
            trials.append(row.attempt(where, draw))
        except NotRun as why:
            not_run = str(why)
            break
        except Exception as error:
            failures.append(f"trial {number}: {type(error).__name__}: {error}"[:2000])
            console.print(f"[red]row {row.number}, trial {number}[/red]")
            console.print(traceback.format_exc()[-6000:], markup=False)
    redone = [trial.redone for trial in trials if trial.redone is not None]
    seconds = [trial.seconds for trial in trials if trial.seconds is not None]
    return Result(
        number=row.number,
        fault=row.fault,
        survived=len(trials),
        times=len(numbers),
        redone=f"{max(redone):g} {row.unit}" if redone else "–",
        recovery=f"{max(seconds):.1f} s" if seconds else "–",
        seconds=round(time.monotonic() - start, 1),
        seed=seed,
        commit=commit(),
        day=datetime.date.today().isoformat(),
        failures=failures,
        not_run=not_run,
        fewer=row.fewer,
        left_out=row.left_out,
    )


def commit() -> str:
    """What was tried: the commit, marked if files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def read(path: Path) -> list[Result]:
    """By number; none if there is no such file."""
    if not path.is_file():
        return []
    return [Result(**one) for one in json.loads(path.read_text())]


def write(result: Result, path: Path) -> None:
    """Put a result where the last one of its row was."""
    with lanes.alone_with(path):
        kept = {one.number: one for one in read(path)} | {result.number: result}
        rows = [dataclasses.asdict(kept[number]) for number in sorted(kept)]
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def line(result: Result) -> str:
    return f"row {result.number}: {result.count}, {result.seconds:.0f} s. {result.not_run}"


def show(results: Sequence[Result]) -> None:
    """The table."""
    table = Table(title="faults")
    for name in ("#", "fault", "n/N survived", "work redone", "time to recover"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for one in results:
        table.add_row(str(one.number), one.fault, one.count, one.redone, one.recovery)
    console.print(table)
