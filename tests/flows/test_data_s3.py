"""Images in S3 (moto): every source reads them there, a corpus is referred to, looked at and de-duplicated there."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

from flows.adapters import storage
from flows.cli import app
from flows.stages import arrivals, tasks
from flows.stages.corpora import USUAL
from flows.stages.prepare import PrepareConfig, prepare
from flows.stages.training import corpus
from tests.flows.test_data_docs import KINDS, bring, picture
from tests.s3.stores import environment
from vit.data.shards import BadShard, Shards

CONFIG = PrepareConfig(
    seed=0,
    source="folder",
    location="s3://photos/all/photos",
    columns=USUAL,
    classes=None,
    num_val=0,
    merge=False,
    num_images=0,
    val_fraction=0.2,
    planted_fraction=0,
    downstream=None,
    max_reject_share=0.2,
    tasks=None,
    benchmarks=(),
)
IMAGES = {picture(number) for number in range(30)}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """s3://photos/all holds what `bring` brings, and a table of addresses; the cache is the test's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = environment(server, "key", "secret") | {"VITFLOW_CACHE": str(tmp_path / "cache"), "VITFLOW_WORKERS": "0"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tasks, "write_mini", lambda directory: directory.mkdir())
    boto3.client("s3").create_bucket(Bucket="photos")
    bring(tmp_path / "all")
    rows = [f"s3://photos/all/photos/{KINDS[n % 3]}/{n}.jpg,{n % 3}" for n in range(30)]
    (tmp_path / "all" / "addresses.csv").write_text("\n".join(["url,label", *rows]))
    storage.put(tmp_path / "all", "s3://photos/all")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "location"),
    [
        ("folder", "s3://photos/all/photos"),
        ("table", "s3://photos/all/addresses.csv"),
        ("webdataset", "s3://photos/all/shards"),
        ("huggingface", "s3://photos/all/parquet"),
        ("reference", "s3://photos/all/shards"),
    ],
)
@pytest.mark.parametrize("cache_bytes", ["1G", "0"])
def test_every_source_reads_from_s3(
    bucket: Path, source: str, location: str, cache_bytes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITFLOW_CACHE_BYTES", cache_bytes)
    out = prepare(dataclasses.replace(CONFIG, source=source, location=location), out=bucket / "out")
    written = Shards(out / "corpus", open_store=storage.open)
    assert {written.read(row) for row in range(len(written))} == IMAGES and len(written) == 30
    assert {"train", "val"} == set(written.table["split"].to_pylist())


def test_a_corpus_in_s3_is_referred_to_and_trained_on_as_the_local_one(bucket: Path) -> None:
    local = prepare(CONFIG, out=bucket / "local")
    storage.put(local / "corpus", "s3://photos/prepared")
    there = dataclasses.replace(CONFIG, source="reference", location="s3://photos/prepared")
    out = prepare(there, out=bucket / "there")
    assert not list((out / "corpus").glob("*.tar"))
    assert json.loads((out / "corpus" / "manifest.json").read_text())["location"] == "s3://photos/prepared"
    index = out / "corpus"  # stands for what de-duplication leaves
    first, second = corpus(local / "corpus", local / "corpus", "train"), corpus(out / "corpus", index, "train")
    assert first.digest == second.digest and first.keys == second.keys
    assert [first.read(row) for row in range(len(first))] == [second.read(row) for row in range(len(second))]


def test_a_damaged_copy_in_the_cache_is_not_served(bucket: Path) -> None:
    local = prepare(CONFIG, out=bucket / "local")
    storage.put(local / "corpus", "s3://photos/damaged")
    expected = [Shards(local / "corpus").read(row) for row in range(30)]
    there = Shards(storage.open("s3://photos/damaged"))
    assert [there.read(row) for row in range(30)] == expected
    cached = max(
        (path for path in (bucket / "cache").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    data = cached.read_bytes()
    cached.chmod(0o644)
    cached.write_bytes(data[:5000] + bytes(5000) + data[10_000:])
    for reader in (there, Shards(storage.open("s3://photos/damaged"))):
        try:
            assert [reader.read(row) for row in range(30)] == expected
        except BadShard as error:
            assert "s3://photos/damaged/corpus-00000.tar: image" in str(error)


def test_looking_at_what_lies_in_s3(bucket: Path) -> None:
    done = CliRunner().invoke(app, ["data", "inspect", "s3://photos/all/photos", "--json"], catch_exceptions=False)
    facts = json.loads(done.stdout)
    assert (facts["kind"], facts["images"], facts["classes"]) == ("folder", 30, {"ant": 10, "bee": 10, "cat": 10})
    assert [reject["key"] for reject in facts["rejected"]] == ["ant/broken.jpg"]
    local = prepare(CONFIG, out=bucket / "local")
    storage.put(local / "corpus", "s3://photos/looked")
    sheet = bucket / "sheet.png"
    done = CliRunner().invoke(
        app, ["data", "inspect", "s3://photos/looked", "--sheet", str(sheet)], catch_exceptions=False
    )
    assert "train 24, val 6" in done.stdout and sheet.is_file()


def test_new_objects_are_noticed_by_a_listing(bucket: Path) -> None:
    out = prepare(CONFIG, out=bucket / "out")
    assert arrivals.changes(CONFIG, out) == ()
    s3 = boto3.client("s3")
    s3.put_object(Bucket="photos", Key="all/photos-of-last-year/0.png", Body=b"elsewhere")
    assert arrivals.changes(CONFIG, out) == ()
    first = s3.list_objects_v2(Bucket="photos", Prefix="all/photos/")["Contents"][0]
    s3.put_object(Bucket="photos", Key=first["Key"], Body=b"x" * first["Size"])  # the same length, another ETag
    (reason,) = arrivals.changes(CONFIG, out)
    assert "s3://photos/all/photos has" in reason
