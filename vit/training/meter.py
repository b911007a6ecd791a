"""What a training run says about itself: kept on the device step by step, read only when somebody wants to know."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from vit.training.config import TrainConfig
from vit.training.distributed import device, mean_over_ranks, world_size

UNREAD = "unread"  # prefix of what a checkpoint between two readings remembers: unread/STEP/NAME


class Diverged(FloatingPointError):
    """The loss or the gradient of an update (`step`, 0-based) is not finite, or the loss is a spike."""

    def __init__(self, step: int, what: str, config: TrainConfig) -> None:
        super().__init__(f"{what} at step {step + 1}: lower learning_rate {config.learning_rate}")
        self.step = step


class Meter:
    """Means of what updates return since the last `read`, speed, memory and model FLOP utilisation.

    `flops` is what a training step on one image costs, `peak` what one device can do in a second; MFU is left out if
    the former is None. `remembered` is what `memory` gave when the state was saved that is gone on from.
    """

    def __init__(
        self, config: TrainConfig, *, flops: float | None, peak: float, remembered: Mapping[str, float]
    ) -> None:
        self.previous = remembered.get("loss")  # mean of the interval before, for recognising spikes
        self._config, self._flops, self._peak = config, flops, peak
        self._values: dict[str, list[Tensor]] = {}
        self._steps: list[int] = []
        self._checked = 0
        self._recall(remembered)
        self._clock = time.perf_counter()

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Take the scalars of one update; waits for nothing."""
        self._steps.append(step)
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def check(self) -> None:
        """Raise Diverged, on every rank alike, if an update since the last check went wrong."""
        steps = self._steps[self._checked :]
        if not steps:
            return
        parts = [torch.stack(self._values[name][self._checked :]) for name in ("loss", "grad_norm")]
        losses, norms = _numbers(mean_over_ranks(torch.stack(parts).double()))
        self._checked = len(self._steps)
        self._raise_first(steps, losses, norms)

    def read(self) -> dict[str, float]:
        """Means since the last reading under their MLflow names, on every rank alike."""
        self.check()
        seconds, self._clock = time.perf_counter() - self._clock, time.perf_counter()
        names, count = list(self._values), len(self._steps)
        means = [torch.stack(self._values[name]).mean() for name in names]
        found: dict[str, float] = {}
        if names:
            found = dict(zip(names, _numbers(mean_over_ranks(torch.stack(means))), strict=True))
        self._values, self._steps, self._checked = {}, [], 0
        self.previous = found.get("loss", self.previous)
        speed = count * self._config.batch_size / seconds
        return {f"train/{name}": value for name, value in found.items()} | self._speeds(speed)

    def memory(self) -> dict[str, float]:
        """What a resumed run must know to judge the next loss, and to give the same means, as this one would.

        Call it on every rank, after `check`.
        """
        found = {} if self.previous is None else {"loss": self.previous}
        if self._steps:
            names = list(self._values)
            means = mean_over_ranks(torch.stack([torch.stack(self._values[name]) for name in names]).double())
            for name, values in zip(names, _numbers(means), strict=True):
                steps = zip(self._steps, values, strict=True)
                found |= {f"{UNREAD}/{step:09d}/{name}": value for step, value in steps}
        return found

    def _recall(self, remembered: Mapping[str, float]) -> None:
        for key in sorted(remembered):
            kind, _, rest = key.partition("/")
            if kind == UNREAD:
                step, _, name = rest.partition("/")
                self._values.setdefault(name, []).append(torch.tensor(remembered[key], device=device()))
                self._steps = sorted({*self._steps, int(step)})
        self._checked = len(self._steps)

    def _speeds(self, speed: float) -> dict[str, float]:
        each = speed / world_size()
        speeds = {"images_per_second": speed, "images_per_second_per_device": each, "memory_gb": memory_gb()}
        if self._flops is not None:
            speeds["mfu"] = each * self._flops / self._peak
        return speeds

    def _raise_first(self, steps: Sequence[int], losses: Sequence[float], norms: Sequence[float]) -> None:
        factor, limit = self._config.spike_factor, float("inf")
        if factor and self.previous is not None:
            limit = factor * self.previous
        for step, loss, norm in zip(steps, losses, norms, strict=True):
            if not abs(loss) < float("inf"):
                raise Diverged(step, f"the loss is {loss}", self._config)
            if not norm < float("inf"):
                raise Diverged(step, f"the norm of the gradient is {norm}", self._config)
            if loss > limit:
                raise Diverged(step, f"the loss is {loss:.4g}, above {factor:g} x {self.previous:.4g},", self._config)


def _numbers(tensor: Tensor) -> Any:
    """Lists of floats; this waits for the device."""
    return cast(Any, tensor).tolist()


def memory_gb() -> float:
    """Most memory this process ever held: of its GPU, else of the machine; in 1e9 bytes."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e9
