"""Local paths and s3:// are interchangeable; what S3 refuses is a sentence. (moto, with a proxy that counts.)"""

import dataclasses
import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from flows.adapters import storage
from flows.adapters.file_cache import CacheFull, FileCache, Wanted
from flows.adapters.s3_objects import Bucket
from flows.adapters.s3_store import S3Store
from tests.s3.proxy import FaultProxy, Plan, in_front_of
from tests.s3.stores import IMPATIENT, Corpus, bytes_on_disk, environment, make_corpus, read_epoch, s3_store
from vit.data.store import CorruptFile, LocalStore, Store, StoreUnavailable, as_store

SHARD = "train-00000.tar"


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


def test_every_store_gives_the_same(any_store: Store, corpus: Corpus) -> None:
    whole = (corpus.directory / SHARD).read_bytes()
    assert any_store.names() == ["deeper/file.txt", *sorted(corpus.shards)]
    assert any_store.names(".tar") == sorted(corpus.shards)
    assert (any_store.size(SHARD), any_store.size("deeper/file.txt")) == (len(whole), 0)
    assert any_store.read(SHARD) == whole
    assert any_store.read(SHARD, 100) == whole[100:]
    assert any_store.read(SHARD, 100, 50) == whole[100:150]
    assert any_store.read(SHARD, 100, 0) == b""
    assert any_store.read(SHARD, len(whole) - 5, 50) == whole[-5:]
    assert any_store.read(SHARD, len(whole) + 5, 50) == b""
    assert any_store.read("deeper/file.txt") == any_store.read("deeper/file.txt", 0, 7) == b""
    assert any_store.local(SHARD).read_bytes() == whole
    assert any_store.local(SHARD, corpus.shards[SHARD]).read_bytes() == whole
    assert any_store.local("deeper/file.txt").read_bytes() == b""
    assert list(read_epoch(any_store, corpus)) == list(read_epoch(LocalStore(corpus.directory), corpus))


def test_every_store_names_what_is_missing(any_store: Store) -> None:
    for ask in (any_store.size, any_store.read, any_store.local, lambda name: any_store.read(name, 1, 2)):
        with pytest.raises(FileNotFoundError, match=r"/nothing\.tar"):
            ask("nothing.tar")


def test_every_store_keeps_to_its_directory(any_store: Store) -> None:
    for name in ("../bystander", "/etc/passwd", "", "a/../../b", "a\0b"):
        for ask in (any_store.size, any_store.read, any_store.local):
            with pytest.raises(ValueError, match="is no name of a file inside a store"):
                ask(name)


def test_every_store_refuses_what_has_another_digest(any_store: Store, corpus: Corpus) -> None:
    with pytest.raises(CorruptFile, match=rf"{SHARD} has SHA-256 {corpus.shards[SHARD]}, but 0000 (was|is) expected"):
        any_store.local(SHARD, "0000")
    assert any_store.local(SHARD, corpus.shards[SHARD]).is_file()


def test_a_directory_that_is_not_there(store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is no directory"):
        LocalStore(tmp_path / "nowhere").names()
    with pytest.raises(FileNotFoundError, match=r"s3://.*/nowhere holds no objects; check"):
        dataclasses.replace(store, prefix="nowhere").names()


def test_a_local_digest_is_computed_once_until_the_file_changes(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, hashed = LocalStore(corpus.directory), list[object]()
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file) or original(file, name))
    for _ in range(3):
        store.local(SHARD, corpus.shards[SHARD])
    assert len(hashed) == 1
    with (corpus.directory / SHARD).open("ab") as file:
        file.write(b"x")
    with pytest.raises(CorruptFile):
        store.local(SHARD, corpus.shards[SHARD])


def test_links_to_class_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.jpg").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "real")
    assert as_store(tmp_path / "images").names() == ["cat/1.jpg"]


# addresses and the environment


def test_open_takes_paths_and_addresses(tmp_path: Path) -> None:
    assert storage.open(tmp_path) == storage.open(str(tmp_path)) == storage.open(f"file://{tmp_path}")
    assert storage.open(tmp_path).uri == str(tmp_path)
    for address in ("s3://some-bucket/a/b/", Path("s3://some-bucket/a/b")):  # a Path merges slashes
        assert storage.open(address, cache=tmp_path).uri == "s3://some-bucket/a/b"
    assert storage.open("s3://some-bucket", cache=tmp_path).uri == "s3://some-bucket"
    there = storage.open(tmp_path)
    assert storage.open(there) is there
    assert as_store(there) is there


