"""Two doors, one room: the flow and `dvc repro` make the same bytes, share freshness, and never do work twice."""

import json
import shutil
from pathlib import Path

import pytest

from flows.stages.config import STAGES
from tests.checkout import hashes, make_checkout, run, vitflow

pytestmark = pytest.mark.slow
PURE = ("prepare", "deduplicate", "pretrain", "finetune", "evaluate")  # register also depends on the registry
OVERRIDE = "finetune.train.learning_rate=0.02"


@pytest.fixture(scope="module")
def by_flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = make_checkout(tmp_path_factory.mktemp("flow"))
    done = vitflow(checkout, "run", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "models:/vit-smoke/1" in done.stdout
    return checkout


@pytest.fixture(scope="module")
def by_dvc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = make_checkout(tmp_path_factory.mktemp("dvc"))
    done = run(checkout, "dvc", "repro", "register@smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout


def versions(checkout: Path) -> list[str]:
    listed = json.loads(vitflow(checkout, "models", "vit-smoke", "--json").stdout)
    return [version["version"] for version in listed]


def plan(checkout: Path, *arguments: str) -> dict[str, list[str]]:
    stages = json.loads(vitflow(checkout, "run", "smoke", "--dry-run", "--json", *arguments).stdout)["stages"]
    return {stage: one["because"] for stage, one in stages.items()}


def test_both_doors_give_the_same_bytes(by_flow: Path, by_dvc: Path) -> None:
    for stage in PURE:
        assert hashes(by_flow / "runs/smoke" / stage) == hashes(by_dvc / "runs/smoke" / stage), stage


@pytest.mark.parametrize("door", ["by_flow", "by_dvc"])
def test_neither_door_repeats_the_other(door: str, request: pytest.FixtureRequest) -> None:
    checkout = request.getfixturevalue(door)
    repro = run(checkout, "dvc", "repro", "register@smoke")
    assert repro.stdout.count("didn't change, skipping") == len(STAGES), repro.stdout
    again = vitflow(checkout, "run", "smoke")
    assert again.returncode == 0 and again.stdout.count("up to date") == len(STAGES)
    assert versions(checkout) == ["1"]


def test_override_runs_what_follows_elsewhere_and_only_once(by_flow: Path) -> None:
    before = {stage: hashes(by_flow / "runs/smoke" / stage) for stage in STAGES}
    first = vitflow(by_flow, "run", "smoke", "--set", OVERRIDE)
    assert first.returncode == 0, first.stderr
    for stage in ("prepare", "deduplicate", "pretrain"):
        assert f"{stage}: up to date" in first.stdout
    for stage in ("finetune", "evaluate", "register"):
        assert f"{stage}: done" in first.stdout
        assert len(list((by_flow / "runs/smoke").glob(f"{stage}@*"))) == 1
    assert {stage: hashes(by_flow / "runs/smoke" / stage) for stage in STAGES} == before
    assert "up to date" in run(by_flow, "dvc", "status").stdout
    known = versions(by_flow)
    second = vitflow(by_flow, "run", "smoke", "--set", OVERRIDE)
    assert second.stdout.count("up to date") == len(STAGES) and versions(by_flow) == known


@pytest.mark.parametrize("door", ["dvc checkout", "dvc repro register@smoke", "vitflow run smoke"])
def test_removed_outputs_come_back_from_the_cache(by_flow: Path, door: str) -> None:
    before = hashes(by_flow / "runs/smoke/pretrain")
    for stage in STAGES:
        shutil.rmtree(by_flow / "runs/smoke" / stage)
    done = vitflow(by_flow, "run", "smoke") if door.startswith("vitflow") else run(by_flow, *door.split())
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout and ": done" not in done.stdout
    assert hashes(by_flow / "runs/smoke/pretrain") == before
    assert plan(by_flow) == {stage: [] for stage in STAGES}


def test_editing_the_evaluation_leaves_pretraining_fresh(by_flow: Path) -> None:
    file = by_flow / "vit/evaluation/vtab.py"
    text = file.read_text()
    file.write_text(text + "\n# touched\n")
    try:
        reasons = plan(by_flow)
    finally:
        file.write_text(text)
    assert not reasons["pretrain"] and not reasons["finetune"]
    assert reasons["evaluate"] == ["vit/evaluation/vtab.py is modified"]
    assert reasons["register"] == ["evaluate runs before it"]


def test_failed_stage_is_not_recorded_and_leaves_nothing_half_written(by_flow: Path) -> None:
    """DVC believes whatever lies in a directory, so nothing may lie there after a failure."""
    override = ("--set", "prepare.source=folder", "--set", f"prepare.location={by_flow / 'docs'}")
    done = vitflow(by_flow, "run", "smoke", *override)
    assert done.returncode == 1
    assert str(by_flow / "docs") in done.stderr and "Traceback" not in done.stderr
    assert not list((by_flow / "runs/smoke").glob(".*writing*"))
    assert plan(by_flow) == {stage: [] for stage in STAGES}


def test_tracking_server_that_is_down_stops_the_run_before_it_costs_anything(by_flow: Path) -> None:
    down = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = vitflow(by_flow, "run", "smoke", "--set", "pretrain.train.steps=13", **down)
    assert done.returncode == 3
    assert "http://127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr
    assert not list((by_flow / "runs/smoke").glob("pretrain@*"))


def test_lineage_of_the_registered_version(by_flow: Path) -> None:
    (version,) = [one for one in json.loads(vitflow(by_flow, "models", "--json").stdout) if one["version"] == "1"]
    commit = run(by_flow, "git", "rev-parse", "HEAD").stdout.strip()
    assert version["tags"]["git.commit"] == commit and version["tags"]["git.dirty"] == "false"
    assert version["tags"]["vitflow.decision"].startswith("version 1 becomes champion")
    lock = (by_flow / "dvc.lock").read_text()
    for stage in PURE:
        assert version["tags"][f"dvc.{stage}"] in lock
    config = json.loads(version["tags"]["config.resolved"])
    assert config["pretrain"]["train"]["steps"] == 12 and set(config) == set(STAGES)


def test_the_report_as_a_page(by_flow: Path) -> None:
    done = vitflow(by_flow, "report", "smoke", "--html", "report.html", "--markdown", "report.md")
    assert done.returncode == 0, done.stderr
    text, plain = (by_flow / "report.html").read_text(), (by_flow / "report.md").read_text()
    (by_flow / "report.html").unlink(), (by_flow / "report.md").unlink()
    assert len(text) < 5_000_000 and text.count("<img ") >= 10  # curves, pairs, scores, corpus, four looks, two charts
    for written in (text, plain):
        assert "vitflow run smoke" in written and "5 a class" in written
    kept = by_flow.glob("mlartifacts/smoke/*/artifacts/report.html")  # the flow's end puts it there, for each run
    (mine,) = [page for page in kept if page.read_text() == text]
    assert (mine.parent / "registration.json").is_file()


def test_runs_side_by_side(by_flow: Path) -> None:
    (changed,) = (by_flow / "runs/smoke").glob("register@*")
    done = vitflow(by_flow, "report", "smoke", str(changed), "--json")
    assert done.returncode == 0, done.stderr
    names = [one["name"] for one in json.loads(done.stdout)]
    assert names == ["smoke", f"smoke {OVERRIDE}"]


def test_report_and_predict(by_flow: Path) -> None:
    report = json.loads(vitflow(by_flow, "report", "smoke", "--json").stdout)
    assert report["deduplicate"]["images_in"] == 640
    picture = next((by_flow / "runs/smoke/deduplicate").glob("*.png"))
    done = vitflow(by_flow, "predict", str(picture), "--model", "models:/vit-smoke@champion", "--json")
    (answer,) = json.loads(done.stdout)
    assert answer["image"] == str(picture) and 0 < answer["score"] <= 1
    missing = vitflow(by_flow, "predict", "nowhere.png", "--model", "models:/vit-smoke@champion")
    assert missing.returncode == 1 and "no such image file: nowhere.png" in missing.stderr
