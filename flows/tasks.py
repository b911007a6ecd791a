"""A stage as a Prefect task: skip it if DVC calls it fresh, run it, record it, show it.

Prefect neither caches nor stores results here: DVC owns freshness, and a task returns only a path.
"""

import time
from pathlib import Path
from typing import Any, Protocol

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows import show
from flows.adapters import dvc_repo
from flows.stages.config import STAGES
from flows.stages.execute import execute, record
from flows.stages.run import Run

RETRIES = 2  # for services that did not answer; wrong config or data fails at once
RETRY_DELAY_SECONDS = 10


class StageTask(Protocol):
    """Calls a stage with the outputs it reads, by name, and returns its own output."""

    def __call__(self, run: Run, **inputs: Path) -> Path: ...


def as_task(stage: str) -> StageTask:
    """The Prefect task of a stage; it appears in the UI under the stage's name."""
    assert stage in STAGES, stage

    @task(
        name=stage,
        task_run_name=stage,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=RETRIES,
        retry_delay_seconds=RETRY_DELAY_SECONDS,
        retry_condition_fn=_is_passing,
    )
    def run_stage(run: Run, **inputs: Path) -> Path:
        assert inputs == run.inputs(stage), f"the flow wires {stage} differently from INPUTS"
        logger = get_run_logger()
        with run.only_one(stage):
            reasons = run.stale(stage)
            if not reasons:
                logger.info("%s: up to date, %s", stage, run.out(stage))
                show.stage_done(run, stage, None)
                return run.out(stage)
            logger.info("%s: running, because %s", stage, "; ".join(reasons))
            code = dvc_repo.code_state(run.root, run.target(stage))
            start = time.monotonic()
            with show.live(stage) as listeners:
                done = execute(run, stage, listeners=listeners, tags=_prefect_tags())
            record(run, stage, code)
        logger.info("%s: done in %.0f s, %s", stage, time.monotonic() - start, done.out)
        show.stage_done(run, stage, done)
        return done.out

    return run_stage


def _is_passing(task: Task[..., Any], task_run: Any, state: Any) -> bool:
    """True for faults that may pass by themselves: a service that does not answer."""
    try:
        state.result()
    except (ConnectionError, TimeoutError):
        return True
    except BaseException:
        return False
    return False


def _prefect_tags() -> dict[str, str]:
    """Where in Prefect this stage runs."""
    return {"prefect.flow_run": str(flow_run.id), "prefect.flow_run_name": str(flow_run.name)}
