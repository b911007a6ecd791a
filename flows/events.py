"""What becomes of a run, as Prefect events that an automation can act on (docs/operations.md: a webhook).

The event's resource is the pipeline, `vitflow.pipeline.NAME`; the flow run, and for models the version, are related to
it. `payload.sentence` says what happened in words. Telling never fails the work: what cannot be sent is a warning.
"""

import itertools
import logging
from typing import Any

from prefect import Flow, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events import emit_event

from flows.adapters.mlflow_runs import close_stale

logger = logging.getLogger("vitflow")
FAILED = "vitflow.run.failed"  # an error, or its process died
STALLED = "vitflow.run.stalled"  # no progress for deploy.stall_after seconds
CANCELLED = "vitflow.run.cancelled"
PROMOTED = "vitflow.model.promoted"  # a new version is champion
REJECTED = "vitflow.model.rejected"  # the gate let it pass only as challenger
ALIASES = {"champion": PROMOTED, "challenger": REJECTED}


def emit(event: str, pipeline: str, flow_run: str, sentence: str, **payload: Any) -> None:
    """Send an event on a pipeline; `model` in the payload (models:/NAME/VERSION) is named as related, too."""
    related = [{"prefect.resource.id": f"prefect.flow-run.{flow_run}", "prefect.resource.role": "flow-run"}]
    if "model" in payload:
        named = "vitflow.model." + str(payload["model"]).removeprefix("models:/").replace("/", ".")
        related.append({"prefect.resource.id": named, "prefect.resource.role": "model-version"})
    resource = {"prefect.resource.id": f"vitflow.pipeline.{pipeline}", "prefect.resource.name": pipeline}
    try:
        emit_event(event, resource=resource, related=related, payload={"sentence": sentence, **payload})
    except Exception as error:
        logger.warning("%s could not be told to Prefect: %s", event, error)


def decided(pipeline: str, flow_run: str, registration: dict[str, Any]) -> None:
    """Promoted or rejected, from registration.json."""
    told = {"model": registration["uri"], "metric": registration["metric"], "value": registration["value"]}
    emit(ALIASES[registration["alias"]], pipeline, flow_run, registration["decision"], **told)


def failed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A hook of the flow, called by the run itself; one that is being cancelled ends like one that crashes."""
    if _is_cancelled(flow_run):
        return
    emit(FAILED, _pipeline(flow_run), str(flow_run.id), state.message or "no reason given", state=state.name)


def crashed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """The same for a run whose process died, called by whoever started it. Its MLflow run is closed, too."""
    failed(flow, flow_run, state)
    _close(flow_run)


def cancelled(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A hook that the runner calls once the process of a cancelled run is gone."""
    emit(CANCELLED, _pipeline(flow_run), str(flow_run.id), state.message or "cancelled", state=state.name)
    _close(flow_run)


def _is_cancelled(flow_run: FlowRun) -> bool:
    """Whether the server was asked to cancel it since it last began to run; what ended it may have come afterwards."""
    try:
        with get_client(sync_client=True) as client:
            states = client.read_flow_run_states(flow_run.id)
    except Exception as error:  # it may be what the run died of
        logger.warning("Prefect does not say whether %s was cancelled: %s", flow_run.name, error)
        return False
    since = itertools.takewhile(lambda state: state.type is not StateType.RUNNING, reversed(states))
    return any(state.type in (StateType.CANCELLING, StateType.CANCELLED) for state in since)


def _close(flow_run: FlowRun) -> None:
    try:
        close_stale(_pipeline(flow_run))
    except Exception as error:  # MLflow may be what it died of
        logger.warning("MLflow runs of %s could not be closed: %s", _pipeline(flow_run), error)


def _pipeline(flow_run: FlowRun) -> str:
    return str(flow_run.parameters.get("pipeline", ""))
