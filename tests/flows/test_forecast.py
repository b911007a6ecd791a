"""`vitflow run NAME --dry-run`: for every pipeline what would run, on which data, at which cost, what is missing."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import forecast
from flows.adapters import storage
from flows.cli import app
from flows.stages.config import load, names
from flows.stages.judging import BenchmarkConfig
from flows.stages.prepare import EMBEDDED
from flows.stages.run import Run
from tests.checkout import ROOT, environment
from tests.s3.stores import environment as s3_environment
from vit.models.counting import Activations
from vit.training import scaling

# Table 6, exaFLOPs; R50+ViT-L/16 contradicts itself there (docs/models.md).
TABLE_6 = {
    "vit-b32-jft": 55,
    "vit-b16-jft": 224,
    "vit-l32-jft": 196,
    "vit-l16-jft": 783,
    "vit-l16-jft-14ep": 1567,
    "vit-h14-jft": 4262,
    "r50x1-jft": 50,
    "r50x2-jft": 199,
    "r101x1-jft": 96,
    "r152x1-jft": 141,
    "r152x2-jft": 563,
    "r152x2-jft-14ep": 1126,
    "r200x3-jft": 3306,
    "r50-vit-b32-jft": 106,
    "r50-vit-b16-jft": 274,
    "r50-vit-l32-jft": 246,
    "r50-vit-l16-jft-14ep": 1668,
}
ALL = dict.fromkeys(("prepare", "deduplicate", "pretrain", "finetune", "evaluate", "register"), ("never ran",))


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_ROOT", str(ROOT))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    forecast.needed_memory.cache_clear()


def dry(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["run", *arguments, "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


@pytest.mark.parametrize("name", names())
def test_every_pipeline_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations are counted by tests/vit/models/test_counting.py, and take a second a network."""
    monkeypatch.setattr("vit.models.counting.activations", lambda *_, **__: Activations(per_image=1, per_step=0))
    found = dry(name, "--on", "8xH100")
    assert found["stages"].keys() == ALL.keys() and found["data"]["corpus"]["source"]
    assert found["devices"]["number"] == 8 and found["devices"]["memory"] == 80e9
    for cost in found["cost"].values():
        assert cost["images"] > cost["steps"] > 0 and cost["device_hours"] > 0 and cost["checkpoint_bytes"] > 0
    assert bool(found["missing"]) == (name not in EMBEDDED)  # neither ImageNet nor VTAB is here
    if name in TABLE_6:
        assert found["cost"]["pretrain"]["exaflops"] == pytest.approx(TABLE_6[name], rel=0.021)


PROMISE = re.compile(r"((?:  #[^\n]*\n)+)  ([\w-]+):(?: &[\w-]+)?\n    (?:<<|prepare):")


def test_the_promises_of_pipelines_yaml_are_what_is_computed() -> None:
    """Hours of one H200 in the comment above each pipeline; the last number, as some comments speak of several."""
    comments = {name: comment for comment, name in PROMISE.findall((ROOT / "pipelines.yaml").read_text())}
    assert comments.keys() == set(names())
    h200 = forecast.Devices.named("H200")
    for name in comments.keys() - set(EMBEDDED):
        promised = float(re.findall(r"([\d,]+) hours", comments[name])[-1].replace(",", ""))
        expected = forecast.cost(load(name), "pretrain", h200, tasks=0)["device_hours"]
        assert promised == pytest.approx(expected, rel=0.03, abs=0.6), name


def test_mini_on_this_machine() -> None:
    found = dry("mini")
    assert found["missing"] == [] and found["data"]["tasks"]["number"] == 10
    assert found["cost"]["pretrain"]["images"] == 1400 * 64
    assert found["cost"]["evaluate"]["trainings"] == 20 and found["cost"]["evaluate"]["steps"] == 20 * 256
    assert found["devices"]["source"] == "measured here" and 1e9 < found["devices"]["peak"] < 1e15
    assert 3e5 < found["memory"]["bytes_per_image"] < 1e6 and found["memory"]["fixed_bytes"] > 16 * 500_000


def test_what_is_missing_is_said_in_sentences() -> None:
    missing = dry("vit-b16-i21k")["missing"]
    assert [sentence.split()[0].rpartition("/data/")[2] or sentence for sentence in missing[:2]] == [
        *("imagenet21k", "imagenet2012"),
    ]
    assert missing[2].startswith("data/vtab has no data of VTAB's tasks")
    assert missing[3].startswith("there is no GPU on this machine, and on 1 x")


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    (missing,) = [one for one in dry("mini", *sets(tmp_path))["missing"] if "ILSVRC" in one]
    assert "ILSVRC2012_img_train.tar" in missing and str(tmp_path) in missing


