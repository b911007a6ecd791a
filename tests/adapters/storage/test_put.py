"""What is put somewhere is whole there, the same everywhere, and not sent twice; refusals are sentences."""

import dataclasses
from pathlib import Path

import boto3
import pytest

from flows.adapters import s3_objects, storage
from flows.adapters.s3_objects import Bucket
from flows.adapters.s3_store import S3Store
from tests.s3.proxy import FaultProxy, Plan
from tests.s3.stores import IMPATIENT, SHARD, Corpus, environment, s3_store
from vit.data.store import CorruptFile, LocalStore, StoreUnavailable


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


def test_parts_that_a_killed_process_left_are_removed(
    bucket: str, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = boto3.client("s3")
    for key in ("large.bin", "large.bin.other"):
        begun = s3.create_multipart_upload(Bucket=bucket, Key=key)
        s3.upload_part(Bucket=bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"half")
    monkeypatch.setattr(s3_objects, "PART", 5 * 2**20)
    (tmp_path / "large.bin").write_bytes(bytes(6 * 2**20))
    storage.put(tmp_path / "large.bin", f"s3://{bucket}/large.bin")
    left = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["large.bin.other"]
