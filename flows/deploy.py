"""One Prefect deployment per pipeline in pipelines.yaml: served by this process (`python -m flows.deploy`), or put on a
server for the workers of a pool (`vitflow deploy`).

What the server holds is compared with what pipelines.yaml says, so that a second call changes nothing, a schedule that
was taken out stops, and drift (someone edited a deployment in the UI) can be shown.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from flows.environment import apply_defaults

apply_defaults()

from prefect import serve  # noqa: E402  (environment first)
from prefect._internal import observers  # noqa: E402
from prefect.client.orchestration import SyncPrefectClient, get_client  # noqa: E402
from prefect.client.schemas.actions import WorkPoolCreate  # noqa: E402
from prefect.client.schemas.filters import FlowFilter, FlowFilterName  # noqa: E402
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy  # noqa: E402
from prefect.client.schemas.responses import DeploymentResponse  # noqa: E402
from prefect.deployments.runner import RunnerDeployment  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.runner import _scheduled_run_poller  # noqa: E402
from prefect.runner.storage import LocalStorage  # noqa: E402
from prefect.schedules import Cron  # noqa: E402
from prefect.utilities.services import critical_service_loop  # noqa: E402

from flows.pipeline import vit_pipeline  # noqa: E402
from flows.stages.config import load, names, root  # noqa: E402

SAME = "unchanged"
FAILED_POLLS = 10_000  # in a row, one each ten seconds, until the runner gives up: a day


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """How the server's deployment of a pipeline differs from pipelines.yaml."""

    pipeline: str
    state: str  # missing, changed, unchanged, or unknown: pipelines.yaml does not know it
    fields: tuple[str, ...] = ()  # that differ


def deployment(pipeline: str, pool: str | None = None) -> RunnerDeployment:
    """The deployment of a pipeline; in a work pool if one is given or pipelines.yaml names one."""
    offered = load(pipeline).deploy
    schedule = offered.schedule
    found = vit_pipeline.to_deployment(
        name=pipeline,
        parameters={"pipeline": pipeline, "overrides": []},
        description=offered.description,
        tags=["vitflow"],
        schedule=None if schedule is None else Cron(schedule.cron, timezone=schedule.timezone),
        # Two runs of one pipeline would write the same outputs.
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy[offered.collision.upper()]
        ),
        work_pool_name=pool or offered.work_pool,
    )
    assert isinstance(found, RunnerDeployment)  # a coroutine only inside an event loop
    if found.work_pool_name:
        found.storage = LocalStorage(str(root()))  # workers run in a checkout at this path
    return found


def drift(pipelines: Sequence[str], pool: str | None = None) -> list[Drift]:
    """What differs for these pipelines, and the deployments of pipelines that are no more."""
    with get_client(sync_client=True) as client:
        held = _held(client)
    found: list[Drift] = []
    for name in pipelines:
        if name not in held:
            found.append(Drift(pipeline=name, state="missing"))
            continue
        wanted, there = _wanted(deployment(name, pool)), _there(held[name])
        fields = tuple(field for field, value in wanted.items() if there[field] != value)
        found.append(Drift(pipeline=name, state="changed" if fields else SAME, fields=fields))
    return found + [Drift(pipeline=name, state="unknown") for name in sorted(held.keys() - set(names()))]


def apply(differing: Sequence[Drift], pool: str | None = None) -> None:
    """Make the server hold what pipelines.yaml says, for those that differ; those that are unknown stay."""
    with get_client(sync_client=True) as client:
        for made in (deployment(one.pipeline, pool) for one in differing if one.state in ("missing", "changed")):
            if made.work_pool_name:
                _ensure_pool(client, made.work_pool_name)
            made.apply()
            _drop_schedules(client, made)


def remove(pipeline: str) -> None:
    """Delete a deployment."""
    with get_client(sync_client=True) as client:
        client.delete_deployment(_held(client)[pipeline].id)


def _held(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    found = client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=[vit_pipeline.name])), limit=200)
    return {one.name: one for one in found}


def _wanted(made: RunnerDeployment) -> dict[str, Any]:
    options = made.concurrency_options
    return {
        "description": made.description,
        "parameters": made.parameters,
        "tags": sorted(made.tags or ()),
        "concurrency": (made.concurrency_limit, options.collision_strategy.value if options else None),
        "schedules": sorted(_cron(one.schedule) for one in made.schedules or ()),
        "work pool": made.work_pool_name,
        "entrypoint": made.entrypoint,
        "form": made._parameter_openapi_schema.model_dump(mode="json", exclude_unset=True),  # pyright: ignore[reportPrivateUsage]
    }


def _there(held: DeploymentResponse) -> dict[str, Any]:
    limit, options = held.global_concurrency_limit, held.concurrency_options
    return {
        "description": held.description,
        "parameters": held.parameters,
        "tags": sorted(held.tags),
        "concurrency": (limit.limit if limit else None, options.collision_strategy.value if options else None),
        "schedules": sorted(_cron(one.schedule) for one in held.schedules if one.active),
        "work pool": held.work_pool_name,
        "entrypoint": held.entrypoint,
        "form": held.parameter_openapi_schema,
    }


def _cron(schedule: Any) -> tuple[str, str]:
    """What people of another kind of schedule made counts as a difference."""
    return (str(getattr(schedule, "cron", schedule)), str(getattr(schedule, "timezone", None)))


def _ensure_pool(client: SyncPrefectClient, name: str) -> None:
    """A pool of local processes, unless there is one of any type by this name."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def _drop_schedules(client: SyncPrefectClient, made: RunnerDeployment) -> None:
    """Take away schedules that pipelines.yaml does not have: Prefect's update leaves them where none is wanted."""
    wanted = {_cron(one.schedule) for one in made.schedules or ()}
    held = _held(client)[made.name]
    for one in held.schedules:
        if _cron(one.schedule) not in wanted:
            client.delete_deployment_schedule(held.id, one.id)


def _outlive_outages() -> None:
    """Keep polling while Prefect's server is away: its runner (3.8) gives up after three times.

    It would end with its runs or, its websocket being cut, never again hear of a run that is to be cancelled.
    """
    for module in (observers, _scheduled_run_poller):
        assert module.critical_service_loop is critical_service_loop
        vars(module)["critical_service_loop"] = functools.partial(critical_service_loop, consecutive=FAILED_POLLS)


def _serve() -> None:
    """Offer all pipelines from this process until it is stopped."""
    _outlive_outages()
    offered = [deployment(name) for name in names()]
    with get_client(sync_client=True) as client:
        held = _held(client)
        for made in offered:
            if made.name in held:
                _drop_schedules(client, made)
    serve(*offered, pause_on_shutdown=False)


if __name__ == "__main__":
    _serve()
