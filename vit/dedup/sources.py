"""The images of one side, in pieces: files of a directory, members of tar shards, rows of our own shards.

A piece is the unit of work, of resuming and of increments. Loose files are cut where the hash of a name says so, not
after every n-th: a file that is added or removed changes the piece it lies in and no other.
"""

import dataclasses
import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vit.data import tars
from vit.data.index import INDEX, MANIFEST, BadShard, read_manifest
from vit.data.pictures import EXTENSIONS
from vit.data.shards import Shards
from vit.data.store import LocalStore, Store

IMAGES = {ext for extensions in EXTENSIONS.values() for ext in extensions} | {"img"}
PIECE, LONGEST = 512, 2048  # images of a piece of loose files: on average, at most


class NoImages(ValueError):
    """A root is missing, is no directory, or holds nothing to compare."""


class Member(NamedTuple):
    """One encoded image of a piece."""

    key: str  # relative to the root; unique in it
    file: str
    offset: int = 0
    length: int | None = None  # None: the whole file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive images of a root; picklable and light."""

    root: str  # name of the root, see Root
    store: Store
    fingerprint: str  # of root, names, sizes and times, not of the bytes
    listed: tuple[Member, ...]  # empty for a tar, which is scanned when it is read
    tar: str | None = None

    def members(self) -> tuple[list[Member], str | None]:
        """The images, and what is wrong with the tar from some place on, if anything."""
        if self.tar is None:
            return list(self.listed), None
        found: list[Member] = []
        with self.store.local(self.tar).open("rb") as file:
            inside = tars.members(file, self.store.size(self.tar))
            try:
                found += (
                    Member(f"{self.tar}/{m.name}", self.tar, m.offset, m.size) for m in inside if is_image(m.name)
                )
            except tars.BadTar as error:
                return found, f"is no whole tar file: {error}"
        return found, None

    def read(self, member: Member) -> bytes:
        """The encoded bytes; raises OSError if a file cannot be read, BadShard if a shard ends too early."""
        data = self.store.read(member.file, member.offset, member.length)
        if member.length is not None and len(data) != member.length:
            raise BadShard(f"{self.store.uri}/{member.file} ends before image {member.key}: the shard is truncated")
        return data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Root:
    """A directory of images under the name that it has in reports."""

    name: str
    store: Store
    shards: Shards | None = None  # if it holds shards of ours
    piece: int = PIECE  # loose files to a piece, on average
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list[tuple[str, str]])  # key, reason

    def pieces(self) -> Iterator[Piece]:
        """All pieces in the order of their names; a local directory is walked as they are asked for.

        Links that lead out of the directory are not followed: they end up in `skipped`.
        """
        self.skipped.clear()
        if self.shards is not None:
            yield from _of_shards(self.name, self.shards)
            return
        batch: list[tuple[Member, str]] = []
        for name, version in self._files():
            if name.lower().endswith(".tar"):
                yield self._piece([(Member(name, name), version)], tar=name)
            else:
                batch.append((Member(name, name), version))
                if zlib.crc32(os.fsencode(name)) % self.piece == 0 or len(batch) == LONGEST:
                    yield self._piece(batch)
                    batch = []
        if batch:
            yield self._piece(batch)

    def _files(self) -> Iterator[tuple[str, str]]:
        """Names of images and tars, and what changes when their contents do (files in S3 never do, see Store)."""
        if isinstance(self.store, LocalStore):
            yield from _walk(self.store.directory, self.skipped)
            return
        for name in self.store.names():
            if _is_wanted(name.rpartition("/")[2]) and not any(part.startswith(".") for part in name.split("/")):
                yield name, ""

    def _piece(self, batch: Sequence[tuple[Member, str]], tar: str | None = None) -> Piece:
        lines = [f"{member.key}\0{version}" for member, version in batch]
        return Piece(
            root=self.name,
            store=self.store,
            fingerprint=fingerprint([self.store.uri, *lines]),
            listed=() if tar else tuple(member for member, _ in batch),
            tar=tar,
        )


