"""How a stage's MLflow run ends: its last points, files and children, its status; or all that kept for later.

Work that is done must not fail, and so be done again, because the server that lists it is away. What it could not be
told lies in `.vitflow/untold` until the next stage of this checkout finds it answering.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.adapters.mlflow_points import Points, metric_name
from flows.adapters.mlflow_store import client, locked, root, tracking_uri

# The store first: it sets the environment that MLflow reads when it is imported.
# isort: split
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

logger = logging.getLogger("vitflow")
PARENT = "mlflow.parentRunId"  # MLflow's own tag: its UI shows the run below that one
UNTOLD = Path(".vitflow") / "untold"


@dataclasses.dataclass(kw_only=True)
class Ending:
    """What is left to say of a run."""

    run_id: str
    files: list[str] = dataclasses.field(default_factory=list[str])
    children: list[dict[str, Any]] = dataclasses.field(default_factory=list[dict[str, Any]])  # name, params, metrics
    status: str = "FINISHED"


def tell(ending: Ending, points: Points, *, wait: float) -> None:
    """Say all of it; what the server does not take within `wait` seconds is kept, with a warning."""
    deadline = time.monotonic() + wait
    left = "its points were not taken" if not points.close(wait=wait) else _refused(ending, deadline)
    if left is None:
        return
    file = root() / UNTOLD / f"{ending.run_id}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    waiting = [(point.key, point.value, point.timestamp, point.step) for point in points.buffer]
    work = file.with_suffix(".writing")  # or whoever is killed here leaves half of it
    work.write_text(json.dumps({"uri": tracking_uri(), "points": waiting, **dataclasses.asdict(ending)}) + "\n")
    work.replace(file)
    logger.warning(
        "MLflow at %s could not be told how run %s ended (%s): %d metric points and %d files are kept in %s, and sent "
        "when the next stage of this checkout runs. The stage's own files hold its results",
        *(tracking_uri(), ending.run_id, left, len(waiting), len(ending.files), file),
    )


def catch_up() -> None:
    """Say what could not be said before to the server that is used now, if there is anything."""
    if not any((root() / UNTOLD).glob("*.json")):
        return
    with locked("untold"):
        for file in sorted((root() / UNTOLD).glob("*.json")):
            kept: dict[str, Any] = json.loads(file.read_text())
            if kept.pop("uri") != tracking_uri():
                continue
            points = [Metric(*point) for point in kept.pop("points")]
            ending = Ending(**kept)
            if Points(ending.run_id, continued=True, waiting=points).flush() and _refused(ending, 0) is None:
                file.unlink()
                logger.info("MLflow run %s has now what it could not be told before", ending.run_id)


def log_child(run_id: str, name: str, params: Mapping[str, object], metrics: Mapping[str, float]) -> None:
    """A finished run below this one, such as a point of a sweep; one of that name is logged once."""
    api = client()
    experiment = api.get_run(run_id).info.experiment_id
    query = f"tags.`{PARENT}` = '{run_id}' and attributes.run_name = '{metric_name(name)}'"
    if api.search_runs([experiment], query, max_results=1):
        return
    child = api.create_run(experiment, run_name=name, tags={PARENT: run_id}).info.run_id
    now = int(time.time() * 1000)
    api.log_batch(
        child,
        params=[Param(key, str(value)) for key, value in params.items()],
        metrics=[Metric(metric_name(key), float(value), now, 0) for key, value in metrics.items()],
    )
    api.set_terminated(child)


def _say(ending: Ending) -> None:
    for file in filter(Path.is_file, map(Path, ending.files)):
        client().log_artifact(ending.run_id, str(file))
    for child in ending.children:
        log_child(ending.run_id, child["name"], child["params"], child["metrics"])
    client().set_terminated(ending.run_id, status=ending.status)


def _refused(ending: Ending, deadline: float) -> str | None:
    """Why the server does not take it, if it still does not at the deadline."""
    while True:
        try:
            _say(ending)
            return None
        except (MlflowException, OSError) as error:
            if time.monotonic() >= deadline:
                return str(error)
        time.sleep(1)
