"""`vitflow deploy`: what differs between pipelines.yaml and the Prefect server, shown or put right."""

import os
from collections.abc import Sequence

import typer

from flows.report import Row
from flows.stages.config import ConfigError, load, names
from flows.terminal import console, print_rows


def deploy(pipelines: Sequence[str], pool: str | None, *, check: bool, yes: bool) -> int:
    """Exit code: 0 if the server holds what pipelines.yaml says, 1 if `check` finds otherwise.

    Raises ConfigError without a server or for an unknown pipeline, ConnectionError if the server does not answer.
    """
    if "PREFECT_API_URL" not in os.environ:
        raise ConfigError("set PREFECT_API_URL to the Prefect server to deploy to (or start one: vitflow up)")
    for name in pipelines:
        load(name)
    import httpx

    from flows import deploy as deployments

    try:
        found = deployments.drift(pipelines or names(), pool)
        differing = [one for one in found if one.state != deployments.SAME]
        rows = [Row(what=one.pipeline, value=one.state, note=", ".join(one.fields)) for one in differing]
        if rows:
            print_rows("differs from pipelines.yaml" if check else "deploying", rows)
        console.print(f"{len(found) - len(differing)} of {len(found)} deployments are as pipelines.yaml says")
        if check:
            return 1 if differing else 0
        deployments.apply(differing, pool)
        for one in differing:
            gone = f"{one.pipeline} is on the server, but not in pipelines.yaml; remove its deployment?"
            if one.state == "unknown" and (yes or typer.confirm(gone)):
                deployments.remove(one.pipeline)
    except httpx.ConnectError as error:
        raise ConnectionError(f"the Prefect server at {os.environ['PREFECT_API_URL']} does not answer") from error
    return 0