def sets(place: Path) -> list[str]:
    values = ("prepare.source=dataset:imagenet2012", f"prepare.location={place}")
    return [word for value in values for word in ("--set", value)]


def test_nothing_is_missing_for_a_stage_that_is_up_to_date() -> None:
    run = Run.of("vit-h14-jft")
    devices = forecast.Devices.named("L4")
    everything = forecast.forecast(run, ALL, devices)["missing"]
    fresh = forecast.forecast(run, dict.fromkeys(ALL, ()), devices)["missing"]
    assert len(everything) >= 4 and fresh == []


def test_memory_that_does_not_suffice() -> None:
    small = forecast.Devices(name="toy", number=1, peak=1e12, memory=8e9, source="")
    found = forecast.forecast(Run.of("vit-h14-jft"), ALL, small)
    assert 630e6 * 16 < found["memory"]["fixed_bytes"] < 12e9
    assert any("pre-training needs 11." in one and "toy has 8.0 GB; VITFLOW_SHARD=1" in one for one in found["missing"])


def test_devices_by_name() -> None:
    eight, one = forecast.Devices.named("8xh200"), forecast.Devices.named("NVIDIA A100-SXM4-80GB")
    assert (eight.name, eight.number, eight.peak) == ("H200", 8, scaling.H200)
    assert one.peak == pytest.approx(312e12 * 790 / 989)
    with pytest.raises(ValueError, match="no data sheet of device 'K80' is known; known are B200"):
        forecast.Devices.named("K80")
    done = CliRunner().invoke(app, ["run", "mini", "--dry-run", "--on", "0xH100"])
    assert done.exit_code != 0 and "must look like H100 or 8xH100" in str(done.exception)
    assert scaling.MEMORY.keys() == scaling.DATASHEET.keys()


def test_a_sweep_costs_its_points_and_its_seeds() -> None:
    finetuning = dry("vit-b16-i1k", "--on", "H100")["cost"]["finetune"]
    assert (finetuning["trainings"], finetuning["steps"]) == (4 + 3, 7 * 20_000)
    once = ("--set", "finetune.sweep.learning_rates=[]", "--set", "finetune.sweep.seeds=[]")
    single = dry("vit-b16-i1k", "--on", "H100", *once)["cost"]
    assert single["finetune"]["trainings"] == 1 and single["evaluate"]["trainings"] == 2 * 19 * 3
    assert finetuning["device_hours"] == pytest.approx(7 * single["finetune"]["device_hours"])


def test_benchmarks_cost_their_own_steps() -> None:
    """CIFAR-10 with two rates to choose from; ImageNet-ReaL is answered as the model is, and costs no training."""
    plain = load("mini")
    row = BenchmarkConfig(steps=100, warmup_steps=5, learning_rates=(0.01, 0.03))
    changed = dataclasses.replace(
        plain,
        prepare=dataclasses.replace(
            plain.prepare,
            source="folder",
            location="data",
            planted_fraction=0.0,
            tasks="data",
            benchmarks=("cifar10", "imagenet-real"),
        ),
        evaluate=dataclasses.replace(plain.evaluate, benchmarks={"cifar10": row}),
    )
    before, after = (forecast.work(config, "evaluate", tasks=10) for config in (plain, changed))
    assert after["trainings"] - before["trainings"] == 3, "two points and the run that is kept"
    assert after["steps"] - before["steps"] == 300


def test_hours_are_flops_over_speed() -> None:
    devices = forecast.Devices(name="toy", number=1, peak=1e15, memory=1e12, source="")
    cost = forecast.cost(load("vit-b16-jft"), "pretrain", devices, tasks=19)
    assert cost["device_hours"] == pytest.approx(cost["exaflops"] * 1e18 / 0.55e15 / 3600, rel=1e-3)
    assert cost["checkpoint_bytes"] == 12 * (85_798_656 + 768 * 769)


def test_s3_without_credentials_and_without_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    sentence = storage.problem("s3://bucket/corpus")
    assert sentence.startswith("s3://bucket/corpus needs credentials for S3, and there are none: set AWS_ACCESS_KEY_ID")
    for name, value in s3_environment("http://127.0.0.1:9", "key", "secret").items():
        monkeypatch.setenv(name, value)
    assert "127.0.0.1:9" in storage.problem("s3://bucket/corpus")


def test_it_starts_no_service() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from flows.cli import app;"
        "done = CliRunner().invoke(app, ['run', 'mini', '--dry-run']); assert done.exit_code == 0, done.output;"
        "print([name for name in ('ray', 'prefect', 'mlflow') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment(ROOT))
    assert done.stdout.strip() == "[]"
