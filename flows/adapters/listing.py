"""What lies at a place, told without reading it: enough to know whether anything came, went or was replaced."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.adapters import storage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """A directory or S3 prefix at one moment."""

    files: int
    bytes: int
    contents: str  # SHA-256 of names and sizes, in S3 of ETags, too: the same for a copy elsewhere
    touched: str  # SHA-256 that also changes when a local file is written again with the same size

    def told(self) -> dict[str, Any]:
        """As JSON, without what depends on when local files were written."""
        return {"files": self.files, "bytes": self.bytes, "contents": self.contents}

    def __str__(self) -> str:
        return f"{self.files:,} files of {self.bytes / 1e6:,.1f} MB"


def listing(location: str) -> Listing:
    """List all below a path or s3:// address; a file is listed alone.

    Raises FileNotFoundError if there is nothing, StoreUnavailable if S3 does not answer.
    """
    contents, touched, files, size = hashlib.sha256(), hashlib.sha256(), 0, 0
    for name, length, version, moment in entries(location):
        line = f"{name}\0{length}\0{version}\n".encode()
        contents.update(line)
        touched.update(line + f"{moment}\n".encode())
        files, size = files + 1, size + length
    if not files:
        raise FileNotFoundError(f"there is nothing at {location}")
    return Listing(files=files, bytes=size, contents=contents.hexdigest(), touched=touched.hexdigest())


def entries(location: str) -> Iterator[tuple[str, int, str, int]]:
    """Relative name, size, ETag (S3) and nanosecond of writing (local) of all below a path or s3:// address."""
    remote = storage.parse(location)
    yield from _local(Path(location)) if remote is None else _remote(*remote)


def _local(path: Path) -> Iterator[tuple[str, int, str, int]]:
    """Name, size, nothing, time of writing; in the order of names."""
    if path.is_file():
        status = path.stat()
        yield path.name, status.st_size, "", status.st_mtime_ns
        return
    for folder, folders, files in os.walk(path, followlinks=True):
        folders.sort()
        for file in sorted(files):
            status = Path(folder, file).stat()
            yield Path(folder, file).relative_to(path).as_posix(), status.st_size, "", status.st_mtime_ns


def _remote(bucket: str, prefix: str) -> Iterator[tuple[str, int, str, int]]:
    """Key, size, ETag, 0; in the order of keys, which S3 keeps."""
    from flows.adapters.s3_objects import Bucket
    from flows.adapters.s3_requests import PATIENCE

    for key, head in Bucket(name=bucket, patience=PATIENCE).listed(prefix):
        rest = key.removeprefix(prefix)
        if not rest or not prefix or rest.startswith("/"):  # images, not images-of-last-year
            yield rest.lstrip("/") or key.rpartition("/")[2], head.size, head.version, 0
