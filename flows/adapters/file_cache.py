"""Whole files kept on a node's disk for all its processes, up to a number of bytes; the least recently used go first.

A file appears whole or not at all, is fetched by one process while the others wait, is checked before use, and stays
while somebody holds it open. Coordination is by flock, which the kernel drops when a process dies, so a killed writer
leaves at most a part that the next one removes. The directory must lie on a local disk.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from flows.adapters.file_lock import lock, open_lockable, release
from vit.data.store import CorruptFile, StoreUnavailable, read_at

FETCHES = 3  # of a file whose SHA-256 does not come out right, before it is called corrupt
HEADROOM = 0.02  # share of the disk that the cache leaves free
PATIENCE = 400.0  # seconds that whoever fetches a file may go without writing a byte of it

log = logging.getLogger(__name__)
Writer = Callable[[BinaryIO], str]  # writes a whole file from its start and returns the SHA-256 of what it wrote


class CacheFull(StoreUnavailable):
    """A file does not fit: the limit is smaller than it, or running processes hold what is there."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which bytes are asked for."""

    source: str  # identifies the object anywhere, e.g. endpoint and s3://bucket/key
    sha256: str | None  # what it must be; None: whatever the source has under `version`
    version: str | None = None  # e.g. an ETag


class Held:
    """A file of the cache that is not evicted while this object lives."""

    def __init__(self, descriptor: int, path: Path, sha256: str) -> None:
        self.path, self.sha256, self._descriptor, self._process = path, sha256, descriptor, os.getpid()
        self.size, self._seen = os.fstat(descriptor).st_size, _identity(descriptor)

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        return read_at(self._descriptor, offset, length)

    def is_untouched(self) -> bool:
        """False once somebody wrote to the file, even if they set its times back."""
        return _identity(self._descriptor) == self._seen

    def __del__(self) -> None:
        if self._process == os.getpid():
            release(self._descriptor)


