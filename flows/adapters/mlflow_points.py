"""Metric points of a run on their way to MLflow: buffered, sent in order by a thread, kept while a server is away."""

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence

from flows.adapters.mlflow_store import client

# The store first: it sets the environment that MLflow reads when it is imported.
# isort: split
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

logger = logging.getLogger("vitflow")
FLUSH_EVERY = 2.0  # seconds between two writes of buffered points
BATCH = 500  # points per request; MLflow accepts 1,000


class Points:
    """`log` only buffers; a thread writes, so a slow or lost server does not slow training.

    Points keep their order. When a run is continued, those that the server has are not repeated.
    """

    def __init__(self, run_id: str, *, continued: bool, waiting: Sequence[Metric] = ()) -> None:
        self.run_id = run_id
        self.buffer: list[Metric] = list(waiting)
        self._continued = continued
        self._known: dict[str, set[int]] = {}
        self._writing, self._appending = threading.Lock(), threading.Lock()
        self._warned, self._closed = False, threading.Event()
        self._thread: threading.Thread | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers at a step; raises ValueError for a name MLflow cannot store. Never waits for the server."""
        now = int(time.time() * 1000)
        points = [Metric(metric_name(name), float(value), now, step) for name, value in metrics.items()]
        with self._appending:
            self.buffer += points
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_regularly, daemon=True, name="mlflow-points")
            self._thread.start()

    def flush(self) -> bool:
        """Write all buffered points now; False, with one warning per outage, if the server does not take them."""
        with self._writing:
            try:
                while self.buffer:
                    self._write(min(BATCH, len(self.buffer)))
            except (MlflowException, OSError) as error:
                if not self._warned:
                    logger.warning("MLflow does not take metrics; they are kept and sent later. %s", error)
                self._warned = True
                return False
        self._warned = False
        return True

    def close(self, *, wait: float) -> bool:
        """Write what is left, waiting up to `wait` seconds for the server; False if some is left even then."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        deadline = time.monotonic() + wait
        while not self.flush():
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(1.0, wait))
        return True

    def _write(self, count: int) -> None:
        """Send the first points of the buffer, then forget them. Sent twice, a point is stored once."""
        points = [point for point in self.buffer[:count] if self._is_new(point)]
        client().log_batch(self.run_id, metrics=points)
        with self._appending:
            del self.buffer[:count]

    def _write_regularly(self) -> None:
        while not self._closed.wait(FLUSH_EVERY if not self._warned else 3 * FLUSH_EVERY):
            self.flush()

    def _is_new(self, point: Metric) -> bool:
        if not self._continued:
            return True
        if point.key not in self._known:
            self._known[point.key] = {old.step for old in client().get_metric_history(self.run_id, point.key)}
        return point.step not in self._known[point.key]


def metric_name(name: str) -> str:
    """The name, if MLflow can store it; raises ValueError."""
    if not re.fullmatch(r"[\w.\- :][\w.\- :/]*", name) or ".." in name:
        raise ValueError(f"metric name {name!r} may only have letters, digits and . _ - / : and spaces")
    return name
