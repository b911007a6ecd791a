"""A stage's MLflow run as a plain thing: log numbers, files and tags; a lost server never stops training.

Only MlflowClient is used, never MLflow's active run, which is global to the process.
"""

import contextlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from flows.adapters.mlflow_store import ServiceDown, check, check_name, client, root, tracking_uri

# The store first: it sets the environment that MLflow reads when it is imported.
# isort: split
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

__all__ = ["ServiceDown", "StageRun", "attached", "check", "close_stale", "find_run", "page", "stage_run"]

logger = logging.getLogger("vitflow")

FLUSH_EVERY = 2.0  # seconds between two writes of buffered points
FINAL_WAIT = 60.0  # seconds that the end of a run waits for a lost server
BATCH = 500  # points per request; MLflow accepts 1,000
PARENT = "mlflow.parentRunId"  # MLflow's own tag: its UI shows the run below that one
UNFINISHED = ("RUNNING", "FAILED", "KILLED")
STAGE, FINGERPRINT, HOST, PID, BORN = (
    f"vitflow.{name}" for name in ("stage", "fingerprint", "host", "pid", "pid_started")
)


class StageRun:
    """An open run. `log` only buffers; a thread writes, so a slow or lost server does not slow training.

    Points keep their order. When a run is continued, points up to the last step the server has are not repeated.
    """

    def __init__(self, run_id: str, experiment_id: str, *, continued: bool = False) -> None:
        self.run_id = run_id
        self._uri = tracking_uri()
        self.url = _page(experiment_id, run_id)
        self._continued = continued
        self._last_steps: dict[str, int] = {}
        self._buffer: list[Metric] = []
        self._writing, self._appending = threading.Lock(), threading.Lock()
        self._warned, self._closed = False, threading.Event()
        self._thread: threading.Thread | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers at a step; raises ValueError for a name MLflow cannot store. Never waits for the server."""
        now = int(time.time() * 1000)
        points = [Metric(_metric_name(name), float(value), now, step) for name, value in metrics.items()]
        with self._appending:
            self._buffer += points
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_regularly, daemon=True, name="mlflow-points")
            self._thread.start()

    def log_artifacts(self, path: Path) -> None:
        """Store a file, or a directory with everything in it, under its own name."""
        if path.is_dir():
            client().log_artifacts(self.run_id, str(path), path.name)
        else:
            client().log_artifact(self.run_id, str(path))

    def log_figure(self, path: Path) -> None:
        """Store an image under `figures/`."""
        client().log_artifact(self.run_id, str(path), "figures")

    def log_child(self, name: str, params: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        """A finished run below this one, such as a point of a sweep; one of that name is logged once."""
        api = client()
        experiment = api.get_run(self.run_id).info.experiment_id
        query = f"tags.`{PARENT}` = '{self.run_id}' and attributes.run_name = '{_metric_name(name)}'"
        if api.search_runs([experiment], query, max_results=1):
            return
        child = api.create_run(experiment, run_name=name, tags={PARENT: self.run_id}).info.run_id
        now = int(time.time() * 1000)
        api.log_batch(
            child,
            params=[Param(key, str(value)) for key, value in params.items()],
            metrics=[Metric(_metric_name(key), float(value), now, 0) for key, value in metrics.items()],
        )
        api.set_terminated(child)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        client().log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def flush(self) -> bool:
        """Write all buffered points now; False, with one warning per outage, if the server does not take them."""
        with self._writing:
            try:
                while self._buffer:
                    self._write(min(BATCH, len(self._buffer)))
            except (MlflowException, OSError) as error:
                if not self._warned:
                    logger.warning("MLflow does not take metrics; they are kept and sent later. %s", error)
                self._warned = True
                return False
        self._warned = False
        return True

    def close(self, *, wait: float = FINAL_WAIT) -> None:
        """Write what is left, waiting up to `wait` seconds for the server; what is lost then is said loudly."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        deadline = time.monotonic() + wait
        while not self.flush() and time.monotonic() < deadline:
            time.sleep(min(1.0, wait))
        if self._buffer:
            logger.error(
                "%d metric points of MLflow run %s are lost: %s did not take them within %.0f s. The stage's own files "
                "hold its results",
                *(len(self._buffer), self.run_id, self._uri, wait),
            )

    def _write(self, count: int) -> None:
        """Send the first points of the buffer, then forget them. Sent twice, a point is stored once."""
        points = [point for point in self._buffer[:count] if self._is_new(point)]
        client().log_batch(self.run_id, metrics=points)
        with self._appending:
            del self._buffer[:count]

    def _write_regularly(self) -> None:
        while not self._closed.wait(FLUSH_EVERY if not self._warned else 3 * FLUSH_EVERY):
            self.flush()

    def _is_new(self, point: Metric) -> bool:
        if not self._continued:
            return True
        if point.key not in self._last_steps:
            history = client().get_metric_history(self.run_id, point.key)
            self._last_steps[point.key] = max((old.step for old in history), default=-1)
        return point.step > self._last_steps[point.key]


