"""`python -m tests.faults run LIST`: what `vitflow faults` calls. Exit code 1 if a fault was not survived."""

import argparse
import sys
from pathlib import Path

from tests.faults import mutate, page, runner, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="vitflow faults", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("rows")
    run.add_argument("--times", type=int)
    run.add_argument("--trial", type=int, help="this one alone, counted from 0")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--out", type=Path, default=runner.RESULTS)
    run.add_argument("--bed", type=Path, help="a directory that is kept, for the next call")
    commands.add_parser("table")
    soaking = commands.add_parser("soak")
    soaking.add_argument("--times", type=int, default=20)
    soaking.add_argument("--seed", type=int, default=0)
    soaking.add_argument("--bed", type=Path)
    mutating = commands.add_parser("mutate")
    mutating.add_argument("rows", nargs="?", default="")
    arguments = parser.parse_args()
    if arguments.command == "soak":
        return soak.soak(arguments.times, arguments.seed, arguments.bed)
    if arguments.command == "mutate":
        return mutate.mutate([row.number for row in runner.chosen(arguments.rows)] if arguments.rows else [])
    if arguments.command == "table":
        page.write_page()
        return 0
    try:
        rows = runner.chosen(arguments.rows)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    trials = None if arguments.times is None else range(arguments.times)
    trials = trials if arguments.trial is None else range(arguments.trial, arguments.trial + 1)
    results = runner.run(rows, trials=trials, seed=arguments.seed, out=arguments.out, kept=arguments.bed)
    runner.show(results)
    return int(any(result.failures for result in results))


if __name__ == "__main__":
    sys.exit(main())