@pytest.mark.parametrize("address", ["s3://", "s3:///prefix", "gs://bucket/prefix", "https://host/file"])
def test_addresses_without_sense(address: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        storage.open(address)
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        storage.put(Path(__file__), address)


def test_an_address_as_a_path_is_not_taken_for_local() -> None:
    with pytest.raises(ValueError, match=r"flows\.adapters\.storage\.open"):
        as_store(Path("s3://bucket/prefix"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 64 * 10**9), ("0", 0), ("123", 123), ("200G", 200 * 10**9), ("1.5 tb", 15 * 10**11), ("7kB", 7000)],
)
def test_the_limit_of_the_cache(text: str, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITFLOW_CACHE_BYTES", text)
    monkeypatch.setenv("VITFLOW_CACHE", str(tmp_path))
    store = storage.open("s3://some-bucket")
    assert isinstance(store, S3Store)
    assert (store.cache_bytes, store.cache) == (expected, tmp_path)
    assert storage.open("s3://some-bucket", cache_bytes=5) == dataclasses.replace(store, cache_bytes=5)


@pytest.mark.parametrize("text", ["many", "-1", "1e9", "5 PB"])
def test_a_limit_without_sense(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_CACHE_BYTES", text)
    with pytest.raises(ValueError, match=r"VITFLOW_CACHE_BYTES is .* no number of bytes; write e\.g\. 200G"):
        storage.open("s3://some-bucket")


# the cache in front of S3


def test_each_shard_is_fetched_once_and_then_s3_may_be_away(
    store: S3Store, corpus: Corpus, proxy: FaultProxy, tmp_path: Path
) -> None:
    ids = list(read_epoch(store, corpus))
    assert len(proxy.gets()) == len(corpus.shards)
    proxy.requests.clear()
    proxy.plan = Plan(shares={"500": 1}, methods=("GET", "HEAD"))
    again = dataclasses.replace(store, cache_bytes=store.cache_bytes + 1)  # as another process would see the cache
    assert list(read_epoch(again, corpus)) == ids
    assert proxy.requests == []


def test_a_damaged_file_of_the_cache_is_never_served(store: S3Store, corpus: Corpus, proxy: FaultProxy) -> None:
    store.expect(corpus.shards)
    for held in (True, False):
        path = store.local(SHARD)
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))
        again = store if held else dataclasses.replace(store, cache_bytes=store.cache_bytes + 1)
        assert again.read(SHARD, 0, 100) == (corpus.directory / SHARD).read_bytes()[:100]
    assert len(proxy.gets(SHARD)) == 3


def test_an_object_that_was_replaced_is_noticed(store: S3Store, corpus: Corpus) -> None:
    old = store.local(SHARD).read_bytes()
    boto3.client("s3").put_object(Bucket=store.bucket, Key=f"a/b/{SHARD}", Body=b"new")
    assert store.read(SHARD, 0, 10) == old[:10], "a store of immutable files is asked once"
    fresh = dataclasses.replace(store, cache_bytes=store.cache_bytes + 1)
    assert fresh.read(SHARD, 0, 10) == b"new"
    with pytest.raises(CorruptFile, match=f"{corpus.shards[SHARD]} is expected"):
        fresh.local(SHARD, corpus.shards[SHARD])


def test_an_object_replaced_between_two_requests(store: S3Store) -> None:
    size = store.size(SHARD)
    boto3.client("s3").put_object(Bucket=store.bucket, Key=f"a/b/{SHARD}", Body=bytes(size))
    with pytest.raises(StoreUnavailable, match=rf"{SHARD}: .* 412 PreconditionFailed: the object was replaced while"):
        store.local(SHARD)
    assert store.local(SHARD).read_bytes() == bytes(size)


