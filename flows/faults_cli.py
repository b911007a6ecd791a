"""`vitflow faults`: what happens when something breaks. Its code lies with the tests and is no part of the package."""

import subprocess
import sys
from typing import Annotated

import typer

from flows.environment import checkout

faults = typer.Typer(no_args_is_help=True, help="Break things on purpose and see what survives (docs/reliability.md).")
LANES = "So many rows at once; one for each core."


@faults.command()
def run(
    rows: Annotated[str, typer.Argument(metavar="LIST", help="Rows of the list, like 1,4-8, or all.")],
    times: Annotated[
        int | None, typer.Option("--times", min=1, help="How often each; as the row says if left out.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all random choices.")] = 0,
    lanes: Annotated[int, typer.Option("--lanes", min=1, help=LANES)] = 1,
) -> None:
    """Inject faults into real runs in throw-away checkouts: a table, and test-results/faults.json. Minutes each."""
    words = [] if times is None else ["--times", str(times)]
    raise typer.Exit(_call("run", rows, *words, "--seed", str(seed), "--lanes", str(lanes)))


@faults.command()
def table() -> None:
    """Put the results of the last run into docs/reliability.md."""
    raise typer.Exit(_call("table"))


@faults.command()
def soak(
    times: Annotated[int, typer.Option("--times", min=1, help="How many pipelines.")] = 20,
    seed: Annotated[int, typer.Option("--seed", help="Of all random choices.")] = 0,
) -> None:
    """Run small pipelines in a row, each with a fault; look after each whether anything is left over or grows."""
    raise typer.Exit(_call("soak", "--times", str(times), "--seed", str(seed)))


@faults.command()
def mutate(
    rows: Annotated[str, typer.Argument(metavar="[LIST]", help="Rows of the list; all if left out.")] = "all",
    lanes: Annotated[int, typer.Option("--lanes", min=1, help=LANES)] = 1,
) -> None:
    """Take protections out of a copy of the code, one at a time: the row that is about each must fail without it."""
    raise typer.Exit(_call("mutate", rows, "--lanes", str(lanes)))


def _call(*words: str) -> int:
    root = checkout()
    if not (root / "tests" / "faults" / "__main__.py").is_file():
        raise ValueError(
            f"{root} has no tests/faults: faults are tried in a checkout of the repository, with its tests"
        )
    return subprocess.run([sys.executable, "-m", "tests.faults", *words], cwd=root, check=False).returncode
