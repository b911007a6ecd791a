"""One on-disk format for labelled images: webdataset-compatible tar shards, a parquet index, a manifest.

`NAME-00000.tar` holds for each image `KEY.EXT` (its encoded bytes), `KEY.cls` (its label as text) and, if it has
several, `KEY.json` (`{"labels": [...]}`), so webdataset, timm and Ray Data read it unchanged. The index
(vit.data.index) gives O(1) random access by offset. The same examples give the same bytes.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from vit.data import tars
from vit.data.index import COLUMNS, INDEX, MANIFEST, UNLABELLED, BadShard, read_index, read_manifest
from vit.data.index import Writer as IndexWriter
from vit.data.pictures import UnreadableImage, decode, encode_png
from vit.data.store import LocalStore, Store, as_store
from vit.typing import Ints, Pixels

__all__ = [
    "INDEX",
    "MANIFEST",
    "BadShard",
    "Example",
    "Shards",
    "UnreadableImage",
    "decode",
    "encode_png",
    "png_example",
    "write",
]

_READ_OFTEN = ["split", "label", "shard", "offset", "length"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One labelled image, still encoded."""

    key: str  # unique in the directory, no dots (webdataset splits names at the first dot)
    split: str
    labels: tuple[int, ...]  # several if multi-label, none if unlabelled
    image: bytes
    ext: str  # png, jpg, …
    width: int
    height: int

    @property
    def label(self) -> int:
        """The first label."""
        return self.labels[0] if self.labels else UNLABELLED


def png_example(key: str, split: str, label: int, pixels: Pixels) -> Example:
    """An Example from uint8 pixels [H, W, 3]."""
    (height, width), image = pixels.shape[:2], encode_png(pixels)
    return Example(key=key, split=split, labels=(label,), image=image, ext="png", width=width, height=height)


def write(
    directory: Path, examples: Iterable[Example], *, name: str, class_names: list[str], shard_bytes: int = 256_000_000
) -> None:
    """Write shards, index and manifest into `directory`, starting a new shard at `shard_bytes`.

    Raises ValueError for a duplicate key, a key with a dot or a slash, or a label without a class name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    index = IndexWriter(directory, class_names)
    rows: list[dict[str, Any]] = []
    keys: set[str] = set()
    shards: dict[str, tars.Described] = {}
    tar = None
    for example in examples:
        _check(example, len(class_names), keys)
        if tar is not None and tar.size >= shard_bytes:
            shards[tar.path.name] = tar.close()
            tar = None
        tar = tar or tars.Writer(directory / f"{name}-{len(shards):05d}.tar")
        offset = tar.add(example.key, example.ext, example.image, example.labels)
        rows.append(_row(example) | {"shard": tar.path.name, "offset": offset})
    if tar is not None:
        shards[tar.path.name] = tar.close()
    index.add(pa.Table.from_pylist(rows, schema=COLUMNS))
    index.finish({}, shards=shards)


class Shards:
    """Random access to the images of a directory written by `write`, or to the part that another index names.

    Cheap to pickle, without open files; may be shared by threads.
    """

    def __init__(
        self,
        directory: Path | Store,
        index: Path | None = None,
        *,
        splits: tuple[str, ...] = (),
        open_store: Callable[[str], Store] | None = None,
    ) -> None:
        """All rows, or those of `splits` in that order; raises BadShard if manifest, index or a shard is missing.

        `open_store` opens the manifest's `location` where that is no local path.
        """
        self.home = as_store(directory)
        self._index, self._splits = index, splits
        manifest = read_manifest(self.home)
        self.class_names: list[str] = manifest["class_names"]
        self.multi_label = bool(manifest.get("multi_label"))
        self.listed = bool(manifest.get("listed"))  # some classes may have no image
        self.digest: str = manifest["digest"]
        self.store = shard_store(self.home, open_store)
        if manifest["shards"]:
            self.store.expect({name: shard["sha256"] for name, shard in manifest["shards"].items()})
        table = self._columns(_READ_OFTEN)
        self.labels: Ints = table["label"].to_numpy().astype(np.int64)  # the first of each image
        self._offsets, self._lengths = table["offset"].to_numpy(), table["length"].to_numpy()
        shards = table["shard"].combine_chunks().dictionary_encode()
        self.shard_names: list[str] = shards.dictionary.to_pylist()
        self.shard_numbers: Ints = shards.indices.to_numpy()  # of each row, into shard_names
        missing = sorted(set(self.shard_names) - _existing(self.store)) if self.shard_names else []
        if missing:
            raise BadShard(f"{self.store.uri}/{missing[0]} is missing, but the index names it")
        if isinstance(self.store, LocalStore):
            _check_sizes(self.store, {name: manifest["shards"].get(name) for name in self.shard_names})

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def table(self) -> pa.Table:
        """All columns of the index, loaded when first asked for."""
        return self._columns(None)

    @functools.cached_property
    def keys(self) -> list[str]:
        return self._columns(["split", "key"])["key"].to_pylist()

    @functools.cached_property
    def label_sets(self) -> list[tuple[int, ...]]:
        """All labels of each image."""
        return [tuple(labels) for labels in self._columns(["split", "labels"])["labels"].to_pylist()]

    @property
    def shard_sizes(self) -> Ints:
        """How many consecutive rows lie in one shard, int64 [runs]: what a streaming order permutes."""
        starts = np.flatnonzero(np.diff(self.shard_numbers, prepend=-1))
        return np.diff(starts, append=len(self))

    @property
    def uri(self) -> str:
        """Where index and manifest are."""
        return self.home.uri

    def shard_of(self, row: int) -> str:
        """Name of the shard that holds a row."""
        return self.shard_names[int(self.shard_numbers[row])]

    def prefetch(self, rows: Iterable[int]) -> None:
        """Hint that these rows will be read soon, in this order."""
        self.store.prefetch(list(dict.fromkeys(self.shard_of(row) for row in rows)))

    def read(self, row: int, *, verify: bool | None = None) -> bytes:
        """The encoded image of a row. Its SHA-256 is compared if `verify`, by default if the shards are remote.

        Raises BadShard naming shard and key if the bytes are not those of the index.
        """
        data = self._bytes(row)
        wanted = not isinstance(self.store, LocalStore) if verify is None else verify
        if wanted and hashlib.sha256(data).hexdigest() != self._sha256s[row].as_py():
            raise BadShard(
                f"{self.store.uri}/{self.shard_of(row)}: image {self.keys[row]} is damaged (its SHA-256 differs); "
                "get the shard again, or empty the cache if it is remote"
            )
        return data

    def content(self, row: int, *, verify: bool | None = None) -> bytes | Pixels:
        """What views are made from: the encoded image, or its pixels, uint8 [H, W, 3], where those are at hand."""
        return self.read(row, verify=verify)

    def place(self, row: int) -> tuple[str, int]:
        """Shard and offset of a row's image."""
        return self.shard_of(row), int(self._offsets[row])

    def image(self, row: int) -> Image.Image:
        """The decoded RGB image of a row; raises UnreadableImage naming its key."""
        try:
            return decode(self.read(row))
        except UnreadableImage as error:
            where = f"{self.store.uri}/{self.shard_of(row)}"
            raise UnreadableImage(f"image {self.keys[row]} in {where}: {error}") from error

    @functools.cached_property
    def _sha256s(self) -> Any:
        return self._columns(["split", "sha256"])["sha256"]

    def _bytes(self, row: int) -> bytes:
        shard = self.shard_of(row)
        try:
            data = self.store.read(shard, int(self._offsets[row]), int(self._lengths[row]))
        except FileNotFoundError as error:
            raise BadShard(f"{self.store.uri}/{shard} with image {self.keys[row]} has vanished") from error
        if len(data) != self._lengths[row]:
            raise BadShard(f"{self.store.uri}/{shard} ends before image {self.keys[row]}: the shard is truncated")
        return data

    def _columns(self, names: list[str] | None) -> pa.Table:
        table = pq.read_table(self._index, columns=names) if self._index else read_index(self.home, names)
        if self._splits:
            table = pa.concat_tables([table.filter(pc.field("split") == split) for split in self._splits])
        return table

    def __getstate__(self) -> dict[str, object]:
        lazy = ("table", "keys", "label_sets", "_sha256s")
        return {name: value for name, value in self.__dict__.items() if name not in lazy}


