"""Where files lie: `open` gives the same Store for a local path and for s3://bucket/prefix, `put` writes to either.

S3 is reached as the AWS_* environment says (any AWS_ENDPOINT_URL). Whole files are kept in a cache on this node, which
all its processes share: VITFLOW_CACHE is its directory (on a local disk), VITFLOW_CACHE_BYTES its limit; 0 turns it
off, and parts of files are read over the network. boto3 is imported only where an s3:// address is used.
"""

import os
import re
import shutil
from pathlib import Path

from vit.data.store import LocalStore, Store, StoreUnavailable

DIRECTORY, LIMIT = "VITFLOW_CACHE", "VITFLOW_CACHE_BYTES"
CACHE_BYTES = 64_000_000_000  # unless the environment says otherwise
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
LAST = ("manifest.json", "config.json")  # put after what they describe, so that who finds them finds everything


def open(location: str | Path | Store, *, cache: Path | None = None, cache_bytes: int | None = None) -> Store:
    """The Store at a local path or s3://bucket/prefix; a Store is returned as it is. Nothing is read yet.

    `cache` and `cache_bytes` (0: no cache) default to VITFLOW_CACHE and VITFLOW_CACHE_BYTES, and those to
    ~/.cache/vitflow and 64 GB. Raises ValueError for an address or a number that makes no sense.
    """
    if not isinstance(location, str | Path):
        return location
    remote = parse(location)
    if remote is None:
        return LocalStore(_local(location))
    from flows.adapters.s3_requests import PATIENCE
    from flows.adapters.s3_store import S3Store

    return S3Store(
        bucket=remote[0],
        prefix=remote[1],
        cache=(cache or cache_directory()).expanduser().absolute(),
        cache_bytes=cache_limit() if cache_bytes is None else cache_bytes,
        patience=PATIENCE,
    )


def problem(location: str | Path) -> str:
    """Why nothing can be read at a path or address, as a sentence; empty if something is there. S3 is asked once."""
    remote = parse(location)
    if remote is None:
        return (
            "" if _local(location).exists() else f"{location} does not exist; put the data there, or set its location"
        )
    from botocore.session import Session

    if Session().get_credentials() is None:
        return (
            f"{location} needs credentials for S3, and there are none: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    from flows.adapters.s3_objects import Bucket
    from flows.adapters.s3_requests import ONCE

    try:
        first = next(Bucket(name=remote[0], patience=ONCE).keys(f"{remote[1]}/" if remote[1] else ""), None)
    except (StoreUnavailable, FileNotFoundError) as error:
        return str(error)
    return "" if first else f"there is no object at {location}; put the data there, or set its location"


def put(path: Path, destination: str | Path) -> None:
    """Copy a file to an address or local path, or the files below a directory to the same names below it.

    Each file appears whole or not at all, and manifest.json and config.json come last. What is there already with the
    same contents is not sent to S3 again, so a put that was interrupted can be repeated. Raises FileNotFoundError if
    `path` is missing, ValueError for an address that makes no sense, StoreUnavailable naming the object.
    """
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        names.sort(key=lambda name: LAST.index(name) + 1 if name in LAST else 0)
        pairs = [(path / name, f"{str(destination).rstrip('/')}/{name}") for name in names]
    elif path.is_file():
        pairs = [(path, str(destination))]
    else:
        raise FileNotFoundError(f"{path} does not exist, so it cannot be put to {destination}")
    for file, target in pairs:
        _put_file(file, target)


def cache_directory() -> Path:
    """VITFLOW_CACHE, or the user's cache directory."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(DIRECTORY) or f"{caches}/vitflow")


def cache_limit() -> int:
    """VITFLOW_CACHE_BYTES, such as 200000000000, 200G or 0; raises ValueError for anything else."""
    text = os.environ.get(LIMIT) or str(CACHE_BYTES)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{LIMIT} is {text!r}, which is no number of bytes; write e.g. 200G, or 0 for no cache")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _put_file(file: Path, target: str) -> None:
    remote = parse(target)
    if remote is not None:
        from flows.adapters.s3_objects import Bucket
        from flows.adapters.s3_requests import PATIENCE

        if not remote[1]:
            raise ValueError(f"{target} names a bucket, but no object in it to put {file} to")
        Bucket(name=remote[0], patience=PATIENCE).upload(file, remote[1])
        return
    path = _local(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        shutil.copyfile(file, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def parse(location: str | Path) -> tuple[str, str] | None:
    """(bucket, prefix) of an s3:// address, None for a path; a Path has lost one of the slashes."""
    text = str(location)
    if text.startswith("s3:"):
        match = re.fullmatch(r"s3:/{1,2}([A-Za-z0-9][A-Za-z0-9._-]+)(?:/+(.*))?", text)
        if match is None:
            raise ValueError(f"{text!r} is no address in S3; write s3://bucket/prefix")
        return match[1], (match[2] or "").rstrip("/")
    if (scheme := re.match(r"(\w+):/", text)) and scheme[1] != "file":
        raise ValueError(f"{text!r}: {scheme[1]} is not supported; use a local path or s3://bucket/prefix")
    return None


def _local(location: str | Path) -> Path:
    return Path(str(location).removeprefix("file://")).expanduser()