class FileCache:
    """Files under `directory`, at most `limit` bytes; cheap to make, any number may share a directory."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory, self.limit = directory, limit
        self._files, self._parts = directory / "files", directory / "parts"
        self._stamps, self._locks = directory / "stamps", directory / "locks"
        for folder in (self._files, self._parts, self._stamps, self._locks):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreUnavailable(
                    f"the cache {directory} cannot be created ({error.strerror}); set VITFLOW_CACHE to a directory on "
                    "a local disk that you may write to, or VITFLOW_CACHE_BYTES=0 to read without a cache"
                ) from error

    def find(self, wanted: Wanted) -> Held | None:
        """The file if it is there, whole, and what is wanted; else None."""
        entry = _entry(wanted.source)
        try:
            descriptor = open_lockable(self._files / entry, os.O_RDONLY)
        except FileNotFoundError:
            return None
        keep = False
        try:
            if not lock(descriptor, shared=True) or os.fstat(descriptor).st_nlink == 0:
                return None  # being evicted just now
            sha256 = self._verified(descriptor, entry, wanted)
            if sha256 is None:
                return None
            now = time.time_ns()
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._stamps / entry, ns=(now, now))
            keep = True
            return Held(descriptor, self._files / entry, sha256)
        finally:
            if not keep:
                release(descriptor)

    def get(self, wanted: Wanted, size: Callable[[], int], write: Writer) -> Held:
        """The file, fetched by `write` if need be, by one process at a time.

        Raises CorruptFile if `write` keeps delivering another SHA-256, CacheFull if there is no room for `size()`.
        """
        if (held := self.find(wanted)) is not None:
            return held
        with self._exclusive(_entry(wanted.source), wanted.source):
            return self.find(wanted) or self._fetch(wanted, size(), write)

    def _fetch(self, wanted: Wanted, size: int, write: Writer) -> Held:
        entry = _entry(wanted.source)
        part, path = self._parts / entry, self._files / entry
        for stale in (part, path, self._stamps / entry):  # a killed writer's, another version's or a damaged one
            stale.unlink(missing_ok=True)
        self._reserve(part, size, wanted.source)
        descriptor = open_lockable(part, os.O_RDWR)
        try:
            with self._naming_a_full_disk(), open(descriptor, "r+b", closefd=False) as file:
                sha256 = self._write(file, wanted, write)
            os.fchmod(descriptor, 0o444)
            lock(descriptor, shared=True)  # held before it is visible, so it cannot be evicted in between
            part.rename(path)
            self._stamp(descriptor, entry, wanted.source, wanted.version, sha256)
        except BaseException:
            part.unlink(missing_ok=True)
            release(descriptor)
            raise
        return Held(descriptor, path, sha256)

    @contextlib.contextmanager
    def _naming_a_full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StoreUnavailable(
                f"the disk of the cache {self.directory} is full; free some space, lower VITFLOW_CACHE_BYTES or set "
                "VITFLOW_CACHE to a larger disk"
            ) from error

    def _write(self, file: BinaryIO, wanted: Wanted, write: Writer) -> str:
        sha256 = ""
        for _ in range(FETCHES):
            file.seek(0)
            sha256 = write(file)
            if wanted.sha256 in (None, sha256):
                return sha256
            log.warning("%s arrived with SHA-256 %s instead of %s", wanted.source, sha256, wanted.sha256)
        raise CorruptFile(
            f"{wanted.source} has SHA-256 {sha256}, but {wanted.sha256} is expected; it was fetched {FETCHES} times: "
            "the object was replaced or is damaged, so upload it again or write its index anew"
        )

    def _verified(self, descriptor: int, entry: str, wanted: Wanted) -> str | None:
        """The SHA-256 of an open entry if it is what is wanted.

        It is computed after fetching, and again if the file changed or the machine restarted since (what was
        written may not have reached the disk), so that processes do not each hash what one of them hashed.
        """
        stamp = self._read_stamp(entry)
        expected = wanted.sha256
        if expected is None and stamp.get("version") == wanted.version:
            expected = stamp.get("sha256")
        if expected is None:
            return None
        if stamp.get("identity") == _identity(descriptor):
            return expected if stamp["sha256"] == expected else None
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            log.warning("%s in the cache %s is damaged; it is fetched again", wanted.source, self.directory)
            return None
        self._stamp(descriptor, entry, wanted.source, wanted.version or stamp.get("version"), found)
        return found

    def _read_stamp(self, entry: str) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            stamp = json.loads((self._stamps / entry).read_text())
            return stamp if isinstance(stamp, dict) else {}
        return {}

    def _stamp(self, descriptor: int, entry: str, source: str, version: str | None, sha256: str) -> None:
        values = {"source": source, "version": version, "sha256": sha256, "identity": _identity(descriptor)}
        beside = self._stamps / f".{os.getpid()}-{descriptor}"
        beside.write_text(json.dumps(values))
        beside.rename(self._stamps / entry)

    def _reserve(self, part: Path, size: int, source: str) -> None:
        """Evict until `size` bytes fit and create `part` with that size, which counts from then on."""
        with self._exclusive("eviction", str(self.directory)):
            entries = sorted(self._entries())
            used = sum(length for _, length, _ in entries)
            disk = shutil.disk_usage(self.directory)
            excess = max(used + size - self.limit, size + int(HEADROOM * disk.total) - disk.free)
            for _, length, path in entries:
                if excess <= 0:
                    break
                if self._evict(path):
                    excess -= length
            if excess > 0:
                raise CacheFull(
                    f"{source} has {size} bytes and does not fit into the cache {self.directory}: its limit is "
                    f"{self.limit} bytes (VITFLOW_CACHE_BYTES), of which running processes hold what could not be "
                    f"evicted, and {disk.free} bytes of the disk are free, of which {HEADROOM:.0%} of its size stay "
                    "so; raise the limit or set VITFLOW_CACHE to a larger disk"
                )
            with part.open("wb") as file:
                file.truncate(size)

    def _entries(self) -> Iterator[tuple[int, int, Path]]:
        """(time of last use in ns, bytes, path) of each file; parts come first, as those not being written can go."""
        for folder in (self._parts, self._files):
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    length, stamp = path.stat().st_size, self._stamps / path.name
                    used = path.stat().st_mtime_ns if not stamp.exists() else stamp.stat().st_mtime_ns
                    yield (0 if folder == self._parts else used), length, path

    def _evict(self, path: Path) -> bool:
        """Remove a file unless somebody fetches or holds it."""
        with self._try_exclusive(path.name) as free:
            if not free:
                return False
            try:
                descriptor = open_lockable(path, os.O_RDONLY)
            except FileNotFoundError:
                return True
            try:
                if not lock(descriptor, shared=False):
                    return False
                path.unlink()
                if path.parent == self._files:
                    (self._stamps / path.name).unlink(missing_ok=True)
                return True
            finally:
                release(descriptor)

    @contextlib.contextmanager
    def _exclusive(self, name: str, subject: str) -> Iterator[None]:
        """Wait for the lock `name`, which its owner loses when it dies; the owner may take long if it progresses."""
        start, pause, progress = time.monotonic(), 0.002, 0
        while True:
            with self._try_exclusive(name) as free:
                if free:
                    yield
                    return
            with contextlib.suppress(FileNotFoundError):
                if (written := (self._parts / name).stat().st_mtime_ns) != progress:
                    start, progress = time.monotonic(), written
            if time.monotonic() - start > PATIENCE:
                raise StoreUnavailable(
                    f"another process has held the lock {self._locks / name} for {PATIENCE:.0f} s and written "
                    f"nothing of {subject}; is it stopped? End it and run again"
                )
            time.sleep(pause)
            pause = min(0.1, 2 * pause)

    @contextlib.contextmanager
    def _try_exclusive(self, name: str) -> Iterator[bool]:
        descriptor = open_lockable(self._locks / name, os.O_RDWR | os.O_CREAT)
        try:
            yield lock(descriptor, shared=False)
        finally:
            release(descriptor)


def _identity(descriptor: int) -> list[int | str]:
    """Changes with every write to the file, its owner or mode, and with every start of the machine."""
    status = os.fstat(descriptor)
    return [status.st_ino, status.st_size, status.st_ctime_ns, _boot()]


@functools.cache
def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _entry(source: str) -> str:
    """A file name that is unique for a source and ends as it does."""
    end = re.sub(r"[^A-Za-z0-9._-]", "_", source.rpartition("/")[2])[-100:]
    return f"{hashlib.sha256(source.encode()).hexdigest()[:24]}-{end}"