@contextlib.contextmanager
def stage_run(
    experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, object] | None = None
) -> Iterator[StageRun]:
    """The run of a stage: a new one, or the unfinished one with the same vitflow.stage and vitflow.fingerprint tags.

    Ends as FINISHED, FAILED (an error) or KILLED (interrupted). Raises ServiceDown before anything else happens.
    """
    if missing := {STAGE, FINGERPRINT} - set(tags):
        raise ValueError(
            f"tags of a stage's run need {' and '.join(sorted(missing))}: a resumed stage is found by them"
        )
    api, experiment_id = client(), _experiment(check_name(experiment, "experiment"))
    owner = {HOST: socket.gethostname(), PID: str(os.getpid()), BORN: _birth(os.getpid())}
    tags = {**tags, **owner}
    old = _unfinished(api, experiment_id, tags[FINGERPRINT], tags[STAGE])
    if old is not None:
        api.update_run(old.info.run_id, status="RUNNING", name=name)
    run = old or api.create_run(experiment_id, run_name=name)
    known = run.data.params if old else {}
    api.log_batch(
        run.info.run_id,
        params=[Param(key, str(value)) for key, value in (params or {}).items() if key not in known],
        tags=[RunTag(key, str(value)) for key, value in tags.items()],
    )
    stage = StageRun(run.info.run_id, experiment_id, continued=old is not None)
    try:
        yield stage
    except BaseException as error:  # KeyboardInterrupt, SystemExit and Prefect's cancellation are not Exceptions
        _end(stage, "FAILED" if isinstance(error, Exception) else "KILLED", wait=0)
        raise
    _end(stage, "FINISHED", wait=FINAL_WAIT)


@contextlib.contextmanager
def attached(run_id: str) -> Iterator[StageRun]:
    """A run that another process opened and will end, e.g. in rank 0 of a training: log into it."""
    run = client().get_run(run_id)
    stage = StageRun(run_id, run.info.experiment_id, continued=bool(run.data.metrics))
    try:
        yield stage
    finally:
        stage.close()


def find_run(fingerprint: str, stage: str) -> str | None:
    """The newest run of a stage with this fingerprint in any experiment, finished ones first."""
    api = client()
    experiments = [experiment.experiment_id for experiment in api.search_experiments()]
    runs = api.search_runs(experiments, _by_tags(fingerprint, stage), order_by=["attributes.start_time DESC"])
    runs = sorted(runs, key=lambda run: run.info.status != "FINISHED")
    return runs[0].info.run_id if runs else None


def last_values(run_id: str) -> dict[str, float]:
    """Every metric of a run as it was logged last."""
    return dict(client().get_run(run_id).data.metrics)


def page(run_id: str) -> str | None:
    """The address of a run in the MLflow UI; None if there is no server."""
    return _page(client().get_run(run_id).info.experiment_id, run_id)


def close_stale(experiment: str) -> list[str]:
    """Mark as KILLED the RUNNING runs whose process on this host is gone; returns their ids."""
    api = client()
    found = api.get_experiment_by_name(check_name(experiment, "experiment"))
    if found is None:
        return []
    query = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{socket.gethostname()}'"
    stale = [run.info.run_id for run in api.search_runs([found.experiment_id], query) if not _lives(run)]
    for run_id in stale:
        api.set_terminated(run_id, status="KILLED")
    return stale


def _page(experiment_id: str, run_id: str) -> str | None:
    uri = tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return None
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def _experiment(name: str) -> str:
    api = client()
    found = api.get_experiment_by_name(name)
    if found is None:
        is_embedded = tracking_uri().startswith("sqlite:")
        location = (root() / "mlartifacts" / name).as_uri() if is_embedded else None
        with contextlib.suppress(MlflowException):  # another process was faster
            # Without the kind, the UI opens on the page for traces of language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            api.create_experiment(name, artifact_location=location, tags=kind)
        found = api.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise ValueError(
            f"the MLflow experiment {name} cannot be used; if it was deleted, `mlflow experiments restore`"
        )
    return found.experiment_id


def _unfinished(api: MlflowClient, experiment_id: str, fingerprint: str, stage: str) -> Run | None:
    runs = api.search_runs([experiment_id], _by_tags(fingerprint, stage), order_by=["attributes.start_time DESC"])
    return next((run for run in runs if run.info.status in UNFINISHED), None)


def _by_tags(fingerprint: str, stage: str) -> str:
    for value in (fingerprint, stage):
        check_name(value, "tag")  # it goes into a query
    return f"tags.`{FINGERPRINT}` = '{fingerprint}' and tags.`{STAGE}` = '{stage}'"


def _end(stage: StageRun, status: str, *, wait: float) -> None:
    stage.close(wait=wait)
    try:
        client().set_terminated(stage.run_id, status=status)
    except (MlflowException, OSError) as error:
        logger.warning("MLflow run %s could not be marked as %s: %s", stage.run_id, status, error)


def _lives(run: Run) -> bool:
    pid, born = run.data.tags.get(PID, ""), run.data.tags.get(BORN, "")
    return pid.isdecimal() and (birth := _birth(int(pid))) != "" and born in ("", birth)


def _birth(pid: int) -> str:
    """When a process started, in clock ticks since boot (pids are used again); empty if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _metric_name(name: str) -> str:
    if not re.fullmatch(r"[\w.\- :][\w.\- :/]*", name) or ".." in name:
        raise ValueError(f"metric name {name!r} may only have letters, digits and . _ - / : and spaces")
    return name
