"""Archives as their publishers name them, and how to get them: nothing is downloaded unless asked for.

A download is HTTPS only, resumed after an interruption, checked against the published checksum, and renamed into place
last: the file is whole or not there. Where the publisher wants a person to register first, the error says so.
"""

import dataclasses
import fcntl
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20
SPARE = 64 << 20  # bytes of disk that a download leaves free
LOOPBACK = {"127.0.0.1", "::1", "localhost"}  # where plain http harms nobody
TRANSIENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}  # and everything from 500
Progress = Callable[[str, int, int], None]  # name of the archive, bytes so far, bytes in all (0 if unknown)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Archive:
    """A published file, and what may stand for it in a directory."""

    name: str
    publisher: str  # a person can find it there
    digest: str = ""  # "md5:…" or "sha256:…"; empty where none is published
    size: int = 0  # bytes; 0 where not published
    url: str = ""  # empty where the publisher wants a login
    folders: tuple[str, ...] = ()  # names under which its extraction is accepted, too


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to bear with a server."""

    attempts: int = 6
    wait: float = 1.0  # seconds before the second attempt, doubled each time
    timeout: float = 60.0  # seconds without a byte


class DownloadFailed(ValueError):
    """A file could not be had; the text says why and what to do."""


def present(directory: Path, archive: Archive) -> Path | None:
    """The archive, or a folder that stands for it, if `directory` has one."""
    places = [directory / name for name in (archive.name, *archive.folders)]
    return next((place for place in places if place.exists()), None)


def need(directory: Path, archive: Archive) -> Path:
    """As `present`; raises ValueError saying what is missing, who publishes it and how to get it."""
    place = present(directory, archive)
    if place is None:
        raise ValueError(_missing(directory, archive))
    return place


def fetch(
    archives: Sequence[Archive],
    directory: Path,
    *,
    download: bool,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> list[Path]:
    """Where each archive lies, its checksum verified; those that are missing are downloaded first if `download`.

    Raises ValueError naming everything that is missing (before any download if something cannot be downloaded), or
    an archive whose content is not the published one; DownloadFailed if a server does not deliver.
    """
    missing = [archive for archive in archives if present(directory, archive) is None]
    if hopeless := [archive for archive in missing if not (download and archive.url)]:
        raise ValueError("\n".join(_missing(directory, archive) for archive in hopeless))
    for archive in missing:
        get(archive, directory, progress=progress, patience=patience or Patience())
    places = [need(directory, archive) for archive in archives]
    for archive, place in zip(archives, places, strict=True):
        if archive not in missing and place.name == archive.name and place.is_file():
            verify(place, archive)
    return places


def verify(path: Path, archive: Archive) -> None:
    """Raises ValueError if size or checksum of a file are not the published ones."""
    if archive.size and path.stat().st_size != archive.size:
        problem = f"has {path.stat().st_size} bytes, but {archive.name} as published has {archive.size}"
    elif archive.digest and (found := _digest(path, archive.digest)) != archive.digest:
        problem = f"has {found}, but {archive.name} as published has {archive.digest}"
    else:
        return
    raise ValueError(f"{path} {problem}: it is truncated, damaged or another version; move it away and get it again")


def get(archive: Archive, directory: Path, *, progress: Progress | None, patience: Patience) -> Path:
    """Download one archive into `directory`; what an earlier, interrupted download left is completed.

    Raises DownloadFailed; NAME.part then keeps what has arrived.
    """
    _check_url(archive.url)
    if not archive.digest:
        raise DownloadFailed(f"{archive.name} has no published checksum, so a download could not be trusted")
    directory.mkdir(parents=True, exist_ok=True)
    path, part = directory / archive.name, directory / f"{archive.name}.part"
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DownloadFailed(f"another process is downloading {path}; wait for it to finish") from error
        resumed = part.stat().st_size > 0
        try:
            _transfer(archive, file, progress, patience)
        finally:
            if not part.stat().st_size:
                part.unlink()
        if resumed and _digest(part, archive.digest) != archive.digest:  # the earlier bytes may be another version's
            file.truncate(0)
            _transfer(archive, file, progress, patience)
        if (found := _digest(part, archive.digest)) != archive.digest:
            file.truncate(0)
            raise DownloadFailed(f"{archive.url} gave a file with {found} where {archive.digest} is published")
        os.fsync(file.fileno())
        part.replace(path)
    return path


def _transfer(archive: Archive, file: IO[bytes], progress: Progress | None, patience: Patience) -> None:
    """Append to `file` until it is complete, trying again where trying again can help."""
    wait = patience.wait
    for attempt in range(1, patience.attempts + 1):
        try:
            _append(archive, file, progress, patience.timeout)
            return
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code < HTTPStatus.INTERNAL_SERVER_ERROR and error.code not in TRANSIENT:
                raise _failed(archive, reason) from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        if attempt == patience.attempts:
            raise _failed(archive, f"{reason} ({patience.attempts} attempts)")
        time.sleep(wait)
        wait *= 2


def _append(archive: Archive, file: IO[bytes], progress: Progress | None, timeout: float) -> None:
    """One request for what is missing; raises OSError if the connection ends before the file does."""
    have = os.fstat(file.fileno()).st_size
    headers = {"Accept-Encoding": "identity", "User-Agent": "vitflow"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = _opener().open(urllib.request.Request(archive.url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if (
            have and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        ):  # nothing is missing: the checksum decides
            return
        raise
    with response:
        if have and not _continues(response, have):
            file.truncate(0)
            have = 0
        rest = int(response.headers.get("Content-Length") or 0)
        _check_disk(file, archive, rest)
        total = have + rest if rest else 0
        have = _receive(response, file, have, lambda have: progress and progress(archive.name, have, total))
    if have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def _receive(response: Any, file: IO[bytes], have: int, tell: Callable[[int], None]) -> int:
    """Write what arrives, even if the rest does not; returns the length of the file."""
    try:
        while data := response.read1(CHUNK):
            file.write(data)
            have += len(data)
            tell(have)
    finally:
        file.flush()
    return have


def _continues(response: Any, have: int) -> bool:
    start = str(response.headers.get("Content-Range") or "").removeprefix("bytes ").split("-")[0]
    return response.status == HTTPStatus.PARTIAL_CONTENT and start == str(have)


class _StayEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows redirects as long as they are allowed URLs."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_StayEncrypted)


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise DownloadFailed(f"{url} is not https, so anybody on the way could change the file: it is not fetched")


def _check_disk(file: IO[bytes], archive: Archive, rest: int) -> None:
    free = shutil.disk_usage(Path(file.name).parent).free
    if free < rest + SPARE:
        raise DownloadFailed(
            f"{archive.name} needs {rest / 1e9:.1f} GB more, but {Path(file.name).parent} has {free / 1e9:.1f} GB free"
        )


def _failed(archive: Archive, reason: str) -> DownloadFailed:
    return DownloadFailed(
        f"{archive.url} could not be downloaded: {reason}. Run again to continue where it stopped, or get "
        f"{archive.name} from {archive.publisher} and put it into the directory"
    )


def _missing(directory: Path, archive: Archive) -> str:
    known = [archive.digest] if archive.digest else ["no checksum is published"]
    known += [f"{archive.size} bytes"] if archive.size else []
    how = f"download it with --download (from {archive.url}), or put it there yourself"
    if not archive.url:
        how = f"it needs an account: register with {archive.publisher}, accept the terms, and put the file there"
    folders = f"; a folder {' or '.join(archive.folders)} with its content will do" if archive.folders else ""
    return f"{directory / archive.name} is missing ({archive.publisher}; {', '.join(known)}): {how}{folders}"


def _digest(path: Path, like: str) -> str:
    """The checksum of a file, of the same kind as `like`."""
    kind = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()}"
