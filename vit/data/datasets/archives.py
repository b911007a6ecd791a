"""The files in a tar, tar.gz, zip or folder, in a fixed order, read in place: nothing is ever unpacked to disk.

Names say nothing here (several published `.tar.gz` are plain tars): the first bytes decide. A member of a tar is a
range of bytes of its file, so reading it costs one seek, and a tar inside a tar is a range inside a range. Members
that lead out of the archive, links and devices are refused, and an archive that stops early is called truncated.
"""

import dataclasses
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vit.data.datasets import inflate
from vit.data.datasets.inflate import BadArchive

RAW, GZIPPED, ZIPPED = "raw", "gzipped", "zipped"
MAX_READ = 4 << 30  # bytes: what claims to be larger is no image and no list
MAX_HEADER = 16 << 20  # bytes of one extended header of a tar
TO_THE_END = 1 << 62  # the size of a whole file, where it is not known
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip: signature, length of the name, length of the extra field


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One file inside an archive, or in a folder: light, picklable, readable at any time by any thread."""

    name: str  # relative, with slashes
    size: int  # bytes
    path: str  # of the file that holds it
    offset: int  # of its first byte; in what `path` unpacks to, if gzipped; of its local header, if zipped
    packing: str  # RAW, GZIPPED or ZIPPED
    packed: int = 0  # bytes in a zip
    crc: int = 0
    deflated: bool = False

    def read(self) -> bytes:
        """All bytes; raises BadArchive naming archive and member if they are not there, OSError if unreadable."""
        if self.size > MAX_READ:
            raise BadArchive(f"{self.name} in {self.path} claims {self.size} bytes, which is no image and no list")
        return self._unzip() if self.packing == ZIPPED else self.part(0, self.size)

    def part(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, of a member that is not in a zip; raises as `read` does."""
        assert self.packing != ZIPPED and 0 <= start <= start + length <= self.size, (self, start, length)
        data = _range(self.path, self.packing, self.offset + start, length)
        if len(data) != length:
            raise BadArchive(f"{self.path} is truncated: it ends inside {self.name}; get the archive again")
        return data

    def _unzip(self) -> bytes:
        head = _range(self.path, RAW, self.offset, LOCAL_HEADER.size)
        signature, name, extra = LOCAL_HEADER.unpack(head) if len(head) == LOCAL_HEADER.size else (b"", 0, 0)
        data = _range(self.path, RAW, self.offset + LOCAL_HEADER.size + name + extra, self.packed)
        try:
            data = zlib.decompressobj(-15).decompress(data, self.size + 1) if self.deflated else data
        except zlib.error as error:
            raise BadArchive(f"{self.name} in {self.path} is damaged ({error}); get the archive again") from error
        if signature != b"PK\3\4" or len(data) != self.size or zlib.crc32(data) != self.crc:
            raise BadArchive(f"{self.name} in {self.path} is damaged; get the archive again")
        return data


def members(place: Path | Member) -> Iterator[Member]:
    """The regular files of an archive in its own order, of a folder in the order of their paths, of a tar in a tar.

    Raises BadArchive for what is no archive, is truncated, or holds links, devices or names that lead outside.
    """
    if isinstance(place, Member):
        if place.packing == ZIPPED:
            raise BadArchive(f"{place.name} is an archive inside the zip {place.path}, which cannot be read in place")
        return _tar(place, nested=True)
    if place.is_dir():
        return _folder(place)
    with place.open("rb") as file:
        magic = file.read(4)
    if magic in {b"PK\3\4", b"PK\5\6"}:
        return _zip(place)
    packing = GZIPPED if magic[:2] == b"\x1f\x8b" else RAW
    size = TO_THE_END if packing == GZIPPED else place.stat().st_size
    return _tar(Member(place.name, size, str(place), 0, packing), nested=False)


def index(place: Path | Member) -> dict[str, Member]:
    """All members by name; raises as `members`, and BadArchive if a name occurs twice."""
    found: dict[str, Member] = {}
    for member in members(place):
        if member.name in found:
            raise BadArchive(f"{_called(place)} holds {member.name} twice; get the archive again")
        found[member.name] = member
    return found


def plain(path: Path) -> Member:
    """A file that lies in no archive."""
    return Member(path.name, path.stat().st_size, str(path), 0, RAW)


def is_gzipped(place: Path) -> bool:
    """Whether reading out of order is slow."""
    if not place.is_file():
        return False
    with place.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _range(path: str, packing: str, offset: int, length: int) -> bytes:
    if packing == GZIPPED:
        return inflate.read(path, offset, length)
    with Path(path).open("rb", buffering=0) as file:
        length = max(0, min(length, os.fstat(file.fileno()).st_size - offset))  # a damaged header may claim anything
        if not length:
            return b""
        file.seek(offset)
        pieces = [file.read(length)]
        while pieces[-1] and sum(map(len, pieces)) < length:  # one call returns at most 2 GiB
            pieces.append(file.read(length - sum(map(len, pieces))))
    return b"".join(pieces)


