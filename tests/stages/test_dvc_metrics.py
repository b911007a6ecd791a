"""`dvc metrics` and `dvc plots` on what the stages leave, as dvc.yaml declares it; outputs stay whole directories."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.stages import output
from tests.checkout import ROOT, run

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())
# Writes what three stages of `mini` leave, as far as DVC looks at it, under the output contract; `top1` is a parameter.
SCRIPT = """
import dataclasses, json, sys, yaml
from pathlib import Path
from flows.stages import output

@dataclasses.dataclass(frozen=True)
class Config:
    top1: float

stage, config = sys.argv[1], Config(**yaml.safe_load(Path("params.yaml").read_text()))
with output.writing(Path("runs/mini") / stage, stage, config, {}) as work:
    if stage == "evaluate":
        tasks = {"mini_digits": {"group": "natural", "top1": config.top1}}
        output.write_json(work / "scores.json", {"family": "mini", "mean_of_tasks": config.top1, "tasks": tasks})
    else:
        output.write_json(work / "metrics.json", {"val/top1": config.top1})
        rows = "".join(f"{step},{config.top1 / step}\\n" for step in (1, 2, 3))
        (work / "metrics.csv").write_text('"step","train/loss"\\n' + rows)
"""


def dvc(place: Path, *arguments: str) -> Any:
    """A command of DVC in that repository, with this checkout's code; its JSON."""
    done = run(place, "dvc", *arguments, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the three stages were committed with top-1 0.5, and ran again with 0.75."""
    place = tmp_path_factory.mktemp("dvc")
    stages = {
        stage: {"cmd": f"{sys.executable} write.py {stage}", "params": ["top1"], "outs": [f"runs/mini/{stage}"]}
        for stage in ("pretrain", "finetune", "evaluate")
    }
    declared = {"stages": stages, "metrics": DVC["metrics"], "plots": DVC["plots"]}
    (place / "dvc.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    (place / "write.py").write_text(SCRIPT)
    (place / "params.yaml").write_text("top1: 0.5\n")
    run(place, "git", "init", "-q")
    dvc(place, "init", "-q")
    dvc(place, "repro", "-q")
    for command in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "one"]):
        assert run(place, "git", *command).returncode == 0
    (place / "params.yaml").write_text("top1: 0.75\n")
    dvc(place, "repro", "-q")
    return place


def test_every_declared_file_is_one_that_a_stage_leaves() -> None:
    files = [*DVC["metrics"], *(file for plot in DVC["plots"] for one in plot.values() for file in one["y"])]
    assert {Path(file).parts[:2] for file in files} == {("runs", "mini")}
    assert {file.split("/", 2)[2] for file in files} == {
        *("pretrain/metrics.json", "finetune/metrics.json", "evaluate/scores.json"),
        *("pretrain/metrics.csv", "finetune/metrics.csv"),
    }


def test_metrics_are_shown_and_compared(twice: Path) -> None:
    shown = dvc(twice, "metrics", "show", "--json")[""]["data"]
    assert shown["runs/mini/finetune/metrics.json"]["data"] == {"val/top1": 0.75}
    changed = dvc(twice, "metrics", "diff", "--json")
    assert changed["runs/mini/evaluate/scores.json"] == {
        name: {"old": 0.5, "new": 0.75, "diff": 0.25} for name in ("mean_of_tasks", "tasks.mini_digits.top1")
    }
    assert changed["runs/mini/pretrain/metrics.json"]["val/top1"]["diff"] == 0.25


def test_learning_curves_are_compared(twice: Path) -> None:
    drawn = dvc(twice, "plots", "diff", "HEAD", "--json", "--split", "-o", "plots")
    assert set(drawn["data"]) == {"pretrain loss", "finetune loss"} and not drawn.get("errors")
    dvc(twice, "plots", "diff", "HEAD", "-o", "plots")
    page = (twice / "plots" / "index.html").read_text()
    assert page.count('"rev": "HEAD"') >= 6 and page.count('"rev": "workspace"') >= 6


def test_outputs_stay_whole_directories(twice: Path) -> None:
    for stage in ("pretrain", "finetune", "evaluate"):
        output.verify(twice / "runs/mini" / stage)
    assert "up to date" in dvc(twice, "status")
    recorded = yaml.safe_load((twice / "dvc.lock").read_text())["stages"]
    assert {out["path"] for one in recorded.values() for out in one["outs"]} == {
        *("runs/mini/pretrain", "runs/mini/finetune", "runs/mini/evaluate"),
    }
