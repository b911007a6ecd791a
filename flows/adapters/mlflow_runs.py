"""A stage's MLflow run as a plain thing: log numbers, files and tags; a lost server never stops training.

Only MlflowClient is used, never MLflow's active run, which is global to the process.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.adapters.mlflow_endings import Ending, catch_up, tell
from flows.adapters.mlflow_points import Points
from flows.adapters.mlflow_store import ServiceDown, check, check_name, client, root, tracking_uri

# The store first: it sets the environment that MLflow reads when it is imported.
# isort: split
from mlflow.entities import Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

__all__ = ["ServiceDown", "StageRun", "attached", "catch_up", "check", "close_stale", "find_run", "page", "stage_run"]

logger = logging.getLogger("vitflow")

FINAL_WAIT = 60.0  # seconds that the end of a run waits for a lost server
UNFINISHED = ("RUNNING", "FAILED", "KILLED")
STAGE, FINGERPRINT, HOST, PID, BORN = (
    f"vitflow.{name}" for name in ("stage", "fingerprint", "host", "pid", "pid_started")
)


class StageRun:
    """An open run. Numbers never wait for the server, nor do they get lost while it is away."""

    def __init__(self, run_id: str, experiment_id: str, *, continued: bool = False) -> None:
        self.run_id = run_id
        self.url = _page(experiment_id, run_id)
        self.points = Points(run_id, continued=continued)
        self.ending = Ending(run_id=run_id)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers at a step; raises ValueError for a name MLflow cannot store. Never waits for the server."""
        self.points.log(step, metrics)

    def leave(self, files: Iterable[Path], children: Iterable[dict[str, Any]] = ()) -> None:
        """Files to store and finished runs below this one (name, params, metrics), once it has ended well."""
        self.ending.files += [str(file.resolve()) for file in files]
        self.ending.children += children

    def log_artifacts(self, path: Path) -> None:
        """Store a file, or a directory with everything in it, under its own name."""
        if path.is_dir():
            client().log_artifacts(self.run_id, str(path), path.name)
        else:
            client().log_artifact(self.run_id, str(path))

    def log_figure(self, path: Path) -> None:
        """Store an image under `figures/`."""
        client().log_artifact(self.run_id, str(path), "figures")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        client().log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])


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
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        tell(Ending(run_id=stage.run_id, status=status), stage.points, wait=0)
        raise
    tell(stage.ending, stage.points, wait=FINAL_WAIT)


@contextlib.contextmanager
def attached(run_id: str) -> Iterator[StageRun]:
    """A run that another process opened and will end, e.g. in rank 0 of a training: log into it."""
    run = client().get_run(run_id)
    stage = StageRun(run_id, run.info.experiment_id, continued=bool(run.data.metrics))
    try:
        yield stage
    finally:
        if not stage.points.close(wait=FINAL_WAIT):
            logger.error("%d metric points of MLflow run %s are lost", len(stage.points.buffer), run_id)


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
