"""Both sides in S3 (moto): the same pairs as from the disk."""

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from flows.adapters import storage
from tests.dedup.sides import bring
from tests.dedup.test_folders import pairs, run
from tests.s3.stores import environment


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    where = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in (environment(where, "key", "secret") | {"VITFLOW_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="photos")
    yield "s3://photos"
    server.stop()


def test_both_sides_in_s3(bucket: str, tmp_path: Path) -> None:
    known = bring(tmp_path)
    for name in ("train", "pets", "cifar10"):
        storage.put(tmp_path / name, f"{bucket}/{name}")
    report = run(tmp_path, train=(f"{bucket}/train",), test=(f"{bucket}/pets", f"{bucket}/cifar10"))
    assert pairs(tmp_path / "out") == known and report["images_in"] == 61
    assert pq.read_table(tmp_path / "out" / "kept.parquet").num_rows == 55