def test_a_cache_that_is_too_small_for_what_is_open(
    store: S3Store, corpus: Corpus, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    small = dataclasses.replace(store, cache_bytes=10)
    assert small.read(SHARD, 5, 100) == (corpus.directory / SHARD).read_bytes()[5:105]
    assert [request.range for request in proxy.gets(SHARD)] == ["bytes=5-104"]
    small.read(SHARD, 5, 100)
    assert caplog.text.count("parts are read over the network") == 1
    with pytest.raises(CacheFull, match=rf"s3://{store.bucket}/a/b/{SHARD} has .* raise the limit"):
        small.local(SHARD)


def test_a_process_lets_go_of_what_it_holds_to_make_room(store: S3Store, corpus: Corpus, proxy: FaultProxy) -> None:
    first, second, third, _ = sorted(corpus.shards)
    small = dataclasses.replace(store, cache_bytes=2 * max(store.size(name) for name in corpus.shards))
    small.read(first, 0, 1)
    of_another_process = small.fetch(second)
    small.read(third, 0, 1)
    assert [request.range for request in proxy.gets(third)] == [""], "not in parts over the network"
    assert of_another_process.read() == (corpus.directory / second).read_bytes()


def test_a_process_keeps_little_from_being_evicted(store: S3Store, corpus: Corpus) -> None:
    sizes = {name: store.size(name) for name in corpus.shards}
    limit = sum(sizes.values())
    first = dataclasses.replace(store, cache_bytes=limit)
    for name in sizes:
        first.read(name, 0, 1)
    large = Wanted(source="of another process", sha256=None)
    room = limit - max(sizes.values())
    FileCache(store.cache, limit).get(large, lambda: room, lambda file: str(file.write(bytes(room))))
    assert first.read(SHARD, 0, 9) == (corpus.directory / SHARD).read_bytes()[:9]


def test_an_epoch_through_a_small_cache(store: S3Store, corpus: Corpus, tmp_path: Path) -> None:
    """Room for two of four shards: files come and go, the limit holds and nothing is served torn."""
    limit = 2 * max(path.stat().st_size for path in corpus.directory.iterdir())
    small = dataclasses.replace(store, cache=tmp_path / "small", cache_bytes=limit)
    for seed, ids in enumerate(list(read_epoch(LocalStore(corpus.directory), corpus, seed=seed)) for seed in range(3)):
        seen: list[str] = []
        for sample in read_epoch(small, corpus, seed=seed):
            seen.append(sample)
            assert bytes_on_disk(tmp_path / "small") <= limit
        assert seen == ids


def test_a_store_travels_to_other_processes(store: S3Store, corpus: Corpus, tmp_path: Path) -> None:
    store.expect(corpus.shards)
    store.read(SHARD, 0, 1)
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    expected = (corpus.directory / SHARD).read_bytes()[7:77]
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        answers = context.Queue()
        children = [context.Process(target=_read_in_child, args=(store, answers)) for _ in range(2)]
        for child in children:
            child.start()
        assert [answers.get(timeout=30) for _ in children] == [expected] * 2
        for child in children:
            child.join(10)
            assert child.exitcode == 0


def _read_in_child(store: S3Store, answers: "multiprocessing.Queue[bytes]") -> None:
    store.read("train-00001.tar", 3, 4)
    answers.put(store.read(SHARD, 7, 70))


def test_pickling_keeps_what_files_must_be(store: S3Store) -> None:
    store.expect({SHARD: "0000"})
    data = pickle.dumps(store)
    child = multiprocessing.get_context("spawn").Process(target=_must_be_corrupt, args=(data,))
    child.start()
    child.join(60)
    assert child.exitcode == 0


def _must_be_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptFile):
        pickle.loads(data).read(SHARD, 0, 1)


def test_threads_share_a_store(store: S3Store, corpus: Corpus, proxy: FaultProxy) -> None:
    expected = {sample: (corpus.directory / sample.shard).read_bytes() for sample in corpus.samples}
    small = dataclasses.replace(store, cache_bytes=60_000)
    with ThreadPoolExecutor(8) as pool:
        for sample, data in zip(
            corpus.samples * 5,
            pool.map(lambda s: small.read(s.shard, s.offset, s.length), corpus.samples * 5),
            strict=True,
        ):
            assert data == expected[sample][sample.offset : sample.offset + sample.length]


def test_nothing_is_left_of_a_process_without_cache(store: S3Store, tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_local_without_cache, args=(store, tmp_path))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    where = Path((tmp_path / "where").read_text())
    assert where.name.endswith(SHARD)
    assert not where.parent.parent.exists()
    assert not store.cache.exists()


def _local_without_cache(store: S3Store, told: Path) -> None:
    path = dataclasses.replace(store, cache_bytes=0).local(SHARD)
    assert path.is_file()
    (told / "where").write_text(str(path))


# what S3 refuses


def test_refusals_are_sentences_and_not_repeated(
    store: S3Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_name = rf"s3://{store.bucket}/a/b/{SHARD}"
    proxy.plan = Plan(shares={"403": 1})
    with pytest.raises(StoreUnavailable, match=rf"{object_name}: {proxy.url} answered 403 AccessDenied: .*AWS_PROFILE"):
        store.read(SHARD)
    assert len(proxy.gets()) == 1
    proxy.plan = Plan()
    with pytest.raises(
        StoreUnavailable, match=r"s3://no-such-bucket/.*404 NoSuchBucket: .* check its name and AWS_END"
    ):
        dataclasses.replace(store, bucket="no-such-bucket").names()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreUnavailable, match=rf"{object_name}: no usable credentials .* check AWS_ACCESS_KEY_ID"):
        store.read(SHARD)


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_PROFILE", "nobody"), ("AWS_ENDPOINT_URL", "not an address"), ("AWS_REGION", "no where")],
)
def test_settings_without_sense(name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key, good in environment("http://127.0.0.1:1", "key", "secret").items():
        monkeypatch.setenv(key, good)
    monkeypatch.setenv(name, value)
    if name == "AWS_REGION":
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        monkeypatch.setenv("AWS_DEFAULT_REGION", value)
    with pytest.raises(StoreUnavailable, match=r"AWS_REGION and AWS_ENDPOINT_URL|AWS_ENDPOINT_URL, AWS_REGION"):
        s3_store("s3://some-bucket/a", tmp_path).read("b")


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in environment("http://127.0.0.1:9", "key", "secret").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        StoreUnavailable, match=r"s3://some-bucket/a/b could not be reached in 8 attempts .*127.0.0.1:9"
    ):
        s3_store("s3://some-bucket/a", tmp_path).read("b", 0, 5)


