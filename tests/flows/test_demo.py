"""The acceptance of the demo, as a newcomer meets it: a fresh clone, `make demo`, twice; and what stands afterwards.

The demo's own accuracies are asserted: pictures that teach nothing would be no demonstration.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.stages.config import STAGES
from tests.checkout import ROOT, environment, vitflow

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(demo: Path) -> dict:  # type: ignore[type-arg]
    return json.loads(vitflow(demo, "report", "mini", "--json").stdout)


def test_all_planted_duplicates_are_found_and_nothing_else_goes(report: dict) -> None:  # type: ignore[type-arg]
    planted = report["deduplicate"]["planted"]
    assert planted["total"] == 200 and planted["missed"] == []
    assert planted["precision"] >= 0.98


def test_accuracies_are_well_above_chance(report: dict) -> None:  # type: ignore[type-arg]
    assert report["pretrain"]["val/top1"] > 0.4 and report["finetune"]["val/top1"] > 0.5  # chance is 1/64
    tasks = report["evaluate"]["tasks"]
    assert tasks["mini_digits"]["top1"] >= 0.9
    for name, task in tasks.items():
        assert task["top1"] > 1.3 * task["chance"], name


def test_again_is_quick_and_does_nothing(demo: Path) -> None:
    start = time.monotonic()
    done = subprocess.run(["make", "demo"], cwd=demo, env=environment(demo), capture_output=True, text=True, check=True)
    assert done.stdout.count("up to date") == len(STAGES)
    assert "models:/vit-mini/1" in done.stdout
    assert len(json.loads(vitflow(demo, "models", "vit-mini", "--json").stdout)) == 1
    assert time.monotonic() - start < 60  # 20 s on an idle machine; CI machines are shared


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Python that has mlflow and nothing of ours."""
    venv = tmp_path_factory.mktemp("plain")
    pin = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("mlflow=="))
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(venv)], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", str(venv / "bin/python"), pin], check=True)
    yield venv / "bin/python"


def test_a_plain_script_with_only_mlflow_finds_and_uses_the_champion(demo: Path, plain: Path, tmp_path: Path) -> None:
    from vit.data.shards import Shards

    test = Shards(demo / "runs/mini/prepare/corpus", splits=("val",))
    picture = tmp_path / "picture.png"
    picture.write_bytes(test.read(0))
    script = ROOT / "tests/consumer.py"
    environment_without_ours = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [str(plain), str(script), f"sqlite:///{demo / 'mlflow.db'}", str(picture)],
        cwd=tmp_path, env=environment_without_ours, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["torch_installed"]
    assert found["champion"].startswith("models:/vit-mini/")
    assert found["scores"]["vtab/natural/mini_digits"] >= 0.9
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=demo, capture_output=True, text=True, check=True).stdout
    assert (found["commit"], found["dirty"]) == (head.strip(), "false")
    assert re.fullmatch("[0-9a-f]{64}", found["config"]["config.sha256"])
    assert {f"dvc.{stage}" for stage in STAGES[:-1]} <= set(found["data"])
    (answer,) = found["from_bytes"]
    assert answer["label"] in test.class_names
    for kind in ("from_list_of_bytes", "from_table", "from_array", "top_3"):
        assert found[kind][0]["label"] == answer["label"], kind
    assert [row["image"] for row in found["top_3"]] == [0, 0, 0]
