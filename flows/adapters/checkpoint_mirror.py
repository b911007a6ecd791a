"""Checkpoints in S3: VITFLOW_CHECKPOINTS=s3://bucket/prefix keeps a copy of each there, for a machine that is lost.

Each run has a folder of its own below the prefix, named by stage and fingerprint; it is emptied when the run succeeded.
"""

import os
from pathlib import Path

from flows.adapters import storage
from vit.training.mirror import Mirror

ADDRESS = "VITFLOW_CHECKPOINTS"


def configured(run: str) -> Mirror | None:
    """The mirror of a run, None if VITFLOW_CHECKPOINTS is not set. Raises ValueError if that is no s3:// address."""
    address = os.environ.get(ADDRESS, "").rstrip("/")
    if not address:
        return None
    if not address.startswith("s3://"):
        raise ValueError(f"{ADDRESS} is {address!r}, but must be s3://bucket/prefix")
    from flows.adapters.s3_objects import Bucket
    from flows.adapters.s3_store import S3Store

    place = storage.open(f"{address}/{run}")
    assert isinstance(place, S3Store)
    bucket, start = Bucket(name=place.bucket, patience=place.patience), f"{place.prefix}/"

    def get(name: str, path: Path) -> None:
        head = bucket.head(start + name)
        with path.open("wb") as file:
            digest = bucket.download(start + name, file, head)
        if head.sha256 not in (None, digest):
            raise ValueError(f"{place.uri}/{name} is damaged: its SHA-256 is not the one it was put with")

    return Mirror(
        put=lambda path, name: storage.put(path, f"{place.uri}/{name}"),
        names=lambda: sorted(key.removeprefix(start) for key in bucket.keys(start)),
        get=get,
        remove=lambda name: bucket.remove(start + name),
    )
