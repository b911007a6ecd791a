"""What a training has cost so far, over all its sittings, and what its interruptions made it do again.

Rank 0 notes in `sittings.jsonl`, beside the checkpoints, when a sitting began and how far it was at each report. What
was done after the last report before a failure is known to nobody, so each loss is short by up to `log_every` updates.
"""

import bisect
import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

FILE = "sittings.jsonl"
TOTALS = ("restarts", "redone_seconds", "device_hours", "cost")
HOUR = 3600.0  # seconds


class Ledger:
    """The sitting that begins now, after all before it; `devices` work in it, from update `step` on.

    Raises ValueError if VITFLOW_PRICE_PER_DEVICE_HOUR (in any currency) is no price.
    """

    def __init__(self, directory: Path, *, step: int, devices: int, clock: Callable[[], float] = time.time) -> None:
        self.lost = 0.0  # seconds of work that this sitting has to do again
        self.restarts = -1
        self.redone_seconds, self.device_seconds = 0.0, 0.0
        self._price = price_per_device_hour()
        self._path, self._clock = directory / FILE, clock
        self._worked = 0.0  # seconds, without what was lost
        self._reached: list[tuple[int, float]] = []  # after how many of them an update was done
        self._devices, self._time = devices, 0.0
        for line in self._path.read_text().splitlines() if self._path.is_file() else []:
            with contextlib.suppress(json.JSONDecodeError):  # cut off by the failure
                self._take(json.loads(line))
        self._add({"devices": devices, "step": step, "time": clock()})

    def note(self, step: int) -> dict[str, float]:
        """After so many updates: the totals, under their MLflow names."""
        self._add({"step": step, "time": self._clock()})
        hours = self.device_seconds / HOUR
        totals = {"restarts": float(self.restarts), "redone_seconds": self.redone_seconds, "device_hours": hours}
        return totals if self._price is None else totals | {"cost": hours * self._price}

    def _add(self, entry: dict[str, float]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(f"\n{json.dumps(entry)}\n")  # on a line of its own, whatever the one before was
        self._take(entry)

    def _take(self, entry: dict[str, float]) -> None:
        step = int(entry["step"])
        if "devices" in entry:
            self._sit_down(step, int(entry["devices"]))
        else:
            seconds = entry["time"] - self._time
            self._worked += seconds
            self.device_seconds += seconds * self._devices
            self._reached.append((step, self._worked))
        self._time = entry["time"]

    def _sit_down(self, step: int, devices: int) -> None:
        self.restarts += 1
        kept = self._seconds_at(step)
        self.lost = self._worked - kept
        self.redone_seconds += self.lost
        self._worked, self._devices = kept, devices
        self._reached[bisect.bisect_left(self._reached, step, key=lambda point: point[0]) :] = [(step, kept)]

    def _seconds_at(self, step: int) -> float:
        """How long it took to get there, between two reports in proportion."""
        after = bisect.bisect_left(self._reached, step, key=lambda point: point[0])
        if after == len(self._reached):
            return self._worked
        (last, end) = self._reached[after]
        if after == 0 or last == step:
            return end
        (first, start) = self._reached[after - 1]
        return start + (end - start) * (step - first) / (last - first)


def price_per_device_hour() -> float | None:
    """VITFLOW_PRICE_PER_DEVICE_HOUR; None if it is not set. Raises ValueError if it is no number of at least 0."""
    text = os.environ.get("VITFLOW_PRICE_PER_DEVICE_HOUR", "")
    if not text:
        return None
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise ValueError(
            f"VITFLOW_PRICE_PER_DEVICE_HOUR is {text!r}, but must be what a device costs for an hour, such as 2.5"
        )
    return price
