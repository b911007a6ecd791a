"""`vitflow models`: the registry in the terminal or as JSON."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from flows.adapters import mlflow_registry
from flows.adapters.mlflow_registry import Version
from flows.adapters.mlflow_runs import check
from flows.report import Row
from flows.reproduce import Outcome
from flows.terminal import console, print_rows

SHOWN_SCORES = ("pretrain/val/top1", "finetune/val/top1", "vtab/natural", "vtab/specialized", "vtab/structured")


def show(name: str | None, *, as_json: bool) -> None:
    """Print the versions of a model, or of all. Raises UnknownModel with the nearest name, ServiceDown."""
    check(os.environ["MLFLOW_TRACKING_URI"])
    found = [
        version
        for model in ([name] if name else mlflow_registry.names())
        for version in mlflow_registry.versions(model)
    ]
    if as_json:
        print(json.dumps([dataclasses.asdict(version) for version in found], indent=2, sort_keys=True))
    elif found:
        console.print(_table(found))
    else:
        console.print("no model is registered yet; `vitflow run mini` makes one")


def print_facts(found: Mapping[str, Mapping[str, Any]]) -> None:
    """A table for each section that says something."""
    for section, values in found.items():
        said = [Row(what=name, value=escape(_text(value))) for name, value in values.items() if value not in (None, [])]
        if said:
            print_rows(section, said)


def print_differences(one: Version, other: Version, found: Mapping[str, Mapping[str, tuple[Any, Any]]]) -> None:
    """Side by side, with the step from one to the other where both are numbers."""
    if not found:
        console.print(f"{one.uri} and {other.uri} are the same in everything that the registry knows")
        return
    for section, values in found.items():
        table = Table(title=section, title_justify="left")
        for column in ("", one.uri, other.uri, "change"):
            table.add_column(column, overflow="fold")
        for name, (left, right) in values.items():
            numbers = all(type(value) in (int, float) for value in (left, right))
            table.add_row(name, escape(_text(left)), escape(_text(right)), f"{right - left:+.4g}" if numbers else "")
        console.print(table)


def print_outcome(outcome: Outcome) -> None:
    """Whether a version could be made again, and what differs."""
    if outcome.is_same:
        console.print(f"{outcome.uri}: made again in {outcome.checkout}, the same bits", soft_wrap=True)
    else:
        difference = f"weights differ by up to {outcome.max_difference:.3g}"
        console.print(f"{outcome.uri}: made again in {outcome.checkout}, not the same: {difference}", soft_wrap=True)
    for title, values in (("scores that differ", outcome.scores), ("software that differs", outcome.software)):
        if values:
            said = {name: f"{_text(before)} → {_text(now)}" for name, (before, now) in values.items()}
            print_rows(title, [Row(what=name, value=escape(text)) for name, text in said.items()])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else "–" if value is None else str(value)


def _table(found: list[Version]) -> Table:
    table = Table()
    for column in ("model", "aliases", "pre / fine, top-1", "natural / spec. / struct.", "commit", "config", "created"):
        table.add_column(column)
    for version in found:
        scores = [f"{100 * version.scores[name]:.1f}" if name in version.scores else "–" for name in SHOWN_SCORES]
        commit = version.tags.get("git.commit", "")[:10] + ("+" if version.tags.get("git.dirty") == "true" else "")
        table.add_row(
            version.uri,
            ", ".join(version.aliases),
            " / ".join(scores[:2]),
            " / ".join(scores[2:]),
            commit,
            version.tags.get("config.sha256", "")[:10],
            version.created[:16].replace("T", " "),
        )
    return table
