"""A directory of immutable files that may lie on this machine or far away: what the readers of shards ask for.

`vit` knows the protocol and the local case. Other places, such as S3, come from outside (flows/adapters/storage.py)
and are handed in, so that the code above never asks where its bytes are.
"""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable


class StoreUnavailable(RuntimeError):
    """The place where files lie refused, or did not answer after the retries.

    Deliberately no OSError: an image that cannot be read is counted and skipped, a missing service stops the run.
    """


class StoreDown(StoreUnavailable):
    """It did not answer, for as long as that may be waited for; a later try may find it up again."""


class CorruptFile(ValueError):
    """The bytes of a file are not those that were asked for by their SHA-256, however often they were fetched."""


@runtime_checkable
class Store(Protocol):
    """A directory of files that never change once written. Threads and processes may share it; it can be pickled.

    Every method raises FileNotFoundError naming the file, ValueError for a name that leads out of the directory,
    and, if the files are remote, StoreUnavailable naming the object and what to do.
    """

    @property
    def uri(self) -> str:
        """Where it is: a path or s3://bucket/prefix."""
        ...

    def names(self, suffix: str = "") -> list[str]:
        """All files below, relative, with slashes, sorted; those that end with `suffix`."""
        ...

    def size(self, name: str) -> int:
        """Length in bytes."""
        ...

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset`, or all that follow; fewer where the file ends."""
        ...

    def local(self, name: str, sha256: str | None = None) -> Path:
        """The whole file on a disk of this machine; raises CorruptFile if its SHA-256 cannot be had.

        Of a remote file the path is good for opening now: what is open stays readable, but a cache with a size
        limit may drop the path later. Ask again, or use `read`, which does.
        """
        ...

    def expect(self, digests: Mapping[str, str]) -> None:
        """The SHA-256 that files must have, by name: whatever is fetched to be kept is compared with it.

        Remembered by equal stores of this process, by its children and by pickled copies.
        """
        ...

    def prefetch(self, names: Sequence[str]) -> None:
        """Hint that these will be read whole, in this order. Replaces the last hint and returns at once."""
        ...


@dataclass(frozen=True)
class LocalStore:
    """A Store in a directory of this machine."""

    directory: Path

    @property
    def uri(self) -> str:
        return str(self.directory)

    def names(self, suffix: str = "") -> list[str]:
        if not self.directory.is_dir():
            raise FileNotFoundError(f"{self.directory} is no directory")
        found: list[str] = []
        # Class folders are often symbolic links, which Path.rglob does not follow.
        for folder, _, files in os.walk(self.directory, followlinks=True):
            relative = Path(folder).relative_to(self.directory)
            found += [(relative / file).as_posix() for file in files if file.endswith(suffix)]
        return sorted(found)

    def size(self, name: str) -> int:
        return self._path(name).stat().st_size

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        # Opened for each call, so that nothing is shared with other processes; joining with Path would cost as much.
        descriptor = os.open(f"{self.directory}/{checked(name)}", os.O_RDONLY)
        try:
            return read_at(descriptor, offset, length)
        finally:
            os.close(descriptor)

    def local(self, name: str, sha256: str | None = None) -> Path:
        path = self._path(name)
        status = path.stat()
        if sha256 is not None:
            identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if (found := _sha256(path, identity)) != sha256:
                raise CorruptFile(
                    f"{path} has SHA-256 {found}, but {sha256} was expected: it changed or is damaged; "
                    "restore it from where it came"
                )
        return path

    def expect(self, digests: Mapping[str, str]) -> None:
        pass  # nothing is fetched; `local` compares if it is given a digest

    def prefetch(self, names: Sequence[str]) -> None:
        pass

    def _path(self, name: str) -> Path:
        return self.directory / checked(name)


def as_store(place: Path | Store) -> Store:
    """A LocalStore of a path; a Store as it is. Raises ValueError for an s3:// address, which the caller opens."""
    if isinstance(place, Path):
        if place.parts[:1] == ("s3:",):
            raise ValueError(f"{place} is no local path; open it with flows.adapters.storage.open and pass the store")
        return LocalStore(place)
    return place


def checked(name: str) -> str:
    """`name` itself; raises ValueError if it is empty, absolute or leads out of its directory."""
    if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise ValueError(f"{name!r} is no name of a file inside a store: names are relative and have no '..'")
    return name


def read_at(descriptor: int, offset: int = 0, length: int | None = None) -> bytes:
    """`length` bytes of an open file from `offset`, or all that follow; fewer where the file ends."""
    if length is None:
        length = max(0, os.fstat(descriptor).st_size - offset)
    data = os.pread(descriptor, length, offset)
    if len(data) == length:
        return data
    parts = [data]  # one call returns at most 2 GiB
    while parts[-1] and (done := sum(map(len, parts))) < length:
        parts.append(os.pread(descriptor, length - done, offset + done))
    return b"".join(parts)


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, identity: tuple[int, ...]) -> str:
    """`identity` changes when the file does: a shard is hashed once in a process, not once for each read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
