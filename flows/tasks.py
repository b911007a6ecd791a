"""A stage as a Prefect task: skip it if DVC calls it fresh, run it, record it, show it.

Prefect neither caches nor stores results here: DVC owns freshness, and a task returns only a path.
"""

import contextlib
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import prefect.utilities.engine
from prefect import Task, get_client, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.events.worker import EventsWorker
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Failed
from requests.exceptions import RequestException

from flows import events, report, show, stall
from flows.adapters import dvc_repo
from flows.stages.config import STAGES, ConfigError
from flows.stages.execute import execute, record
from flows.stages.progress import Listener
from flows.stages.run import Run
from vit.data.store import StoreDown
from vit.training import preemption

# Seconds before a stage is tried again because a service did not answer; wrong config or data fails at once. As long
# as S3 is given (flows/adapters/s3_requests.py).
RETRY_DELAYS = [10.0, 30.0, 60.0, 120.0]
JITTER = 0.2  # of a delay, so that runs that lost the same service do not come back in the same second
MAY_PASS = (ConnectionError, TimeoutError, StoreDown, RequestException)


@preemption.asks
def _save_or_terminate(number: int, *_: object) -> None:
    """What Prefect does on SIGTERM, but a training saves first. Prefect tells a cancelled run from one that crashes
    only while it finds its own handler installed, so this one is in its place."""
    if not preemption.accept():
        raise TerminationSignal(signal=number)


prefect.utilities.engine._prefect_sigterm_handler = _save_or_terminate  # pyright: ignore[reportPrivateUsage]


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
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_jitter_factor=JITTER,
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
            with show.live(stage) as listeners, _watched(run, stage) as heard, _cancelled_as_prefect_says():
                done = execute(run, stage, listeners=(*listeners, heard), tags=_prefect_tags())
            record(run, stage, code)
        if stage == STAGES[-1]:
            events.decided(run.pipeline, str(flow_run.id), report.results(run)[stage])
        logger.info("%s: done in %.0f s, %s", stage, time.monotonic() - start, done.out)
        show.stage_done(run, stage, done)
        return done.out

    return run_stage


@contextlib.contextmanager
def _cancelled_as_prefect_says() -> Iterator[None]:
    """A training that saved itself on SIGTERM ends as Prefect would have ended it: cancelled, not crashed."""
    try:
        yield
    except preemption.Preempted as error:
        raise TerminationSignal(signal.SIGTERM) from error


def _watched(run: Run, stage: str) -> AbstractContextManager[Listener]:
    """The stage's progress, watched for stalls; one is told as an event, and Prefect has the reason in any case."""
    run_id = flow_run.id

    def tell(sentence: str) -> None:
        events.emit(events.STALLED, run.pipeline, str(run_id), sentence, stage=stage)

    def give_up(sentence: str) -> None:
        EventsWorker.drain_all()
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run_id, Failed(message=sentence), force=True)

    return stall.watched(stage, run.config.deploy.stall_after, tell, give_up)


def _is_passing(task: Task[..., Any], task_run: Any, state: Any) -> bool:
    """True for faults that may pass by themselves: somewhere behind the error a service did not answer."""
    try:
        state.result()
    except BaseException as error:
        behind: BaseException | None = error
        while behind is not None and not isinstance(behind, MAY_PASS):
            behind = behind.__cause__ or behind.__context__
        return behind is not None and not isinstance(error, ConfigError)
    return False


def _prefect_tags() -> dict[str, str]:
    """Where in Prefect this stage runs."""
    return {"prefect.flow_run": str(flow_run.id), "prefect.flow_run_name": str(flow_run.name)}
