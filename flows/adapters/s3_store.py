"""A Store in S3: whole files through the cache of this node, or parts of them over the network if it is off."""

import dataclasses
import logging
import multiprocessing.util
import os
import shutil
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.adapters.file_cache import CacheFull, FileCache, Held, Wanted
from flows.adapters.prefetch import Prefetcher
from flows.adapters.s3_objects import Bucket, Head
from flows.adapters.s3_requests import Patience
from vit.data.store import checked

HELD = 8  # files that a process keeps open, so that reading from them again costs one pread
THREADS = 4  # that prefetch: one stream from S3 carries 50–100 MB/s

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class S3Store:
    """s3://bucket/prefix as a Store.

    A value: equal ones share their open files and clients within a process, and a copy may be pickled to, or be
    inherited by, another process, which makes its own. Where S3 is comes from the environment of each process.
    """

    bucket: str
    prefix: str  # without slashes at the ends
    cache: Path
    cache_bytes: int  # 0: no cache
    patience: Patience

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def names(self, suffix: str = "") -> list[str]:
        start = f"{self.prefix}/" if self.prefix else ""
        names = sorted(key.removeprefix(start) for key in self._bucket.keys(start))
        if not names:
            raise FileNotFoundError(f"{self.uri} holds no objects; check the address and AWS_ENDPOINT_URL")
        return [name for name in names if name.endswith(suffix)]

    def size(self, name: str) -> int:
        return self._head(name).size

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """A part comes from the cached file if there is a cache; a whole file comes from S3, as it is read once."""
        if (held := self._state.held_already(checked(name))) is not None:
            return held.read(offset, length)
        if self.cache_bytes > 0 and (offset > 0 or length is not None):
            try:
                return self._hold(name).read(offset, length)
            except CacheFull as error:
                self._state.warn_once(f"{error}. Until then parts are read over the network")
        return self._bucket.read(self._key(name), offset, length)

    def local(self, name: str, sha256: str | None = None) -> Path:
        if sha256 is not None:
            self.expect({name: sha256})
        return self._hold(name).path

    def expect(self, digests: Mapping[str, str]) -> None:
        self._state.digests.update(digests)

    def prefetch(self, names: Sequence[str]) -> None:
        if self.cache_bytes > 0:
            self._state.prefetcher.request([checked(name) for name in names])

    def fetch(self, name: str) -> Held:
        """The file in the cache, fetched if need be, not evicted while the result lives."""
        if (held := self._find(name)) is not None:
            return held
        head, bucket, key = self._head(name), self._bucket, self._key(name)
        wanted = Wanted(source=self._source(name), sha256=self._sha256(name) or head.sha256, version=head.version)
        try:
            return self._state.files.get(wanted, lambda: head.size, lambda file: bucket.download(key, file, head))
        except BaseException:
            self._state.heads.pop(name, None)  # the object may have been replaced since
            raise

    def missing_bytes(self, name: str) -> int:
        """What `fetch` would have to bring."""
        return 0 if self._find(name) is not None else self.size(name)

    def _find(self, name: str) -> Held | None:
        """What can be used without asking S3: a file of the cache whose SHA-256 is known from elsewhere."""
        sha256 = self._sha256(name)
        return self._state.files.find(Wanted(source=self._source(name), sha256=sha256)) if sha256 else None

    def _source(self, name: str) -> str:
        return f"{self._bucket.endpoint()} {self.uri}/{name}"

    def _sha256(self, name: str) -> str | None:
        return self._state.digests.get(name)

    def _hold(self, name: str) -> Held:
        state = self._state
        if (held := state.held_already(checked(name))) is None:
            try:
                held = self.fetch(name)
            except CacheFull:
                state.let_go()
                held = self.fetch(name)
            state.keep(name, held)
        return held

    def _head(self, name: str) -> Head:
        heads = self._state.heads
        if name not in heads:
            heads[name] = self._bucket.head(self._key(name))
        return heads[name]

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{checked(name)}" if self.prefix else checked(name)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _unpickle, (fields, dict(self._state.digests))

    @property
    def _bucket(self) -> Bucket:
        return Bucket(name=self.bucket, patience=self.patience)

    @property
    def _state(self) -> "_State":
        if self not in _states:
            with _lock:
                _states.setdefault(self, _State(self))
        return _states[self]


def _unpickle(fields: dict[str, Any], digests: dict[str, str]) -> S3Store:
    store = S3Store(**fields)
    store.expect(digests)
    return store


class _State:
    """What a process knows and holds of one store."""

    def __init__(self, store: S3Store) -> None:
        self.store = store
        self.heads: dict[str, Head] = {}
        self.digests: dict[str, str] = {}  # SHA-256 that a file must have, from the index
        self.warned = False
        self.begin()

    def begin(self) -> None:
        """Also in a forked child, which has neither the threads nor the locks of its parent."""
        store = self.store
        self.prefetcher = Prefetcher(store.fetch, store.missing_bytes, ahead=store.cache_bytes // 2, threads=THREADS)
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._files: FileCache | None = None
        self._lock = threading.Lock()

    @property
    def files(self) -> FileCache:
        """The cache; without one, what must lie on a disk lies in a directory of this process."""
        with self._lock:
            if self._files is None:
                limit = self.store.cache_bytes
                self._files = FileCache(self.store.cache, limit) if limit > 0 else FileCache(_temporary(), sys.maxsize)
            return self._files

    def held_already(self, name: str) -> Held | None:
        with self._lock:
            held = self._held.get(name)
            if held is None or not held.is_untouched() or self.digests.get(name) not in (None, held.sha256):
                return None
            self._held.move_to_end(name)
            return held

    def keep(self, name: str, held: Held) -> None:
        """Hold a few files, and no more than a quarter of the cache: what is held cannot be evicted."""
        with self._lock:
            self._held[name] = held
            self._held.move_to_end(name)
            while len(self._held) > 1 and (len(self._held) > HELD or self._bytes() > self.store.cache_bytes // 4):
                self._held.popitem(last=False)
        self.prefetcher.used(name)

    def let_go(self) -> None:
        with self._lock:
            self._held.clear()

    def warn_once(self, message: str) -> None:
        if not self.warned:
            log.warning(message)
        self.warned = True

    def _bytes(self) -> int:
        return sum(held.size for held in self._held.values())


def _temporary() -> Path:
    """A directory of this process, removed when it ends."""
    directory = Path(tempfile.mkdtemp(prefix="vitflow-"))
    # Runs at the end of multiprocessing's children, too, and not in what they fork, unlike atexit.
    multiprocessing.util.Finalize(None, shutil.rmtree, (directory, True), exitpriority=0)
    return directory


_lock = threading.Lock()
_states: dict[S3Store, _State] = {}


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for state in _states.values():
        state.begin()


os.register_at_fork(after_in_child=_after_fork)
