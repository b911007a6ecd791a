"""The hooks of the flow: what they tell, and that a run which is being cancelled is not told of as failed."""

import contextlib
import types
import uuid
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows import events
from flows.pipeline import vit_pipeline

CRASHED = State(type=StateType.CRASHED, name="Crashed", message="its process died")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    monkeypatch.setattr(events, "emit", lambda event, *what, **more: found.append((event, *what)))
    monkeypatch.setattr(events, "close_stale", lambda pipeline: found.append(("closed", pipeline)))
    return found


def flow_run() -> FlowRun:
    return FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="mini", parameters={"pipeline": "mini"})


def server_says(monkeypatch: pytest.MonkeyPatch, kind: StateType | None) -> None:
    def read_flow_run(run: uuid.UUID) -> Any:
        if kind is None:
            raise ConnectionError("gone")
        return types.SimpleNamespace(state=State(type=kind))

    client = types.SimpleNamespace(read_flow_run=read_flow_run)
    monkeypatch.setattr(events, "get_client", lambda **_: contextlib.nullcontext(client))


@pytest.mark.parametrize("kind", [StateType.RUNNING, StateType.CRASHED, None])
def test_a_crash_is_told(kind: StateType | None, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    server_says(monkeypatch, kind)
    run = flow_run()
    events.crashed(vit_pipeline, run, CRASHED)
    assert told == [(events.FAILED, "mini", str(run.id), "its process died"), ("closed", "mini")]


@pytest.mark.parametrize("kind", [StateType.CANCELLING, StateType.CANCELLED])
def test_a_cancelled_run_has_not_failed(kind: StateType, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    server_says(monkeypatch, kind)
    events.crashed(vit_pipeline, flow_run(), CRASHED)
    assert told == [("closed", "mini")]
