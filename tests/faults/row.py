"""A row of the fault list: what goes wrong, what must hold then, how often it is tried."""

import dataclasses
import random
from collections.abc import Callable

from tests.faults.bed import Bed


class NotRun(Exception):
    """Here this cannot be tried; says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What a fault cost that was survived; one that was not raises."""

    redone: float | None = None  # in `unit` of the row; None where nothing could have been lost
    seconds: float | None = None  # from the fault to where all was well again


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """One of so many trials, and where its random choices come from."""

    number: int
    source: random.Random

    def of(self, *kinds: str) -> str:
        """The kinds in turn: all of them are tried if there are trials enough."""
        return kinds[self.number % len(kinds)]


Try = Callable[[Bed, Draw], Trial]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """`attempt` raises AssertionError if the fault was not survived, NotRun if it cannot be tried here."""

    number: int
    fault: str  # one sentence: what goes wrong, and what must hold then
    times: int  # of `make faults`
    attempt: Try
    unit: str = "steps"  # of the work that is redone
    fewer: str = ""  # why the list's count, where it is higher, is not reached
    left_out: str = ""  # what the list asks besides, and why it is not tried here
    brief: int = 0  # how often .ci/run tries it
