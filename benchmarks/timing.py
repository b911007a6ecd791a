"""Contenders timed in turns within one process, so that whatever else the machine does hits all of them alike."""

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch

Step = Callable[[], None]
Clock = Callable[[], float]  # seconds


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times faster one contender is than another: median over rounds, and the middle half of them."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def in_turns(
    steps: Mapping[str, Step],
    *,
    rounds: int,
    repeats: int,
    device: torch.device,
    clocks: Mapping[str, Clock] = MappingProxyType({}),
) -> dict[str, list[float]]:
    """Seconds per call of each contender in each round; the order changes from round to round.

    On a CPU seconds of processor time, which other processes do not touch; on a GPU seconds between two events.
    `clocks` has those contenders whose work another clock than this process's shows.
    """
    order = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for step in steps.values():
        for _ in range(2):  # compile, allocate, fill caches
            step()
    shuffled = random.Random(0)
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            seconds[name].append(_seconds(steps[name], repeats, device, clocks.get(name, time.process_time)))
    return seconds


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Ratio:
    """Round by round, how many times the first takes longer than the second."""
    ratios = sorted(a / b for a, b in zip(slower, faster, strict=True))
    low, median, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return Ratio(median=median, low=low, high=high)


def _seconds(step: Step, repeats: int, device: torch.device, clock: Clock) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000 / repeats
    before = clock()
    for _ in range(repeats):
        step()
    return (clock() - before) / repeats
