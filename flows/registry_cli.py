"""`vitflow models show | diff | promote | rollback | export | reproduce`: the registry for people. Parses and calls."""

import dataclasses
import enum
import getpass
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.zoo import Json, models

if TYPE_CHECKING:
    from flows.adapters.mlflow_registry import Version

Uri = Annotated[str, typer.Argument(help="models:/NAME/VERSION, NAME/VERSION or NAME@ALIAS; a name is its champion.")]
Why = Annotated[str, typer.Option("--why", help="Kept on the version for those who come after.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides.", show_default="the user of this process")]


class Exported(enum.StrEnum):
    """What `models export` writes the weights as."""

    NATIVE = "native"
    TIMM = "timm"
    HF = "hf"
    NPZ = "npz"
    ONNX = "onnx"


@models.command()
def show(uri: Uri, as_json: Json = False) -> None:
    """Say all that is known of a version: scores, data, commit, config, seeds, software, hardware, cost."""
    from flows import registry_facts, registry_view

    found = registry_facts.facts(_version(uri))
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        registry_view.print_facts(found)


@models.command()
def diff(one: Uri, other: Uri, as_json: Json = False) -> None:
    """Say what differs between two versions in any of that."""
    from flows import registry_facts, registry_view

    left, right = _version(one), _version(other)
    found = registry_facts.differences(left, right)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        registry_view.print_differences(left, right, found)


@models.command()
def promote(uri: Uri, why: Why, who: By = None) -> None:
    """Make a version champion by hand, whatever the gate said."""
    from flows.adapters import mlflow_gate
    from flows.terminal import console

    version = _version(uri)
    decision = mlflow_gate.appoint(version.name, version.version, who=who or getpass.getuser(), why=why)
    console.print(decision.sentence, highlight=False, markup=False, soft_wrap=True)


@models.command()
def rollback(
    name: Annotated[str, typer.Argument(help="A registered model.")], why: Why = "no reason given", who: By = None
) -> None:
    """Make the champion before this one champion again; twice undoes it."""
    from flows.adapters import mlflow_gate
    from flows.adapters.mlflow_store import check, tracking_uri
    from flows.terminal import console

    check(tracking_uri())
    decision = mlflow_gate.roll_back(name, who=who or getpass.getuser(), why=why)
    console.print(decision.sentence, highlight=False, markup=False, soft_wrap=True)


@models.command()
def export(
    uri: Uri,
    out: Annotated[Path, typer.Argument(help="A directory that does not exist yet.")],
    to: Annotated[Exported, typer.Option("--to", help="The format of the weights.")] = Exported.NATIVE,
) -> None:
    """Write a version's weights, model card and lineage into a directory that needs no registry."""
    from flows import registry_export
    from flows.terminal import console

    for line in registry_export.export(_version(uri), out, to.value):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@models.command()
def reproduce(
    uri: Uri,
    into: Annotated[Path, typer.Option("--into", help="A directory that does not exist yet.")],
    as_json: Json = False,
) -> None:
    """Make a version again from its commit and config in a clean clone; say whether its weights are the same bits."""
    from flows import registry_view, reproduce
    from flows.stages.config import root

    outcome = reproduce.reproduce(_version(uri), root(), into)
    if as_json:
        print(json.dumps(dataclasses.asdict(outcome), indent=2))
    else:
        registry_view.print_outcome(outcome)
    if not outcome.is_same:
        raise typer.Exit(1)


def _version(uri: str) -> "Version":
    from flows.adapters import mlflow_registry
    from flows.adapters.mlflow_store import check

    check(os.environ["MLFLOW_TRACKING_URI"])
    return mlflow_registry.version(uri)
