"""Zip files cut into volumes (`train.zip.001`, `.002`, …), as Kaggle publishes the eyes, read in place."""

import functools
import io
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from vit.data.datasets.archives import MAX_READ, BadArchive


class Volumes(io.RawIOBase):
    """Files one after the other, as one."""

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__()
        self._files = [Path(path).open("rb", buffering=0) for path in paths]  # noqa: SIM115 (closed with this)
        self._sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: sum(self._sizes)}[whence]
        if start + offset < 0:
            raise OSError("there is nothing before the first volume")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        start = 0
        for file, size in zip(self._files, self._sizes, strict=True):
            if self._position < start + size:
                data = os.pread(file.fileno(), min(len(buffer), start + size - self._position), self._position - start)
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
            start += size
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def volumes(directory: Path, name: str) -> tuple[str, ...]:
    """The paths of NAME.001, NAME.002, … in `directory`, none if there is no first; raises ValueError at a gap."""
    present = {int(path.suffix[1:]): path for path in directory.glob(f"{name}.[0-9][0-9][0-9]")}
    for number in range(1, max(present, default=0) + 1):
        if number not in present:
            raise ValueError(
                f"{directory / name}.{number:03d} is missing, though {directory / name}.{max(present):03d} is there: "
                "get that volume, too"
            )
    return tuple(str(present[number]) for number in sorted(present))


def names(paths: tuple[str, ...]) -> list[str]:
    """The files in the zip, in its order; raises BadArchive if volumes are missing at the end, or it is no zip."""
    return [info.filename for info in _zip(paths, os.getpid()).infolist() if not info.is_dir()]


def read(paths: tuple[str, ...], name: str) -> bytes:
    """One file of the zip; raises BadArchive if it is damaged or encrypted."""
    archive = _zip(paths, os.getpid())
    if archive.getinfo(name).file_size > MAX_READ:
        raise BadArchive(f"{name} in {paths[0]} is larger than {MAX_READ} bytes, which is no image")
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise BadArchive(f"{name} in {paths[0]} … {paths[-1]} is damaged ({error}); get the volumes again") from error


@functools.lru_cache(maxsize=4)
def _zip(paths: tuple[str, ...], process: int) -> zipfile.ZipFile:
    """Stays open, since its directory is long; another process opens its own."""
    try:
        return zipfile.ZipFile(io.BufferedReader(Volumes(paths), 1 << 16))
    except (zipfile.BadZipFile, OSError) as error:
        raise BadArchive(
            f"{paths[0]} … {paths[-1]} ({len(paths)} volumes) are no whole zip ({error}): the last volumes are "
            "missing or one is truncated (the fifth of train.zip is easily overlooked); get them again"
        ) from error
