"""Whether what prepare reads is there, without reading it: for a forecast, before anything is started.

Archives are looked for by name and not opened, so that they are the published ones is seen only by prepare.
"""

import dataclasses
from pathlib import Path
from typing import Any

from flows.adapters import storage
from flows.stages import corpora, tasks
from flows.stages.prepare import PrepareConfig
from vit.data import datasets
from vit.data.datasets.download import need


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """One place that prepare reads."""

    source: str
    location: str | None
    missing: str  # a sentence, empty if it is there
    number: int | None = None  # of the tasks: how many have data


def describe(config: PrepareConfig) -> dict[str, dict[str, Any]]:
    """What is at the places of corpus, downstream images and tasks, by those names."""
    found = {"corpus": _images(config.source, config.location)}
    if config.downstream is not None:
        found["downstream"] = _images(config.downstream.source, config.downstream.location)
    found["tasks"] = _tasks(config.tasks)
    return {name: dataclasses.asdict(one) for name, one in found.items()}


def _images(source: str, location: str | None) -> Found:
    if source == "mini" or location is None:
        return Found(source=source, location=None, missing="")
    where = corpora.absolute(location)
    problem = storage.problem(where)
    if not problem and source.startswith(corpora.DATASET):
        problem = _archives(source.removeprefix(corpora.DATASET), Path(where))
    return Found(source=source, location=location, missing=problem)


def _archives(name: str, directory: Path) -> str:
    for archive in datasets.published(name):
        try:
            need(directory, archive)
        except ValueError as error:
            return str(error)
    return ""


def _tasks(location: str | None) -> Found:
    if location is None:
        return Found(source="mini-VTAB", location=None, missing="", number=len(tasks.mini_vtab.TASKS))
    place = Path(location).expanduser().absolute()
    names = tasks.present(place)
    all_of_them = len(tasks.vtab.TASKS)
    missing = ""
    if not names:
        missing = f"{location} has no data of VTAB's tasks (docs/data.md says what is looked for); put them there, or "
        missing += "set prepare.tasks to null for mini-VTAB"
    elif len(names) < all_of_them:
        lost = ", ".join(name for name in tasks.vtab.TASKS if name not in names)
        missing = (
            f"{location} has the data of {len(names)} of VTAB's {all_of_them} tasks; without {lost} its scores do "
        )
        missing += "not compare with the paper's"
    return Found(source="VTAB-1k", location=location, missing=missing, number=len(names) or all_of_them)