def _existing(store: Store) -> set[str]:
    try:
        return set(store.names(".tar"))
    except FileNotFoundError:
        return set()


def _check_sizes(store: LocalStore, written: Mapping[str, Any]) -> None:
    """Raises BadShard for a shard that is not as long as its manifest says, as far as that says anything."""
    for name, shard in written.items():
        size = store.size(name)
        if shard is not None and size != shard["bytes"]:
            raise BadShard(
                f"{store.uri}/{name} has {size} bytes, but {MANIFEST} says {shard['bytes']}: it is truncated, or not "
                "the one that the index describes; restore it, or prepare the images again"
            )


def shard_store(home: Store, open_store: Callable[[str], Store] | None) -> Store:
    """Where the shards are that the manifest in `home` describes; `open_store` opens what is no local path."""
    location: str | None = read_manifest(home)["location"]
    if location is None:
        return home
    if open_store is not None:
        return open_store(location)
    if "://" in location:
        raise BadShard(f"the shards of {home.uri} lie at {location}: pass open_store, see flows.adapters.storage.open")
    return LocalStore(Path(location))


def _check(example: Example, num_classes: int, keys: set[str]) -> None:
    if example.key in keys:
        raise ValueError(f"key {example.key} appears more than once")
    keys.add(example.key)
    if "." in example.key or "/" in example.key:
        raise ValueError(f"key {example.key!r} must not contain dots or slashes: webdataset splits names there")
    for label in example.labels:
        if not 0 <= label < num_classes:
            raise ValueError(f"image {example.key} has label {label}, but there are {num_classes} class names")


def _row(example: Example) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(example, name) for name in ("key", "split", "label", "ext", "width", "height")}
    row |= {"labels": list(example.labels), "length": len(example.image), "sha256": _sha256(example.image)}
    return row | {"source_key": example.key, "notes": ""}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
