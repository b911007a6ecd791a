"""Swift once for all tests of this directory, a fault proxy and a bucket for each."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.adapters.s3_store import S3Store
from tests.s3 import swift as swift_server
from tests.s3.proxy import FaultProxy, in_front_of
from tests.s3.stores import Corpus, environment, make_corpus, s3_store


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[swift_server.Server]:
    with swift_server.running(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture
def proxy(swift: swift_server.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The way to Swift: the environment names this proxy as the S3 endpoint."""
    with in_front_of(swift.url) as proxy:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in environment(proxy.url, swift.access_key, swift.secret_key).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def bucket(swift: swift_server.Server, request: pytest.FixtureRequest) -> str:
    return swift.make_bucket(f"bucket-{hashlib.sha256(request.node.name.encode()).hexdigest()[:20]}")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus", shards=6, samples=10)


@pytest.fixture(scope="session")
def uploaded(swift: swift_server.Server, corpus: Corpus) -> str:
    """The corpus in S3, as another tool would put it there."""
    bucket = swift.make_bucket("uploaded")
    for path in corpus.directory.iterdir():
        swift.client().upload_file(str(path), bucket, f"corpus/{path.name}")
    return f"s3://{bucket}/corpus"


@pytest.fixture
def store(uploaded: str, proxy: FaultProxy, tmp_path: Path) -> S3Store:
    return s3_store(uploaded, tmp_path / "cache")
