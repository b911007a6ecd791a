"""The pipeline: six stages in order. One flow run is one row of stages in the Prefect UI."""

import logging
import time
import uuid
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import Field

from flows.environment import apply_defaults

apply_defaults()
logging.getLogger("vitflow").setLevel(logging.INFO)  # Prefect gives it a handler and no level

from prefect import flow  # noqa: E402  (environment first)
from prefect.runtime import flow_run  # noqa: E402

from flows import events, show, turns  # noqa: E402
from flows.adapters import ray_cluster  # noqa: E402
from flows.stages import config as pipelines  # noqa: E402
from flows.stages.run import Run  # noqa: E402
from flows.tasks import as_task  # noqa: E402

# A choice in Prefect's form, even of one; a Literal of one would be shown as a constant without its help text.
PipelineName: TypeAlias = Annotated[str, Field(json_schema_extra={"enum": list(pipelines.names())})]

turns.keep_through_outages()
prepare, deduplicate, pretrain, finetune, evaluate, register = (as_task(stage) for stage in pipelines.STAGES)


def run_name() -> str:
    """`mini`, or `mini finetune.train.learning_rate=0.02`: what tells runs apart in the list."""
    return " ".join([flow_run.parameters["pipeline"], *flow_run.parameters.get("overrides", [])])


def _wait_for_turn(run: Run) -> None:
    """A run that the schedule started waits for as long as its own id says, up to the jitter."""
    schedule = run.config.deploy.schedule
    if schedule is not None and "auto-scheduled" in flow_run.tags:
        time.sleep(uuid.UUID(str(flow_run.id)).int % (schedule.jitter_seconds + 1))


@flow(
    name="vit-pipeline",
    flow_run_name=run_name,
    validate_parameters=True,
    on_failure=[events.failed],
    on_crashed=[events.crashed],
    on_cancellation=[events.cancelled],
)
def vit_pipeline(pipeline: PipelineName = "mini", overrides: list[str] = []) -> Path:  # noqa: B006  (forms need it plain)
    """Images in, a registered Vision Transformer out: prepare, deduplicate, pretrain, finetune, evaluate, register.

    Stages that are up to date are skipped.

    Args:
        pipeline: Which pipeline of pipelines.yaml to run.
        overrides: Values to change for this run, each like finetune.train.learning_rate=0.02. Only the stages they
            touch run again, into directories of their own.
    """
    run = Run.of(pipeline, tuple(overrides))
    _wait_for_turn(run)
    try:
        images = prepare(run)
        kept = deduplicate(run, images=images)
        backbone = pretrain(run, images=images, kept=kept)
        finetuned = finetune(run, images=images, kept=kept, backbone=backbone)
        scores = evaluate(run, images=images, dedup=kept, backbone=backbone, model=finetuned)
        registration = register(run, dedup=kept, pretrain=backbone, model=finetuned, scores=scores)
        show.summary(run)
        return registration
    finally:
        ray_cluster.stop()
