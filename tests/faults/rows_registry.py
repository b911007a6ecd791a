"""Rows about the alias that applications read."""

import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.checkout import environment
from tests.faults.bed import Bed
from tests.faults.row import Draw, Row, Trial


class Registrar:
    """A process that registers and promotes (promoting.py)."""

    def __init__(self, checkout: Path, process: subprocess.Popen[str]) -> None:
        self.checkout, self.process = checkout, process

    def ask(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout
        found = json.loads(self.process.stdout.readline())
        assert "error" not in found, found
        return found

    def tell(self, do: str, **arguments: Any) -> Any:
        self.ask(do, **arguments)
        return self.answer()


@contextlib.contextmanager
def registrars(where: Bed, count: int, **variables: str) -> Iterator[list[Registrar]]:
    """So many processes on the registry of the checkout, unless a variable names another."""
    command = [sys.executable, "-m", "tests.faults.promoting"]
    env = environment(where.checkout, **variables)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    made = [
        Registrar(where.checkout, subprocess.Popen(command, cwd=where.checkout, env=env, **pipes)) for _ in range(count)
    ]
    try:
        yield made
    finally:
        for one in made:
            one.process.communicate()


ROUNDS = 10  # of a trial, as starting processes takes longer than all of them


def promotions_at_once(where: Bed, draw: Draw) -> Trial:
    name, source = f"race-{draw.source.randrange(10**9)}", str(where.root)
    with registrars(where, 3) as (first, second, consumer):
        start = time.monotonic()
        scores = {first.tell("version", name=name, score=0.1, source=source, tags={}): 0.1}
        first.tell("promote", name=name, number="1")
        champion, before = "1", ""
        for _ in range(ROUNDS):
            rivals: dict[str, float] = {}
            for one in (first, second):
                score = round(draw.source.uniform(0.05, 0.95), 3)
                rivals[one.tell("version", name=name, score=score, source=source, tags={})] = score
            for one, number in zip((first, second), rivals, strict=True):
                one.ask("promote", name=name, number=number)
            served = [consumer.tell("champion", name=name) for _ in range(5)]
            said = [one.answer() for one in (first, second)]
            assert set(served) <= {champion, *rivals}, served
            scores |= rivals
            state = consumer.tell("state", name=name)
            holder = {alias: number for number, one in state.items() for alias in one["aliases"]}
            best = max(scores.values())
            assert scores[holder["champion"]] == best, f"{holder}, {scores}, {said}"
            if holder["champion"] != champion:
                assert "becomes champion" in state[holder["champion"]]["decision"]
                lesser = [n for n, s in rivals.items() if n != holder["champion"] and s > scores[champion]]
                assert holder["previous"] in {champion, *lesser}, (holder, champion, rivals)
            else:
                assert holder.get("previous", "") == before, (holder, before)
            champion, before = holder["champion"], holder.get("previous", "")
    return Trial(seconds=time.monotonic() - start)


CASES: dict[str, tuple[float | None, float, dict[str, Any], str, str]] = {
    # champion's score, candidate's, gate and tags, alias, what the reason says
    "exactly at the floor": (0.5, 0.51, {"min_improvement": 0.01}, "champion", "beats the"),
    "a hair below it": (0.5, 0.51 - 1e-6, {"min_improvement": 0.01}, "challenger", "does not beat"),
    "a tie": (0.5, 0.5, {}, "challenger", "does not beat"),
    "no number": (0.5, math.nan, {}, "challenger", "is no number"),
    "no number, no champion": (None, math.nan, {}, "challenger", "is no number"),
    "no champion yet": (None, 0.2, {}, "champion", "there was no champion"),
    "a champion without a number": (math.nan, 0.9, {}, "challenger", "has no vtab/mean_of_tasks to compare with"),
    "a champion of other data": (0.5, 0.9, {"tags": {"vitflow.evaluated_on": "others"}}, "challenger", "other data"),
}


def decisions_of_the_gate(where: Bed, draw: Draw) -> Trial:
    case = draw.of(*CASES)
    before, after, more, alias, reason = CASES[case]
    name, source = f"gate-{draw.source.randrange(10**9)}", str(where.root)
    with registrars(where, 1) as (registrar,):
        if before is not None:
            number = registrar.tell("version", name=name, score=0.5, source=source, tags={})
            registrar.tell("promote", name=name, number=number)
            if math.isnan(before):  # its score was removed by hand
                registrar.tell("unscore", name=name, number=number)
        tags = more.pop("tags", {}) if "tags" in (more := dict(more)) else {}
        number = registrar.tell("version", name=name, score=after, source=source, tags=tags)
        said = registrar.tell("promote", name=name, number=number, **more)
        state = registrar.tell("state", name=name)
    assert said["alias"] == alias and reason in said["sentence"], said
    assert state[number]["aliases"] == [alias] and state[number]["decision"] == said["sentence"], state
    assert before is None or state["1"]["aliases"] == (["previous"] if alias == "champion" else ["champion"]), state
    return Trial()


ROWS = [
    Row(
        number=9,
        fault=f"two processes promote at the same moment, {ROUNDS} rounds each time: `champion` is always the best "
        "that passed, `previous` the one before, and a consumer always finds a champion",
        times=1,
        attempt=promotions_at_once,
        fewer="10 rounds of 50: for time",
        left_out="two machines: the lock is a checkout's, others need Prefect's limits (docs/operations.md)",
    ),
    Row(
        number=28,
        fault="the gate exactly at its floor, a hair below, at a tie, without a number, without a champion, with one "
        "of other data or without a score: the documented decision, its reason on the version",
        times=len(CASES),
        attempt=decisions_of_the_gate,
    ),
]
