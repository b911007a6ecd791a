"""One on-disk format for labelled images: webdataset-compatible tar shards, a parquet index, a manifest.

`NAME-00000.tar` holds for each example `KEY.EXT` (the encoded image) and `KEY.cls` (its label as text), so
webdataset, timm and Ray Data read it unchanged. `index.parquet` has one row per image (COLUMNS), which gives
O(1) random access by offset. `manifest.json` holds the schema version, class names, counts and a digest.
The same examples give the same bytes.
"""

import dataclasses
import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from vit.typing import Ints, Pixels

SCHEMA_VERSION = 1
INDEX, MANIFEST = "index.parquet", "manifest.json"
COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("shard", pa.string()),
        ("offset", pa.int64()),  # bytes from the start of the shard to the encoded image
        ("length", pa.int64()),  # bytes
        ("ext", pa.string()),
        ("sha256", pa.string()),  # of the encoded image
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


class BadShard(ValueError):
    """A shard is missing, or its bytes are not those that the index describes."""


class UnreadableImage(ValueError):
    """Bytes that no decoder accepts as an image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One labelled image, still encoded."""

    key: str  # unique in the directory, no dots (webdataset splits names at the first dot)
    split: str
    label: int
    image: bytes
    ext: str  # png, jpg, …
    width: int
    height: int


def write(
    directory: Path, examples: Iterable[Example], *, name: str, class_names: list[str], shard_bytes: int = 256_000_000
) -> None:
    """Write shards, index and manifest into `directory`, starting a new shard at `shard_bytes`.

    Raises ValueError for a duplicate key, a key with a dot or a slash, or a label without a class name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    shard, tar = "", None
    for example in examples:
        _check(example, len(class_names))
        if tar is None or tar.offset >= shard_bytes:
            if tar is not None:
                tar.close()
            shard = f"{name}-{len({row['shard'] for row in rows}):05d}.tar"
            tar = tarfile.open(directory / shard, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        offset = _add(tar, f"{example.key}.{example.ext}", example.image)
        _add(tar, f"{example.key}.cls", str(example.label).encode())
        row = {field: getattr(example, field) for field in ("key", "split", "label", "ext", "width", "height")}
        rows.append(
            row | {"shard": shard, "offset": offset, "length": len(example.image), "sha256": _sha256(example.image)}
        )
    if tar is not None:
        tar.close()
    _write_index(directory, rows, class_names)


class Shards:
    """Random access to the images of a directory written by `write`, or to the part that another index names.

    Cheap to pickle: file descriptors are opened on first use in each process.
    """

    def __init__(self, directory: Path, index: Path | None = None, *, splits: tuple[str, ...] = ()) -> None:
        """All rows, or those of `splits` in that order; raises BadShard if manifest, index or a shard is missing."""
        self.directory = directory
        for path in (directory / MANIFEST, index or directory / INDEX):
            if not path.is_file():
                raise BadShard(f"{path} is missing: {directory} is no complete set of shards")
        self.class_names: list[str] = json.loads((directory / MANIFEST).read_text())["class_names"]
        table = pq.read_table(index or directory / INDEX)
        if splits:
            table = pa.concat_tables([table.filter(pc.field("split") == split) for split in splits])
        self.table = table
        self.keys: list[str] = table["key"].to_pylist()
        self.labels: Ints = table["label"].to_numpy().astype(np.int64)
        self._offsets, self._lengths = table["offset"].to_numpy(), table["length"].to_numpy()
        self._shards: list[str] = table["shard"].to_pylist()
        for shard in sorted(set(self._shards)):
            if not (directory / shard).is_file():
                raise BadShard(f"{directory / shard} is missing, but the index names it")

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, row: int) -> bytes:
        """The encoded image of a row; raises BadShard if the shard is shorter than the index says."""
        descriptor = self._descriptor(self._shards[row])
        data = os.pread(descriptor, int(self._lengths[row]), int(self._offsets[row]))
        if len(data) != self._lengths[row]:
            raise BadShard(
                f"{self.directory / self._shards[row]} ends before image {self.keys[row]}: the shard is truncated"
            )
        return data

    def image(self, row: int) -> Image.Image:
        """The decoded RGB image of a row; raises UnreadableImage naming its key."""
        try:
            return decode(self.read(row))
        except UnreadableImage as error:
            raise UnreadableImage(f"image {self.keys[row]} in {self.directory / self._shards[row]}: {error}") from error

    def _descriptor(self, shard: str) -> int:
        if shard not in self._descriptors:
            self._descriptors[shard] = os.open(self.directory / shard, os.O_RDONLY)
        return self._descriptors[shard]

    @cached_property
    def _descriptors(self) -> dict[str, int]:
        return {}

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_descriptors"}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)


def decode(data: bytes) -> Image.Image:
    """Decode an image to RGB; raises UnreadableImage with the decoder's reason."""
    try:
        image = Image.open(io.BytesIO(data))
        return image.convert("RGB")
    except Image.UnidentifiedImageError as error:  # its text holds a memory address, which differs in every run
        raise UnreadableImage("cannot be decoded (no known image format)") from error
    except Exception as error:  # on damaged bytes a decoder may raise anything
        raise UnreadableImage(f"cannot be decoded ({error})") from error


def encode_png(pixels: Pixels) -> bytes:
    """PNG bytes of uint8 pixels [H, W, 3]; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def png_example(key: str, split: str, label: int, pixels: Pixels) -> Example:
    """An Example from uint8 pixels [H, W, 3]."""
    height, width = pixels.shape[:2]
    return Example(key=key, split=split, label=label, image=encode_png(pixels), ext="png", width=width, height=height)


def _check(example: Example, num_classes: int) -> None:
    if "." in example.key or "/" in example.key:
        raise ValueError(f"key {example.key!r} must not contain dots or slashes: webdataset splits names there")
    if not 0 <= example.label < num_classes:
        raise ValueError(f"image {example.key} has label {example.label}, but there are {num_classes} class names")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member with constant metadata; returns the offset of its first data byte."""
    member = tarfile.TarInfo(name)  # mtime, uid and gid 0: the same input gives the same bytes
    member.size = len(data)
    offset = tar.offset + tarfile.BLOCKSIZE  # a USTAR header is one block
    tar.addfile(member, io.BytesIO(data))
    return offset


def _write_index(directory: Path, rows: list[dict[str, Any]], class_names: list[str]) -> None:
    repeated = [key for key, count in Counter(row["key"] for row in rows).items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} keys appear more than once, first {repeated[0]}")
    table = pa.Table.from_pylist(rows, schema=COLUMNS)
    pq.write_table(table, directory / INDEX)
    counts = Counter(str(row["split"]) for row in rows)
    digest = hashlib.sha256(
        "\n".join(f"{row['key']} {row['label']} {row['sha256']}" for row in rows).encode()
    ).hexdigest()
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "class_names": class_names,
        "num_images": len(rows),
        "splits": dict(sorted(counts.items())),
        "digest": digest,
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
