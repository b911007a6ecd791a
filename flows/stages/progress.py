"""How a stage says how far it is: it reports numbers, whoever started it decides who listens.

Terminal, Prefect and MLflow all show these same numbers; a stage knows none of them (docs/adr/0002).
"""

import contextlib
import contextvars
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping

RANDOM_INIT = "_random_init"  # behind the name of a number: of the same network from random weights
logger = logging.getLogger("vitflow.progress")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """One report: `step` of `total`, with metrics under their MLflow names (`train/loss`, `images_per_second`)."""

    stage: str
    step: int
    total: int
    metrics: Mapping[str, float]


Listener = Callable[[Progress], None]
_listeners: contextvars.ContextVar[tuple[Listener, ...]] = contextvars.ContextVar("listeners", default=())


@contextlib.contextmanager
def listening(*listeners: Listener) -> Iterator[None]:
    """Call these, after those already listening, for every report inside the block."""
    token = _listeners.set(_listeners.get() + listeners)
    try:
        yield
    finally:
        _listeners.reset(token)


@contextlib.contextmanager
def of_random_init() -> Iterator[None]:
    """Numbers reported inside the block are those of the network from random weights, and are named so."""
    token = _listeners.set(tuple(functools.partial(_renaming, listener) for listener in _listeners.get()))
    try:
        yield
    finally:
        _listeners.reset(token)


def _renaming(listener: Listener, event: Progress) -> None:
    metrics = {f"{name}{RANDOM_INIT}": value for name, value in event.metrics.items()}
    listener(dataclasses.replace(event, metrics=metrics))


def reporter(stage: str, total: int) -> Callable[[int, Mapping[str, float]], None]:
    """A `report(step, metrics)` bound to those listening now, usable from any thread.

    A listener that fails is named in a warning; it never stops the work.
    """
    listeners = _listeners.get()

    def report(step: int, metrics: Mapping[str, float]) -> None:
        for listener in listeners:
            try:
                listener(Progress(stage=stage, step=step, total=total, metrics=dict(metrics)))
            except Exception as error:
                logger.warning("progress could not be shown by %s: %s", listener, error)

    return report