def test_an_endpoint_can_change_within_a_process(store: S3Store, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.size(SHARD)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)  # wins over AWS_ENDPOINT_URL, as in boto3
    assert Bucket(name=store.bucket, patience=IMPATIENT).endpoint() == moto


# put


def test_put_and_open_are_interchangeable(bucket: str, corpus: Corpus, proxy: FaultProxy, tmp_path: Path) -> None:
    (corpus.directory / "manifest.json").write_text("{}")
    (corpus.directory / "config.json").write_text("{}")
    (corpus.directory / "tasks").mkdir()
    (corpus.directory / "tasks" / "z.txt").write_text("z")
    for destination in (f"s3://{bucket}/copy", str(tmp_path / "copy")):
        proxy.requests.clear()
        storage.put(corpus.directory, destination)
        copy = storage.open(destination, cache=tmp_path / "cache")
        assert copy.names() == LocalStore(corpus.directory).names()
        assert all(copy.read(name) == (corpus.directory / name).read_bytes() for name in copy.names())
        if destination.startswith("s3"):
            puts = [request.path.rpartition("/")[2] for request in proxy.requests if request.method == "PUT"]
            assert puts[-2:] == ["manifest.json", "config.json"]
            assert copy.local("tasks/z.txt").read_text() == "z"
    storage.put(corpus.directory / "manifest.json", f"s3://{bucket}/one.json")
    assert storage.open(f"s3://{bucket}", cache=tmp_path / "cache").read("one.json") == b"{}"


def test_a_repeated_put_sends_nothing(bucket: str, corpus: Corpus, proxy: FaultProxy) -> None:
    storage.put(corpus.directory, f"s3://{bucket}/copy")
    proxy.requests.clear()
    storage.put(corpus.directory, f"s3://{bucket}/copy")
    assert {request.method for request in proxy.requests} == {"HEAD"}
    (corpus.directory / SHARD).write_bytes(b"changed")
    storage.put(corpus.directory, f"s3://{bucket}/copy")
    assert [request.path.rpartition("/")[2] for request in proxy.requests if request.method == "PUT"] == [SHARD]


def test_what_we_put_carries_its_digest(
    bucket: str, corpus: Corpus, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put(corpus.directory, f"s3://{bucket}/copy")
    proxy.plan = Plan(shares={"corrupt": 1})
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    with pytest.raises(CorruptFile, match=rf"{SHARD} has SHA-256 .* it was fetched 3 times"):
        s3_store(f"s3://{bucket}/copy", tmp_path / "cache").local(SHARD)
    monkeypatch.delenv("AWS_RESPONSE_CHECKSUM_VALIDATION")
    with pytest.raises(
        CorruptFile, match=rf"s3://{bucket}/copy/{SHARD} arrived in 8 attempts .* with another checksum"
    ):
        s3_store(f"s3://{bucket}/copy", tmp_path / "cache").local(SHARD)


def test_put_survives_errors_and_gives_up_with_a_name(
    bucket: str, corpus: Corpus, proxy: FaultProxy, tmp_path: Path
) -> None:
    upload = Bucket(name=bucket, patience=IMPATIENT).upload
    proxy.plan = Plan(seed=3, shares={"500": 0.3}, methods=("PUT", "HEAD"))
    for path in sorted(corpus.directory.iterdir()):
        upload(path, path.name)
    assert "500" in {request.fault for request in proxy.requests}
    proxy.plan = Plan()
    assert s3_store(f"s3://{bucket}", tmp_path / "cache").read(SHARD) == (corpus.directory / SHARD).read_bytes()
    proxy.plan = Plan(shares={"403": 1}, methods=("PUT",))
    with pytest.raises(StoreUnavailable, match=rf"s3://{bucket}/new: .* 403 AccessDenied"):
        upload(corpus.directory / SHARD, "new")


def test_put_wants_a_file_and_an_object(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing does not exist, so it cannot be put to s3://"):
        storage.put(tmp_path / "missing", f"s3://{bucket}/a")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="names a bucket, but no object"):
        storage.put(tmp_path / "file", f"s3://{bucket}")


def test_local_paths_need_no_boto3(tmp_path: Path) -> None:
    code = "import sys; from flows.adapters import storage; storage.open(sys.argv[1]); print('boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
