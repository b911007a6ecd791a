"""What is done already, on disk: a line for each finished piece, and the codes of corpus images (36 bytes each).

    settings.json     what makes results comparable; another one is refused
    manifest.jsonl    appended to, one line per finished piece of work; a torn last line is ignored
    codes.bin         appended to before the line that names its place
    tests/PIECE.npz   prints of test images

Only the process that holds the lock writes. A process killed at any moment leaves whole lines, at most one torn line
behind them, and bytes at the end of codes.bin that no line names.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from vit.typing import Pixels

CODE, MARK = 32, 4  # bytes of a corpus image: its whole frame's code, and the start of its SHA-256
_TOLD, _LONGEST = 3, 60  # differing settings that a refusal names, and characters of each value
SETTINGS, MANIFEST, CODES, TESTS, LOCK = "settings.json", "manifest.jsonl", "codes.bin", "tests", "lock"


class OtherSettings(ValueError):
    """The state was made with other settings, so its results cannot be mixed with new ones."""


class InUse(ValueError):
    """Another process works in this directory."""


class Found(NamedTuple):
    """A corpus image that shows a test image, by key, and by benchmark and row in it."""

    train: str
    benchmark: str  # fingerprint
    test: int
    tier: str
    distance: int
    score: float
    window: str
    flip: str
    refined: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One finished piece of work."""

    kind: str  # scan, screen, test, within, self
    piece: str  # fingerprint
    against: tuple[str, ...]  # fingerprints of benchmarks
    images: int
    found: tuple[Found, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()  # key, reason
    notes: tuple[tuple[str, str], ...] = ()  # key, and why it is compared less freely
    codes: int = -1  # offset in codes.bin, if this line stores any
    sha256: str = ""  # of those codes


class State:
    """The directory, open for writing by this process alone; close it, or use it in a `with`."""

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        """Raises OtherSettings naming what differs, InUse if another process holds it."""
        self.directory = directory
        (directory / TESTS).mkdir(parents=True, exist_ok=True)
        self._lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise InUse(
                f"another process is at work in {directory.parent}; wait for it, or give another --out"
            ) from error
        try:
            _check_settings(directory / SETTINGS, settings)
            self.lines = list(_whole_lines(directory / MANIFEST))
        except BaseException:
            os.close(self._lock)
            raise
        self._end = (directory / CODES).stat().st_size if (directory / CODES).exists() else 0

    def __enter__(self) -> "State":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)  # which unlocks

    def add(self, line: Line, codes: bytes = b"") -> Line:
        """Append a line, after the codes that it stands for; both are on disk when this returns the line."""
        if codes:
            line = dataclasses.replace(line, codes=self._end, sha256=hashlib.sha256(codes).hexdigest()[:16])
            _append(self.directory / CODES, codes)
            self._end += len(codes)
        text = json.dumps(dataclasses.asdict(line), separators=(",", ":"), ensure_ascii=True)
        _append(self.directory / MANIFEST, f"{text}\n".encode())
        self.lines.append(line)
        return line

    def codes(self, line: Line) -> tuple[Pixels, Pixels]:
        """Codes uint8 [N, 32] and marks uint8 [N, 4] that a line stored. Raises OtherSettings if they are damaged."""
        size = line.images * (CODE + MARK)
        with (self.directory / CODES).open("rb") as file:
            file.seek(line.codes)
            data = file.read(size)
        if hashlib.sha256(data).hexdigest()[:16] != line.sha256:
            raise OtherSettings(f"{self.directory / CODES} is damaged; delete {self.directory} and run again")
        stored = np.frombuffer(data, dtype=np.uint8).reshape(-1, CODE + MARK)
        return stored[:, :CODE], stored[:, CODE:]

    def prints_path(self, piece: str) -> Path:
        """Where the prints of a piece of test images are kept."""
        return self.directory / TESTS / f"{piece}.npz"


def join_codes(codes: Pixels, marks: Pixels) -> bytes:
    """What `State.add` stores: 36 bytes for each image."""
    return np.concatenate([codes, marks], axis=1).tobytes()


def write_whole(path: Path, write: "Sequence[bytes] | bytes") -> None:
    """A file that appears whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.writelines([write] if isinstance(write, bytes) else write)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _append(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _whole_lines(path: Path) -> Iterator[Line]:
    """All lines; a torn one at the end is cut off, so that the next one starts at the beginning of a line."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)
    for number, text in enumerate(data[:whole].splitlines(), start=1):
        try:
            yield _line(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise OtherSettings(f"line {number} of {path} is damaged; delete {path.parent} and run again") from error


def _line(values: dict[str, Any]) -> Line:
    found = tuple(Found(*one) for one in values.pop("found"))
    unreadable, notes = (tuple((key, text) for key, text in values.pop(name)) for name in ("unreadable", "notes"))
    return Line(found=found, unreadable=unreadable, notes=notes, against=tuple(values.pop("against")), **values)


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(settings))
    if not path.exists():
        write_whole(path, (json.dumps(wanted, indent=2, sort_keys=True) + "\n").encode())
        return
    stored = json.loads(path.read_text())
    differing = list(_differing(stored, wanted))
    if differing:
        told = [f"{name} was {_short(old)}, now it is {_short(new)}" for name, old, new in differing[:_TOLD]]
        told += [f"{len(differing) - _TOLD} more differ"] if len(differing) > _TOLD else []
        raise OtherSettings(
            f"{path.parent} was made with other settings, which do not mix: {'; '.join(told)}; "
            f"give another --out, or delete {path.parent} to start afresh"
        )


def _differing(stored: dict[str, Any], wanted: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old, new) of all that differs; where the `name` of a group does, that stands for its numbers."""
    if before and "name" in stored and "name" in wanted and stored["name"] != wanted["name"]:
        yield f"{before}name", stored["name"], wanted["name"]
        return
    for name in sorted(stored.keys() | wanted.keys()):
        old, new = stored.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differing(cast(dict[str, Any], old), cast(dict[str, Any], new), f"{before}{name}.")
        elif old != new:
            yield f"{before}{name}", old, new


def _short(value: Any) -> str:
    if value is None:
        return "not set"
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