class _Window(io.RawIOBase):
    """A member as the file that tarfile wants. Stays open, and reads ahead, since it is asked for many headers."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self._member, self._position = member, 0
        self._file = Path(member.path).open("rb") if member.packing == RAW else None  # noqa: SIM115

    def read(self, size: int = -1, /) -> bytes:
        length = min(size if size >= 0 else TO_THE_END, max(0, self._member.size - self._position))
        if length > MAX_HEADER:
            raise BadArchive(f"{self._member.path} is damaged: a header of {length} bytes; get the archive again")
        if self._file is None:
            data = inflate.read(self._member.path, self._member.offset + self._position, length)
        else:
            self._file.seek(self._member.offset + self._position)
            data = self._file.read(length)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        assert whence == io.SEEK_SET  # tarfile knows its offsets
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def _tar(outer: Member, *, nested: bool) -> Iterator[Member]:
    called = f"{outer.name} in {outer.path}" if nested else outer.path
    with _Window(outer) as window:
        try:
            tar = tarfile.open(fileobj=window, mode="r:")  # noqa: SIM115 (the window is what needs closing)
            for info in _headers(tar, called):
                yield _member(info, outer, called)
        except BadArchive:
            raise
        except (tarfile.TarError, ValueError, OverflowError) as error:  # what tarfile raises on damaged headers
            raise BadArchive(f"{called} is truncated or no tar ({error}); get the archive again") from error
        window.seek(tar.offset)
        end = window.read(tarfile.BLOCKSIZE)
        while outer.size == TO_THE_END and window.read(1 << 20):  # for the checksum at the end of a gzip file
            pass
    # The size of a nested tar is vouched for by the outer one, so only there may the closing zeros be missing.
    if end != bytes(tarfile.BLOCKSIZE) and not (nested and not end):
        problem = "is damaged" if len(end) == tarfile.BLOCKSIZE else "is truncated"
        raise BadArchive(f"{called} {problem} at byte {tar.offset}: no member and no end there; get the archive again")


def _headers(tar: tarfile.TarFile, called: str) -> Iterator[tarfile.TarInfo]:
    """All headers but those of folders. tarfile takes a damaged one for the end: who asks must look what is there."""
    while (info := tar.next()) is not None:
        vars(tar)["members"].clear()  # or a million headers stay in memory
        if info.size < 0:
            raise BadArchive(f"{called} is damaged: {info.name!r} has a negative size; get the archive again")
        if not info.isdir():
            yield info


def _member(info: tarfile.TarInfo, outer: Member, called: str) -> Member:
    if not info.isreg() or info.issparse():
        raise BadArchive(f"{called} holds {info.name!r}, a link, device or sparse file: it is not read")
    return Member(_safe(info.name, called), info.size, outer.path, outer.offset + info.offset_data, outer.packing)


def _zip(path: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(path) as file:
            infos = file.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, struct.error) as error:
        raise BadArchive(f"{path} is truncated or no zip ({error}); get the archive again") from error
    size = path.stat().st_size
    for info in infos:
        if info.is_dir():
            continue
        name = _safe(info.filename, str(path))
        if stat.S_ISLNK(info.external_attr >> 16):
            raise BadArchive(f"{path} holds {name!r}, a link: it is not read")
        if info.flag_bits & 1 or info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise BadArchive(f"{path} holds {name!r}, which is encrypted or packed in an unknown way: repack the zip")
        if info.header_offset < 0 or info.header_offset + info.compress_size > size:
            raise BadArchive(f"{path} is truncated or damaged at {name!r}; get the archive again")
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        yield Member(
            name, info.file_size, str(path), info.header_offset, ZIPPED, info.compress_size, info.CRC, deflated
        )


def _folder(folder: Path) -> Iterator[Member]:
    for parent, folders, names in os.walk(folder, followlinks=True):  # class folders are often symbolic links
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in [Path(parent, name) for name in sorted(names) if not name.startswith(".")]:
            yield Member(path.relative_to(folder).as_posix(), path.stat().st_size, str(path), 0, RAW)


def _safe(name: str, called: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
        raise BadArchive(f"{called} holds the name {name!r}, which leads out of the archive: it is not to be trusted")
    return path.as_posix()


def _called(place: Path | Member) -> str:
    return f"{place.name} in {place.path}" if isinstance(place, Member) else str(place)
