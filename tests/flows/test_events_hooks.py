"""The hooks of the flow: what they tell, and that a run which is being cancelled is not told of as failed."""

import contextlib
import signal
import types
import uuid
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import TerminationSignal
from prefect.utilities.engine import capture_sigterm, is_prefect_sigterm_handler_installed

from flows import events
from flows.pipeline import vit_pipeline
from vit.training import preemption

CRASHED = State(type=StateType.CRASHED, name="Crashed", message="its process died")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    monkeypatch.setattr(events, "emit", lambda event, *what, **more: found.append((event, *what)))
    monkeypatch.setattr(events, "close_stale", lambda pipeline: found.append(("closed", pipeline)))
    return found


def flow_run() -> FlowRun:
    return FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="mini", parameters={"pipeline": "mini"})


def server_says(monkeypatch: pytest.MonkeyPatch, kinds: list[StateType] | None) -> None:
    """What states the run has had, oldest first."""

    def read_flow_run_states(run: uuid.UUID) -> Any:
        if kinds is None:
            raise ConnectionError("gone")
        return [State(type=kind) for kind in kinds]

    client = types.SimpleNamespace(read_flow_run_states=read_flow_run_states)
    monkeypatch.setattr(events, "get_client", lambda **_: contextlib.nullcontext(client))


RUN = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
STOPPED = [StateType.CANCELLING, StateType.CRASHED]


@pytest.mark.parametrize("kinds", [RUN, [*RUN, StateType.CRASHED], [*RUN, *STOPPED, *RUN, StateType.CRASHED], None])
def test_a_crash_is_told(kinds: list[StateType] | None, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a run that was cancelled before, and retried."""
    server_says(monkeypatch, kinds)
    run = flow_run()
    events.crashed(vit_pipeline, run, CRASHED)
    assert told == [(events.FAILED, "mini", str(run.id), "its process died"), ("closed", "mini")]


@pytest.mark.parametrize("kinds", [[*RUN, StateType.CANCELLING], [*RUN, *STOPPED], [*RUN, StateType.CANCELLED]])
def test_a_cancelled_run_has_not_failed(
    kinds: list[StateType], told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server_says(monkeypatch, kinds)
    events.crashed(vit_pipeline, flow_run(), CRASHED)
    assert told == [("closed", "mini")]


def test_prefect_finds_its_own_handler_while_a_training_listens() -> None:
    """Else it takes a run that is cancelled then for one that crashed."""
    with capture_sigterm():
        with preemption.listening():
            assert is_prefect_sigterm_handler_installed()
            signal.raise_signal(signal.SIGTERM)
            assert preemption.is_requested(at_log=False)
        with pytest.raises(TerminationSignal):
            signal.raise_signal(signal.SIGTERM)
