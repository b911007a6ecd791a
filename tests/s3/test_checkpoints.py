"""A training whose machine is lost goes on elsewhere from the checkpoints that it kept in S3."""

import shutil
from collections.abc import Callable

import pytest

from flows.adapters import checkpoint_mirror
from tests.s3.proxy import FaultProxy
from tests.s3.swift import Server
from tests.vit.training.conftest import ALONE, Sitting, alone, sitting  # noqa: F401  fixtures
from tests.vit.training.test_equality import assert_same

pytestmark = pytest.mark.slow
Make = Callable[[str], Sitting]
STEP = {number: f"step-{number:08d}" for number in (16, 20, 24)}


@pytest.fixture
def address(bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VITFLOW_CHECKPOINTS", f"s3://{bucket}/runs")
    return f"s3://{bucket}/runs"


def kept(swift: Server, bucket: str) -> list[str]:
    listed = swift.client().list_objects_v2(Bucket=bucket, Prefix="runs/sitting/").get("Contents", [])
    return [item["Key"].removeprefix("runs/sitting/") for item in listed]


def test_a_killed_run_goes_on_with_an_empty_disk(
    swift: Server,
    bucket: str,
    address: str,
    alone: Sitting,  # noqa: F811
    sitting: Make,  # noqa: F811
) -> None:
    found = sitting("found")
    found.run(ALONE, dies=17)
    names = kept(swift, bucket)
    steps = sorted(int(name[5:13]) for name in names if name.endswith("manifest.json"))
    assert steps in ([8, 12], [12, 16]), "as on the disk: two, and older ones are removed"
    assert "sittings.jsonl" in names
    shutil.rmtree(found.directory / "checkpoints")
    found.run(ALONE)
    assert min(list(found.batches().values())[1]) == steps[-1] + 1
    assert_same(found, alone, exact=True)


def test_a_damaged_copy_is_passed_over(
    swift: Server,
    bucket: str,
    address: str,
    alone: Sitting,  # noqa: F811
    sitting: Make,  # noqa: F811
) -> None:
    found = sitting("found")
    found.run(ALONE)
    shutil.rmtree(found.directory / "checkpoints")
    assert {name.partition("/")[0] for name in kept(swift, bucket)} == {"sittings.jsonl", STEP[16], STEP[20]}
    client, folder = swift.client(), "runs/sitting"
    client.put_object(Bucket=bucket, Key=f"{folder}/{STEP[20]}/state.safetensors", Body=b"half")
    client.put_object(Bucket=bucket, Key=f"{folder}/{STEP[24]}/state.safetensors", Body=b"no manifest yet")
    _, err = found.run(ALONE)
    assert STEP[20] in err and "trying another" in err and STEP[24] not in err
    assert list(list(found.batches().values())[1]) == [17, 18, 19, 20]
    assert_same(found, alone, exact=True)


def test_the_folder_of_a_run_is_emptied(swift: Server, bucket: str, address: str, sitting: Make) -> None:  # noqa: F811
    from vit.training import mirror

    sitting("found").run(ALONE)
    there = checkpoint_mirror.configured("sitting")
    assert there is not None and there.names() == sorted(kept(swift, bucket)) != []
    mirror.clear(there, there.names())
    assert there.names() == kept(swift, bucket) == []


@pytest.mark.parametrize("text", ["bucket/prefix", "/scratch", "gs://bucket"])
def test_only_s3_is_elsewhere(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_CHECKPOINTS", text)
    with pytest.raises(ValueError, match="must be s3://bucket/prefix"):
        checkpoint_mirror.configured("run")
