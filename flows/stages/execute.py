"""Run one stage the same way through either door: check, open its MLflow run, hand in lineage, keep what it shows."""

import dataclasses
import hashlib
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.adapters import dvc_repo, mlflow_runs
from flows.stages import arrivals, lineage, output, progress
from flows.stages.config import INPUTS
from flows.stages.deduplicate import deduplicate
from flows.stages.evaluate import evaluate
from flows.stages.finetune import finetune
from flows.stages.prepare import PrepareConfig, prepare
from flows.stages.pretrain import pretrain
from flows.stages.register import register
from flows.stages.run import Run, flatten

logger = logging.getLogger("vitflow")
FUNCTIONS: Mapping[str, Callable[..., Path]] = {
    function.__name__: function for function in (prepare, deduplicate, pretrain, finetune, evaluate, register)
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """A finished stage."""

    out: Path
    seconds: float
    run_id: str | None  # in MLflow
    url: str | None  # of that run


def execute(
    run: Run, stage: str, *, listeners: tuple[progress.Listener, ...] = (), tags: Mapping[str, str] | None = None
) -> Done:
    """Run a stage now, whether or not it is fresh; its output appears whole or not at all.

    `tags` are added to the MLflow run. Raises what the stage raises, ServiceDown if MLflow does not answer.
    """
    for name, value in run.config.deploy.env.items():
        os.environ.setdefault(name, value)
    config, inputs, out = run.section(stage), run.inputs(stage), run.out(stage)
    for path in inputs.values():
        output.digest(path)
    mlflow_runs.check(os.environ["MLFLOW_TRACKING_URI"])
    mlflow_runs.catch_up()
    names = describe(run, stage) | dict(tags or {})
    start = time.monotonic()
    with mlflow_runs.stage_run(run.pipeline, f"{run.pipeline}/{stage}", names, flatten(config)) as tracked:
        names["mlflow.run_id"] = tracked.run_id
        with (
            lineage.using(names),
            progress.listening(lambda event: tracked.log(event.step, event.metrics), *listeners),
        ):
            seen = arrivals.moments(config) if isinstance(config, PrepareConfig) else {}
            FUNCTIONS[stage](config, **inputs, out=out)
            arrivals.remember(seen, out)
        seconds = time.monotonic() - start
        tracked.log(0, {"seconds": seconds})
        children = json.loads((out / output.RUNS).read_text()) if (out / output.RUNS).is_file() else ()
        tracked.leave((*sorted(out.glob("*.png")), *sorted(out.glob("*.json"))), children)
    return Done(out=out, seconds=seconds, run_id=tracked.run_id, url=tracked.url)


def record(run: Run, stage: str, code: Mapping[str, str]) -> None:
    """Tell DVC that a tracked stage is done, unless its code changed while it ran (`code` is its state before)."""
    if not run.is_tracked(stage):
        return
    if dvc_repo.code_state(run.root, run.target(stage)) != code:
        logger.warning("%s is done, but its code was edited meanwhile: it is not recorded and will run again", stage)
        return
    dvc_repo.commit(run.root, run.target(stage))


def describe(run: Run, stage: str) -> dict[str, str]:
    """Lineage of a stage about to run: commit, hardware, config and hash of all that it depends on, directly or not."""
    config, inputs, sources = run.section(stage), run.inputs(stage), _sources(run, stage)
    sections = {name: dataclasses.asdict(run.section(name)) for name in (*sources, stage)}
    resolved = json.dumps(sections, sort_keys=True, separators=(",", ":"))
    tags = {
        "vitflow.pipeline": run.pipeline,
        "vitflow.stage": stage,
        "vitflow.fingerprint": output.fingerprint(stage, config, inputs),
        "vitflow.overrides": shlex.join(run.overrides),
        "config.resolved": resolved,
        "config.sha256": hashlib.sha256(resolved.encode()).hexdigest(),
    }
    tags |= {f"dvc.{name}": content_hash(run.root, path) for name, path in sources.items()}
    return tags | lineage.git_tags(run.root) | lineage.hardware_tags() | lineage.software_tags()


def content_hash(root: Path, path: Path) -> str:
    """The md5 under which DVC keeps an output; for one that DVC does not track, the SHA-256 of its file list."""
    return dvc_repo.recorded_hash(root, path) or f"sha256:{output.digest(path)}"


def _sources(run: Run, stage: str) -> dict[str, Path]:
    """All outputs that a stage depends on, directly or not, by the name of the stage that made them."""
    found: dict[str, Path] = {}
    for source in INPUTS[stage].values():
        found |= _sources(run, source) | {source: run.out(source)}
    return found


def tracked_page(run: Run, stage: str) -> str | None:
    """The address of the MLflow run that made a finished output, whenever that was; None without a server."""
    run_id = mlflow_runs.find_run(output.read(run.out(stage))["fingerprint"], stage)
    return None if run_id is None else mlflow_runs.page(run_id)
