"""A bucket in moto (S3 emulated in memory) behind a proxy that counts and spoils, and the same corpus on the disk."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from flows.adapters.file_cache import FileCache
from flows.adapters.s3_store import S3Store
from tests.adapters.storage.cached import SIZE
from tests.s3.proxy import FaultProxy, in_front_of
from tests.s3.stores import Corpus, environment, make_corpus, s3_store
from vit.data.store import LocalStore, Store


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "cache", 3 * SIZE)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def proxy(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with in_front_of(moto) as proxy:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in environment(proxy.url, "key", "secret").items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def bucket(proxy: FaultProxy, request: pytest.FixtureRequest) -> str:
    name = f"bucket-{hashlib.sha256(request.node.name.encode()).hexdigest()[:20]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(tmp_path / "corpus", shards=4, samples=6)


@pytest.fixture
def store(bucket: str, corpus: Corpus, proxy: FaultProxy, tmp_path: Path) -> S3Store:
    """The corpus in S3, put there by another tool, so that no object carries our digest."""
    client = boto3.client("s3")
    for path in corpus.directory.iterdir():
        client.upload_file(str(path), bucket, f"a/b/{path.name}")
    client.put_object(Bucket=bucket, Key="a/b/")
    client.put_object(Bucket=bucket, Key="a/b/deeper/file.txt", Body=b"")
    client.put_object(Bucket=bucket, Key="a/bystander", Body=b"of another prefix")
    proxy.requests.clear()
    return s3_store(f"s3://{bucket}/a/b", tmp_path / "cache")


@pytest.fixture(params=["local", "cache", "ranges"])
def any_store(request: pytest.FixtureRequest, store: S3Store, corpus: Corpus) -> Store:
    if request.param == "local":
        (corpus.directory / "deeper").mkdir()
        (corpus.directory / "deeper" / "file.txt").touch()
        return LocalStore(corpus.directory)
    return store if request.param == "cache" else dataclasses.replace(store, cache_bytes=0)
