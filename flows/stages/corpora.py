"""Someone's images, wherever they lie and however they are labelled, as a Source; one row for each way."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flows.adapters import storage
from vit.data import datasets
from vit.data.index import MANIFEST
from vit.data.record import Source
from vit.data.sources.folder import folder
from vit.data.sources.huggingface import huggingface
from vit.data.sources.labels import Columns, read_class_names
from vit.data.sources.table import SEPARATORS, table
from vit.data.sources.webdataset import webdataset

DATASET = "dataset:"  # and a name of vit.data.datasets
OPTIONAL = ("dataset:imagenet21k-fall11", "dataset:imagenet21k-winter21")  # take a class list, num_val and merge
PARTS = ("train", "val", "test")  # what VTAB calls its whole splits
USUAL = Columns(image=None, label=None, split=None, separator=None)
Open = Callable[[str, Columns, Sequence[str]], Source]


def _folder(location: str, _columns: Columns, _class_names: Sequence[str]) -> Source:
    return folder(storage.open(location))


def _table(location: str, columns: Columns, class_names: Sequence[str]) -> Source:
    place, _, name = location.rpartition("/")
    return table(storage.open(place), name, columns=columns, class_names=class_names, open_store=storage.open)


def _webdataset(location: str, _columns: Columns, class_names: Sequence[str]) -> Source:
    return webdataset(storage.open(location), class_names=class_names)


def _huggingface(location: str, columns: Columns, class_names: Sequence[str]) -> Source:
    return huggingface(storage.open(location), columns=columns, class_names=class_names)


SOURCES: Mapping[str, Open] = MappingProxyType(
    {"folder": _folder, "table": _table, "webdataset": _webdataset, "huggingface": _huggingface}
)


def open_source(
    kind: str,
    location: str,
    *,
    columns: Columns = USUAL,
    classes: str | None = None,
    num_val: int = 0,
    merge: bool = False,
) -> Source:
    """The images at `location`, which is of a `kind` in SOURCES or `dataset:NAME`; `classes` is a file of class names.

    Raises ValueError saying what is missing or wrong there.
    """
    check_options(kind, classes=classes, num_val=num_val, merge=merge)
    location = absolute(location)
    if kind.startswith(DATASET):
        name = kind.removeprefix(DATASET)
        options: dict[str, Any] = {"num_val": num_val, "merge": merge} if kind in OPTIONAL else {}
        if classes is not None:
            options["class_list"] = _local(classes)
        return datasets.load(name, Path(location), splits=PARTS if name.startswith(datasets.VTAB) else (), **options)
    class_names: Sequence[str] = ()
    if classes is not None:
        place, _, name = absolute(classes).rpartition("/")
        class_names = read_class_names(storage.open(place), name)
    return SOURCES[kind](location, columns, class_names)


def check_kind(kind: str, *others: str) -> str:
    """The kind itself; raises ValueError with the nearest if it is neither in SOURCES, `others` nor a data set."""
    known = datasets.names() if kind.startswith(DATASET) else [*others, *SOURCES]
    name = kind.removeprefix(DATASET)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"source {kind!r} is unknown; {meant}known are {', '.join([*others, *SOURCES])} and {DATASET}NAME with "
            "NAME of `vitflow data list`"
        )
    return kind


def check_options(kind: str, *, classes: str | None, num_val: int, merge: bool) -> None:
    """Raises ValueError for what images of this kind have no use for."""
    takers = " and ".join(OPTIONAL)
    if num_val < 0:
        raise ValueError(f"num_val is {num_val}; it must be a number of images, or 0")
    if num_val and kind not in OPTIONAL:
        raise ValueError(f"num_val is for {takers}; source {kind} is cut by val_fraction, so set it to 0")
    if merge and kind not in OPTIONAL:
        raise ValueError(f"merge is for {takers}, whose images lie in several classes; for source {kind} it is false")
    if classes is not None and kind.startswith(DATASET) and kind not in OPTIONAL:
        raise ValueError(f"classes is {classes}, but {kind} has its own class names; set it to null")


def _local(address: str) -> Path:
    place, _, name = absolute(address).rpartition("/")
    try:
        return storage.open(place).local(name)
    except FileNotFoundError as error:
        raise ValueError(f"classes is {address}, which does not exist") from error


def absolute(location: str) -> str:
    """The same place for every process, wherever that was started; an address that lost a slash has it again."""
    if location.startswith("s3:"):
        return "s3://" + location.removeprefix("s3:").lstrip("/")
    return location if "://" in location else str(Path(location).expanduser().absolute())


def guess(location: str) -> str:
    """The kind of what lies at `location`, by the names of its files; `shards` and `prepared` are ours."""
    if Path(location).suffix in (*SEPARATORS, ".parquet"):
        return "table"
    try:
        names = storage.open(location).names()
    except FileNotFoundError as error:
        raise ValueError(f"there is nothing at {location}: {error}") from error
    if MANIFEST in names:
        return "shards"
    if f"corpus/{MANIFEST}" in names:
        return "prepared"
    for ending, kind in ((".tar", "webdataset"), (".parquet", "huggingface")):
        if any(name.endswith(ending) for name in names):
            return kind
    return "folder"
