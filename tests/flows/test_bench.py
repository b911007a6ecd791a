"""`vitflow bench train` on the smoke pipeline: every part is measured, and what it suggests it has measured."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows import bench
from flows.cli import app
from tests.checkout import SMOKE


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({"pipelines": yaml.safe_load(SMOKE.read_text())}))
    monkeypatch.setenv("VITFLOW_ROOT", str(tmp_path))
    monkeypatch.setattr(bench, "EACH", 0.3)
    return tmp_path


def test_json_holds_every_part(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    larger = bench.Setting(batch_size=64, precision="float32", env={"VITFLOW_MICRO_BATCH": "32"})
    monkeypatch.setattr(bench, "settings", lambda plain, steps: iter([larger]))
    done = CliRunner().invoke(app, ["bench", "train", "smoke", "--seconds", "600", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["devices"] == 1 and "has not been prepared" in found["corpus"] and found["peak_flops"] > 1e9
    for kind in ("in_memory", "with_loader"):
        profile = found[kind]
        assert set(profile["parts"]) == {"data", "forward", "backward", "optimizer"}
        assert all(seconds > 0 for part, seconds in profile["parts"].items() if part != "data")
        assert profile["images_per_second"] == pytest.approx(32 / profile["update"])
        assert 0 < profile["mfu"] < 1 and profile["communication"] is None
    assert found["in_memory"]["parts"]["data"] < found["in_memory"]["parts"]["forward"]
    assert found["tried"][0] == {
        "setting": "as it is",
        "images_per_second": found["in_memory"]["images_per_second"],
    }
    (second,) = found["tried"][1:]
    assert second["setting"] == "VITFLOW_MICRO_BATCH=32 --set pretrain.train.batch_size=64"
    assert second["images_per_second"] > 0
    assert not list(checkout.glob("runs/**/*")), "nothing is left behind"


def test_tables_say_the_same(checkout: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "train", "smoke", "--seconds", "0"])
    assert done.exit_code == 0, done.output
    assert all(word in done.output for word in ("forward", "backward", "optimizer", "images/s", "MFU", "as it is"))


def test_masked_patches_are_measured_likewise(checkout: Path) -> None:
    masking = "pretrain.masking={target: mean_colour, corrupted: 0.5, masked: 0.8, replaced: 0.1}"
    command = ["bench", "train", "smoke", "--seconds", "0", "--json", "--set", masking]
    done = CliRunner().invoke(app, [*command, "--set", "pretrain.model.representation=false"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["with_loader"]["images_per_second"] > 0


def test_the_pipeline_as_it_is_is_not_tried_twice() -> None:
    plain = bench.Setting(batch_size=32, precision="float32")
    tried = [setting.difference(plain) for setting in bench.settings(plain, 100)]
    assert "VITFLOW_COMPILE=1" in tried and "VITFLOW_MICRO_BATCH=16" in tried
    assert plain.difference(plain) == "as it is" and "as it is" not in tried


def test_only_what_is_clearly_faster_is_suggested() -> None:
    speeds = {"as it is": 100.0, "VITFLOW_COMPILE=1": 130.0, "--set pretrain.train.precision=bfloat16": 150.0}
    tried = [{"setting": name, "images_per_second": speed} for name, speed in speeds.items()]
    assert bench.suggestions(tried) == [
        "--set pretrain.train.precision=bfloat16 is 1.50 times as fast: it makes another model",
        "VITFLOW_COMPILE=1 is 1.30 times as fast",
    ]
    assert bench.suggestions([*tried[:1], {"setting": "VITFLOW_MICRO_BATCH=8", "images_per_second": 104.0}]) == [
        "nothing that was tried is clearly faster than the pipeline as it is"
    ]


def test_a_switch_is_switched_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_MICRO_BATCH", "4")
    monkeypatch.delenv("VITFLOW_COMPILE", raising=False)
    import os

    with bench.switched({"VITFLOW_MICRO_BATCH": "8", "VITFLOW_COMPILE": "1"}):
        assert (os.environ["VITFLOW_MICRO_BATCH"], os.environ["VITFLOW_COMPILE"]) == ("8", "1")
    assert os.environ["VITFLOW_MICRO_BATCH"] == "4" and "VITFLOW_COMPILE" not in os.environ
