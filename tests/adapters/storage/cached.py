"""A cache of small files with known contents."""

import hashlib
import random
from typing import BinaryIO

from flows.adapters.file_cache import FileCache, Held, Wanted

SIZE = 1000


def data_of(name: str) -> bytes:
    return random.Random(name).randbytes(SIZE)


def sha256_of(name: str) -> str:
    return hashlib.sha256(data_of(name)).hexdigest()


def get(cache: FileCache, name: str, data: bytes | None = None, fetched: list[str] | None = None) -> Held:
    def write(file: BinaryIO) -> str:
        if fetched is not None:
            fetched.append(name)
        file.write(sent := data_of(name) if data is None else data)
        return hashlib.sha256(sent).hexdigest()

    return cache.get(Wanted(source=name, sha256=sha256_of(name)), lambda: SIZE, write)


def files(cache: FileCache) -> set[str]:
    """The names of sources that are there, by the end of their entries."""
    return {path.name.split("-", 1)[1] for path in (cache.directory / "files").iterdir()}
