"""The tasks that a model is judged by: mini-VTAB, drawn here, or VTAB-1k from the data that a directory holds."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flows.stages import output
from flows.stages.suite import AS_IS, TRANSFERRED
from vit.data import datasets, shards
from vit.data.datasets import download, hf_vtab, noah, vtab
from vit.data.record import Source
from vit.data.synthetic import mini_vtab
from vit.data.writing import Map, write_source

LIST = "tasks.json"
# Benchmarks that a model fine-tuned on ImageNet answers as it is, and which of their splits is the test.
TESTS = {
    "imagenet2012": "val",
    "imagenet-real": "test",
    "imagenet-v2": "test",
    "imagenet-v2-threshold0.7": "test",
    "imagenet-v2-top-images": "test",
}
BENCHMARKS = (*TESTS, "cifar10", "cifar100", "oxford-iiit-pets", "oxford-flowers102")
MIXED = "mixed"  # families of data that must not be compared, in one suite
logger = logging.getLogger("vitflow.prepare")


def write(directory: Path, location: str | None, *, map: Map, benchmarks: Sequence[str] = ()) -> None:
    """A set of shards for each task and benchmark, and their list; mini-VTAB if `location` is None.

    Else `location` holds the folders that NOAH's script writes, or the archives of VTAB's data sets, together or in
    folders named after them, or the folders of the webdataset version (`wds_vtab-NAME`): the first of these that is
    there makes the suite, so that it is of one family. Tasks without data are left out with a warning. Raises
    ValueError if there are none, or if the data of one are not what was published.
    """
    if location is None:
        write_mini(directory)
        return
    listed = [_write_benchmark(directory.absolute() / name, name, Path(location), map) for name in benchmarks]
    for source in _sources(Path(location).expanduser().absolute()):
        task = vtab.named(source.name.removesuffix("-noncanonical"))
        # A test set is whole or no test set; nothing is cut, so the fraction is never used.
        write_source(
            directory.absolute() / task.name, source, name=task.name, max_reject_share=0, val_fraction=0.5, map=map
        )
        row = {"name": task.name, "group": task.group, "num_classes": task.num_classes}
        listed.append(row | {"family": source.family, "source": source.name})
    if len(listed) == len(benchmarks):
        raise ValueError(
            f"{location} has neither archives of VTAB's data sets nor NOAH's folders nor those of the hub; "
            "see docs/data.md"
        )
    missing = [name for name in vtab.TASKS if name not in {task["name"] for task in listed}]
    if missing:
        logger.warning("%s has no data for %d of VTAB's tasks: %s", location, len(missing), ", ".join(missing))
    families = {task["family"] for task in listed[len(benchmarks) :]}
    _write_list(directory, families.pop() if len(families) == 1 else MIXED, listed)


def write_mini(directory: Path) -> dict[str, list[shards.Example]]:
    """The ten tasks of mini-VTAB and their list; returns the test examples by task."""
    tests = {task.name: mini_vtab.write(task, directory / task.name) for task in mini_vtab.TASKS}
    listed = [
        {"name": task.name, "group": task.group, "num_classes": task.num_classes, "family": mini_vtab.FAMILY}
        for task in mini_vtab.TASKS
    ]
    _write_list(directory, mini_vtab.FAMILY, listed)
    return tests


def _write_benchmark(directory: Path, name: str, location: Path, map: Map) -> dict[str, Any]:
    """A data set of Table 2 with the part of train that the paper chooses on as `val`; ImageNet's have `test` alone."""
    place = location.expanduser().absolute()
    place = place / name if (place / name).is_dir() else place
    as_is = name in TESTS
    source = datasets.load(name, place, splits=(TESTS[name],)) if as_is else datasets.load(name + datasets.DEV, place)
    records = (dataclasses.replace(one, split="test") if as_is else one for one in source.records)
    source = dataclasses.replace(source, records=records)
    write_source(directory, source, name=name, max_reject_share=0, val_fraction=0.5, map=map)
    row = {"name": name, "group": AS_IS if as_is else TRANSFERRED, "num_classes": len(source.class_names)}
    return row | {"family": source.family, "source": source.name}


def _sources(place: Path) -> Iterator[Source]:
    """VTAB-1k's splits of the tasks whose data are there."""
    if not place.is_dir():
        raise ValueError(f"{place} is no directory; `tasks` must name one with VTAB's data, or be null")
    if names := noah.tasks(place):
        yield from (noah.noah(place, name) for name in names)
        return
    archived = _archived(place)
    for name in archived:
        yield datasets.load(f"vtab/{name}", place, splits=vtab.SPLITS)
    for name in () if archived else hf_vtab.tasks(place):
        yield hf_vtab.hf_vtab(place, name, splits=vtab.SPLITS)


def present(place: Path) -> list[str]:
    """Names of the tasks that a directory has data of, by the first kind that is found there; nothing is read."""
    return (noah.tasks(place) or _archived(place) or hf_vtab.tasks(place)) if place.is_dir() else []


def _archived(place: Path) -> list[str]:
    return [
        task.name
        for task in vtab.TASKS.values()
        if any(download.present(below, one) for one in task.archives for below in (place, place / task.folder))
    ]


def _write_list(directory: Path, family: str, listed: list[dict[str, Any]]) -> None:
    output.write_json(directory / LIST, {"family": family, "tasks": listed})