def open_roots(
    locations: Sequence[str], open_store: Callable[[str], Store], *, split: str = "", piece: int = PIECE
) -> list[Root]:
    """Roots named after the last part of their address, told apart by a number where that is the same.

    Of our own shards only `split` is taken if they have it. Raises NoImages for what is no directory.
    """
    roots: list[Root] = []
    for location in locations:
        store = open_store(location)
        if isinstance(store, LocalStore):
            store = LocalStore(store.directory.absolute())
            if not store.directory.is_dir():
                raise NoImages(f"{location} is no directory; give one with images or tar shards, or an s3:// address")
        name = printable(store.uri.rstrip("/").rpartition("/")[2] or "root")
        same = sum(root.name == name or root.name.startswith(f"{name}-") for root in roots)
        shards = _ours(store, open_store, split)
        roots.append(Root(name=f"{name}-{same + 1}" if same else name, store=store, shards=shards, piece=piece))
    return roots


def is_image(name: str) -> bool:
    """Whether the last part of a name has an image's extension and is not hidden."""
    last = name.rpartition("/")[2]
    return not last.startswith(".") and last.rpartition(".")[2].lower() in IMAGES and "." in last


def printable(name: str) -> str:
    r"""`name` with what is no Unicode written as \xff: file names may be any bytes, and stay different names."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _is_wanted(name: str) -> bool:
    return is_image(name) or (name.lower().endswith(".tar") and not name.startswith("."))


def _ours(store: Store, open_store: Callable[[str], Store], split: str) -> Shards | None:
    if isinstance(store, LocalStore):
        names = {name for name in (INDEX, MANIFEST) if (store.directory / name).is_file()}
    else:
        names = {*store.names(INDEX), *store.names(MANIFEST)}
    if not {INDEX, MANIFEST} <= names:
        return None
    has_split = split in read_manifest(store)["splits"]
    return Shards(store, splits=(split,) if has_split else (), open_store=open_store)


def _walk(root: Path, skipped: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Files below `root` in the order of their names, directory by directory."""
    home = os.path.realpath(root)
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        folders: list[str] = []
        for entry in _entries(root, folder, skipped):
            name = f"{folder}{entry.name}"
            if entry.is_symlink() and not _leads_inside(entry.path, home):
                reason = "is a symbolic link that leads out of the directory, or nowhere"
                skipped += [(printable(name), reason)] if _is_wanted(entry.name) or entry.is_dir() else []
            elif entry.is_dir(follow_symlinks=False):
                folders.append(f"{name}/")
            elif _is_wanted(entry.name):
                yield from _version(entry, name, skipped)
        waiting += reversed(folders)


def _entries(root: Path, folder: str, skipped: list[tuple[str, str]]) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(f"{root}/{folder}") as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        skipped.append((printable(folder), f"cannot be listed ({error.strerror})"))
        return []


def _version(entry: "os.DirEntry[str]", name: str, skipped: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    status = entry.stat()
    if stat.S_ISREG(status.st_mode):
        yield name, f"{status.st_size} {status.st_mtime_ns}"
    elif not stat.S_ISDIR(status.st_mode):  # a link to a directory inside: its files are found where they are
        skipped.append((printable(name), "is no regular file"))


def _leads_inside(path: str, home: str) -> bool:
    target = os.path.realpath(path)
    return f"{target}/".startswith(f"{home}/") and os.path.exists(target)  # noqa: PTH110


def _of_shards(root: str, shards: Shards) -> Iterator[Piece]:
    """A piece for each run of rows that lie in one shard; the manifest vouches for their contents."""
    table, first = shards.table.select(["key", "shard", "offset", "length"]), 0
    for size in shards.shard_sizes.tolist():
        for start in range(first, first + size, LONGEST):
            rows = table.slice(start, min(LONGEST, first + size - start)).to_pydict()
            listed = tuple(map(Member, *rows.values()))
            lines = [f"{member.key} {member.file} {member.offset} {member.length}" for member in listed]
            name = fingerprint([shards.digest, *lines])
            yield Piece(root=root, store=shards.store, fingerprint=name, listed=listed)
        first += size


def fingerprint(lines: Sequence[str]) -> str:
    """24 hexadecimal digits that stand for these lines."""
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:24]
