"""The flow hands every stage what INPUTS says, in order; a scheduled one waits for its turn."""

import dataclasses
import types
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import pipeline, tasks
from flows.adapters.mlflow_store import ServiceDown
from flows.stages.config import STAGES, ConfigError, ScheduleConfig
from flows.stages.run import Run
from flows.stall import Stalled
from vit.data.store import StoreDown, StoreUnavailable


def test_the_flow_wires_stages_as_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def stand_in(stage: str) -> Callable[..., Path]:
        def run_stage(run: Run, **inputs: Path) -> Path:
            assert inputs == run.inputs(stage)
            called.append(stage)
            return run.out(stage)

        return run_stage

    for stage in STAGES:
        monkeypatch.setattr(pipeline, stage, stand_in(stage))
    monkeypatch.setattr(pipeline.show, "summary", lambda run: None)
    pipeline.vit_pipeline.fn("mini", [])
    assert called == list(STAGES)


def raised(error: Exception, cause: Exception | None = None) -> types.SimpleNamespace:
    """A state whose result raises."""

    def result() -> None:
        raise error from cause

    return types.SimpleNamespace(result=result)


def test_only_what_may_pass_is_tried_again() -> None:
    task, reset = pipeline.prepare, ConnectionResetError("reset")
    for state in (
        raised(ServiceDown("MLflow is down")),
        raised(StoreDown("S3 did not answer")),
        raised(RuntimeError("the API request failed"), reset),
    ):
        assert tasks._is_passing(task, None, state)
    for error in (ConfigError("no such key"), StoreUnavailable("403"), ValueError("bad shard"), Stalled("silent")):
        assert not tasks._is_passing(task, None, raised(error))
    assert not tasks._is_passing(task, None, raised(ConfigError("no such key"), reset))
    assert (task.retries, task.retry_delay_seconds) == (4, tasks.RETRY_DELAYS)


def test_scheduled_runs_wait_for_their_turn_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Run.of("mini")
    schedule = ScheduleConfig(cron="0 3 * * *", timezone="UTC", jitter_seconds=59)
    deploy = dataclasses.replace(plain.config.deploy, schedule=schedule)
    scheduled = dataclasses.replace(plain, config=dataclasses.replace(plain.config, deploy=deploy))
    waited: list[float] = []
    monkeypatch.setattr(pipeline.time, "sleep", waited.append)
    for number in range(200):
        started = types.SimpleNamespace(id=uuid.UUID(int=number * 7919), tags=["auto-scheduled"])
        monkeypatch.setattr(pipeline, "flow_run", started)
        pipeline._wait_for_turn(scheduled)
    assert (min(waited), max(waited), len(set(waited))) == (0, 59, 60)
    pipeline._wait_for_turn(plain)  # has no schedule
    monkeypatch.setattr(pipeline, "flow_run", types.SimpleNamespace(id=uuid.UUID(int=7), tags=[]))
    pipeline._wait_for_turn(scheduled)  # a person started it
    assert len(waited) == 200
