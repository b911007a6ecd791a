"""`python -m tests.faults run LIST`: what `vitflow faults` calls. Exit code 1 if a fault was not survived."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults import lanes, mutate, page, runner, soak
from tests.faults.mutations import MUTATIONS


def main() -> int:
    arguments = parse()
    if arguments.command == "table":
        page.write_page()
        return 0
    if arguments.command == "soak":
        return soak.soak(arguments.times, arguments.seed, arguments.bed)
    try:
        rows = [row.number for row in runner.chosen(arguments.rows)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.command == "mutate":
        rows = [row for row in rows if any(one.row == row for one in MUTATIONS)]
    if arguments.lanes > 1:
        return in_lanes(rows, arguments)
    return mutate.mutate(rows) if arguments.command == "mutate" else run(rows, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vitflow faults", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("rows")
    running.add_argument("--times", type=int)
    running.add_argument("--trial", type=int, help="this one alone, counted from 0")
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--out", type=Path, default=runner.RESULTS)
    running.add_argument("--bed", type=Path, help="a directory that is kept, for the next call")
    commands.add_parser("table")
    soaking = commands.add_parser("soak")
    soaking.add_argument("--times", type=int, default=20)
    soaking.add_argument("--seed", type=int, default=0)
    soaking.add_argument("--bed", type=Path)
    mutating = commands.add_parser("mutate")
    mutating.add_argument("rows", nargs="?", default="all")
    for command in (running, mutating):
        command.add_argument("--lanes", type=int, default=1, help="so many at once, in beds of their own")
    return parser.parse_args()


def run(rows: Sequence[int], arguments: argparse.Namespace) -> int:
    """Exit code 1 if a fault was not survived."""
    first, times = (arguments.trial, 1) if arguments.trial is not None else (0, arguments.times)
    trials = None if times is None else range(first, first + times)
    chosen = [row for row in runner.ROWS if row.number in rows]
    chosen.sort(key=lambda row: rows.index(row.number))
    results = runner.run(chosen, trials=trials, seed=arguments.seed, out=arguments.out, kept=arguments.bed)
    runner.show(results)
    return int(any(result.failures for result in results))


def in_lanes(rows: Sequence[int], arguments: argparse.Namespace) -> int:
    """The same in several processes; the table once, at the end."""
    begun, words = time.monotonic(), [arguments.command]
    if arguments.command == "run":
        given = {"--times": arguments.times, "--trial": arguments.trial, "--seed": arguments.seed}
        words += ["--out", str(arguments.out)]
        words += [str(word) for name, value in given.items() if value is not None for word in (name, value)]
    groups = lanes.shared(lanes.known_seconds(rows, page.KEPT), arguments.lanes)
    code = lanes.side_by_side(groups, *words)
    if arguments.command == "run":
        runner.show([one for one in runner.read(arguments.out) if one.number in rows])
    print(f"all of it took {(time.monotonic() - begun) / 60:.0f} minutes")
    return code


if __name__ == "__main__":
    sys.exit(main())
