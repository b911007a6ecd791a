"""Someone's images, wherever they lie and however they are labelled, as a Source; one row for each way."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

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


def open_source(kind: str, location: str, *, columns: Columns = USUAL, classes: str | None = None) -> Source:
    """The images at `location`, which is of a `kind` in SOURCES or `dataset:NAME`; `classes` is a file of class names.

    Raises ValueError saying what is missing or wrong there.
    """
    location = absolute(location)
    if kind.startswith(DATASET):
        name = kind.removeprefix(DATASET)
        return datasets.load(name, Path(location), splits=PARTS if name.startswith(datasets.VTAB) else ())
    class_names: Sequence[str] = ()
    if classes is not None:
        place, _, name = absolute(classes).rpartition("/")
        class_names = read_class_names(storage.open(place), name)
    return SOURCES[kind](location, columns, class_names)


def absolute(location: str) -> str:
    """The same place for every process, wherever that was started."""
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
