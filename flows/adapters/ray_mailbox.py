"""What the workers of a training tell their driver, and it them: reports, log records, failures, a wish to stop.

An actor of no CPUs on the driver's own node: on another one it would be lost with it.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vit.training import preemption

FETCH_EVERY = 0.1  # seconds
# With its node: the jobs of local clusters, one after the other, all have the same number.
_put_back: list[tuple[Any, str]] = []

Report = Callable[[int, dict[str, float]], None]


class Mailbox:
    """Keeps what workers send until the driver fetches it."""

    def __init__(self) -> None:
        self.empty()

    def empty(self) -> None:
        """Forget everything: for another training."""
        self.messages: list[Any] = []
        self.error: Exception | None = None
        self.stopping, self.ending, self.ended = False, False, False

    def post(self, message: Any) -> None:
        self.messages.append(message)

    def fail(self, error: Exception) -> None:
        self.error = self.error or error

    def failure(self) -> Exception | None:
        return self.error

    def ask_to_stop(self, stopping: bool) -> None:
        """Whether the workers are to save their state and stop, so that another number of them can go on."""
        self.stopping = stopping

    def is_stopping(self) -> bool:
        return self.stopping or self.ending

    def ask_to_end(self) -> None:
        """The workers are to save their state and not to be started again."""
        self.ending = True

    def is_ending(self) -> bool:
        return self.ending

    def end_early(self) -> None:
        """The workers have saved a state that is not the last one."""
        self.ended = True

    def has_ended_early(self) -> bool:
        return self.ended

    def fetch(self) -> list[Any]:
        messages, self.messages = self.messages, []
        return messages


class Forward(logging.Handler):
    """Sends log records to the driver."""

    def __init__(self, mailbox: Any) -> None:
        super().__init__()
        self.mailbox = mailbox

    def emit(self, record: logging.LogRecord) -> None:
        self.mailbox.post.remote(("log", record.name, record.levelno, record.getMessage()))


def opened() -> Any:
    """An empty mailbox: the one that was put back, or a new one."""
    node = ray.get_runtime_context().get_node_id()
    while _put_back:
        mailbox, of_node = _put_back.pop()
        with contextlib.suppress(RayError):
            if of_node == node:
                ray.get(mailbox.empty.remote())
                return mailbox
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return cast(Any, ray.remote(Mailbox)).options(num_cpus=0, scheduling_strategy=here).remote()


def failure(mailbox: Any) -> Exception | None:
    """What a worker gave up for, if one did."""
    return cast("Exception | None", ray.get(mailbox.failure.remote()))


def let_save(mailbox: Any, seconds: float) -> bool:
    """Ask the workers to save their state and end; True once they have, False if they did not in time."""
    deadline = time.monotonic() + seconds
    try:
        ray.get(mailbox.ask_to_end.remote(), timeout=seconds)
        while not ray.get(mailbox.has_ended_early.remote(), timeout=seconds):
            if time.monotonic() > deadline:
                return False
            time.sleep(FETCH_EVERY)
    except RayError:
        return False  # the cluster is gone, too
    return True


def deliver(mailbox: Any, report: Report, finished: threading.Event) -> None:
    """Hand on what the workers send, until all is delivered after the end; and to them, that this process is to end."""
    last, told = False, False
    while not last:
        last = finished.wait(FETCH_EVERY)
        try:
            if preemption.is_requested(at_log=True) and not told:
                told = True
                mailbox.ask_to_end.remote()
            messages = ray.get(mailbox.fetch.remote())
        except RayError:
            return  # the cluster is gone; the driver's own call says so
        for kind, *content in messages:
            if kind == "report":
                report(*content)
            else:
                name, level, text = content
                logging.getLogger(name).log(level, "%s", text)


def put_back(mailbox: Any) -> None:
    """For the next training: all workers that write to it have ended by themselves. It saves that one a process."""
    _put_back.append((mailbox, ray.get_runtime_context().get_node_id()))
