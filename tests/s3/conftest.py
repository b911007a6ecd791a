"""Swift once for all tests of this directory, a fault proxy and a bucket for each."""

import hashlib
import os
from collections.abc import Iterator

import pytest

from tests.s3 import swift as swift_server
from tests.s3.proxy import FaultProxy, in_front_of
from tests.s3.stores import environment


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
