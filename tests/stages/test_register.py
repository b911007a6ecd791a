"""register: one version per model, lineage on run and version, the alias moves only for a better one."""

import contextlib
import dataclasses
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.adapters import mlflow_registry
from flows.adapters.mlflow_runs import ServiceDown, stage_run
from flows.adapters.mlflow_store import client
from flows.stages import lineage, output
from flows.stages.register import RegisterConfig, register, suite
from tests.networks import tiny_vit
from vit.models.vit import ViT
from vit.models.weights import native

CONFIG = RegisterConfig(model_name="vit-test", metric="vtab/mean_of_tasks", min_improvement=0.0, max_drop=None)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkout")


@pytest.fixture(autouse=True)
def store(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITFLOW_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    return root


def scores(score: float | None, *, num_test: int = 360, family: str = "mini") -> dict[str, Any]:
    task = {"group": "specialized", "family": family, "top1": score, "top1_random_init": 0.2, "chance": 0.1}
    task["num_test"] = num_test
    return {
        "family": family,
        "tasks": {"mini_digits": task},
        "groups": {"specialized": {"top1": score, "top1_random_init": 0.2}},
        "mean_of_tasks": score,
        "mean_of_groups": score,
        "mean_of_tasks_random_init": 0.2,
        "frozen_mean_of_tasks": {"few_shot_5": 0.4, "linear": 0.6, "nearest": 0.5},
        "benchmarks": {
            "cifar10": {"group": "transferred", "family": "lossless", "top1": 0.97, "chance": 0.1, "num_test": 10_000},
            "imagenet-real": {"group": "as_is", "family": "lossless", "top1": 0.5, "chance": 0.001, "num_test": 9},
        },
        "downstream": {"few_shot": {"5": {"top1": 0.64, "std": 0.001}}, "num_test": 9},
    }


def write(out: Path, stage: str, files: dict[str, Any], *, seed: int | None = None) -> Path:
    """A finished output with these JSON files, and a network if there is a seed."""
    with output.writing(out, stage, CONFIG, {}) as work:
        for name, value in files.items():
            output.write_json(work / name, value)
        if seed is not None:
            torch.manual_seed(seed)
            network = ViT(tiny_vit(resolution=16, patch_size=8), 2)
            native.save(work / output.MODEL, network, class_names=["cat", "dog"])
    return out


def outputs(directory: Path, score: float | None, *, seed: int = 0, num_test: int = 360) -> dict[str, Path]:
    """The inputs of register for a model of this seed and score."""
    report = {"removed": 12, "kept": 988, "planted": {"total": 12, "found": 12, "missed": []}}
    metrics = {"val/top1": 0.8, "val/loss": 0.5}
    return {
        "dedup": write(directory / "deduplicate", "deduplicate", {"report.json": report}),
        "pretrain": write(directory / "pretrain", "pretrain", {"metrics.json": metrics}),
        "model": write(directory / "finetune", "finetune", {"metrics.json": metrics | {"seed": seed}}, seed=seed),
        "scores": write(directory / "evaluate", "evaluate", {"scores.json": scores(score, num_test=num_test)}),
    }


def run(directory: Path, inputs: dict[str, Path], config: RegisterConfig = CONFIG) -> dict[str, Any]:
    out = register(config, **inputs, out=directory / "register")
    return json.loads((out / "registration.json").read_text())


def test_first_model_becomes_champion_and_names_its_origin(tmp_path: Path) -> None:
    inputs = outputs(tmp_path, 0.9)
    tags = {"git.commit": "c0ffee", "config.sha256": "ab", "dvc.prepare": "d41d"}
    with (
        stage_run("mini", "mini/register", {"vitflow.stage": "register", "vitflow.fingerprint": "door"}) as opened,
        lineage.using(tags | {"mlflow.run_id": opened.run_id}),
    ):
        found = run(tmp_path, inputs)
    assert (found["version"], found["uri"], found["alias"]) == ("1", "models:/vit-test/1", "champion")
    assert "no champion" in found["decision"]
    assert (found["metric"], found["value"], found["previous_champion"]) == ("vtab/mean_of_tasks", 0.9, None)
    assert found["metrics"]["vtab/specialized/mini_digits"] == found["metrics"]["vtab/specialized"] == 0.9
    assert found["metrics"]["pretrain/val/top1"] == found["metrics"]["finetune/val/top1"] == 0.8
    assert found["metrics"]["dedup/removed"] == found["metrics"]["dedup/planted/found"] == 12
    assert found["metrics"]["downstream/few_shot_5"] == 0.64
    (version,) = mlflow_registry.versions("vit-test")
    assert version.run_id == found["run_id"] == opened.run_id
    on_run = client().get_run(opened.run_id).data
    for name, value in tags.items():
        assert found["tags"][name] == version.tags[name] == on_run.tags[name] == value
    assert found["tags"]["input.finetune"] == output.digest(inputs["model"])
    assert on_run.metrics == found["metrics"] == version.scores
    assert "mlflow.run_id" not in version.tags
    card = client().get_model_version("vit-test", "1").description or ""
    assert "| specialized | mini_digits | mini | 90.0 % | 20.0 % | 10.0 % | 360 |" in card
    assert "| benchmark, fine-tuned to | cifar10 | lossless | 97.0 % | – | 10.0 % | 10000 |" in card
    assert "| benchmark, answered as it is | imagenet-real | lossless |" in card
    assert 'load_model("models:/vit-test/1")' in card
    assert "`git.commit`: c0ffee" in card


def test_what_the_trainings_cost_is_quoted_from_their_runs(tmp_path: Path) -> None:
    inputs = outputs(tmp_path, 0.9)
    names = {"vitflow.stage": "pretrain", "vitflow.fingerprint": output.read(inputs["pretrain"])["fingerprint"]}
    with stage_run("mini", "mini/pretrain", names) as opened:
        opened.log(5, {"device_hours": 0.5, "restarts": 0.0})
        opened.log(9, {"device_hours": 1.5, "restarts": 1.0, "redone_seconds": 40.0, "train/loss": 0.1})
    found = run(tmp_path, inputs, dataclasses.replace(CONFIG, model_name="vit-cost"))["metrics"]
    assert {name: value for name, value in found.items() if name.startswith("pretrain/") and "val" not in name} == {
        "pretrain/device_hours": 1.5,
        "pretrain/restarts": 1.0,
        "pretrain/redone_seconds": 40.0,
    }
    assert not [name for name in found if name.startswith("finetune/") and "hours" in name], "it has no run"


def test_same_model_again_is_the_same_version(tmp_path: Path) -> None:
    config = RegisterConfig(model_name="vit-again", metric="vtab/mean_of_tasks", min_improvement=0.0, max_drop=None)
    inputs = outputs(tmp_path, 0.5)
    first = run(tmp_path, inputs, config)
    bytes_before = (tmp_path / "register" / "registration.json").read_bytes()
    second = run(tmp_path, inputs, config)
    assert (tmp_path / "register" / "registration.json").read_bytes() == bytes_before
    stricter = RegisterConfig(model_name="vit-again", metric="vtab/mean_of_tasks", min_improvement=0.3, max_drop=None)
    third = run(tmp_path, inputs, stricter)
    assert first["version"] == second["version"] == third["version"] == "1"
    assert len(mlflow_registry.versions("vit-again")) == 1


def test_worse_unmeasured_and_incomparable_models_stay_challengers(tmp_path: Path) -> None:
    config = RegisterConfig(model_name="vit-gate", metric="vtab/mean_of_tasks", min_improvement=0.05, max_drop=None)
    attempts = [
        (0.6, 360, "champion", "no champion"),
        (0.62, 360, "challenger", "by the 0.05"),
        (None, 360, "challenger", "no number"),
        (0.9, 100, "challenger", "other data"),
        (0.7, 360, "champion", "beats the 0.6000 of version 1"),
    ]
    found: dict[str, Any] = {}
    for seed, (score, num_test, alias, reason) in enumerate(attempts):
        found = run(tmp_path, outputs(tmp_path, score, seed=seed, num_test=num_test), config)
        assert (found["version"], found["alias"]) == (str(seed + 1), alias)
        assert reason in found["decision"]
    assert found["previous_champion"] == {"version": "1", "value": 0.6}
    names = {alias: one.version for one in mlflow_registry.versions("vit-gate") for alias in one.aliases}
    assert names == {"champion": "5", "previous": "1", "challenger": "4"}


@pytest.mark.parametrize(
    ("name", "metric", "margin", "sentence"),
    [
        ("../x", "vtab/mean_of_tasks", 0.0, "model_name"),
        ("vit", "vtab/mean_of_tasks", -0.1, "min_improvement"),
        ("vit", "vtab/mean_of_tasks", float("nan"), "min_improvement"),
    ],
)
def test_wrong_config_is_refused_before_anything_runs(name: str, metric: str, margin: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RegisterConfig(model_name=name, metric=metric, min_improvement=margin, max_drop=None)


def test_unknown_metric_names_the_nearest_and_writes_nothing(tmp_path: Path) -> None:
    config = RegisterConfig(model_name="vit-none", metric="vtab/mean_of_task", min_improvement=0.0, max_drop=None)
    with pytest.raises(ValueError, match="nearest are vtab/mean_of_tasks"):
        run(tmp_path, outputs(tmp_path, 0.5), config)
    assert not (tmp_path / "register").exists()
    assert "vit-none" not in mlflow_registry.names()


def test_damaged_model_is_not_registered(tmp_path: Path) -> None:
    inputs = outputs(tmp_path, 0.5)
    with (inputs["model"] / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(output.IncompleteInput, match=r"model\.safetensors"):
        run(tmp_path, inputs)


def test_missing_server_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceDown, match=r"http://127\.0\.0\.1:9 does not answer"):
        run(tmp_path, outputs(tmp_path, 0.5))
    assert not (tmp_path / "register").exists()


def test_suite_depends_on_the_tasks_not_on_the_scores() -> None:
    assert suite(scores(0.1)) == suite(scores(0.9)) != suite(scores(0.1, num_test=361))
    assert len({suite(scores(0.1, family=family)) for family in ("mini", "hf", "noah-jpeg", "lossless")}) == 4


def test_every_score_says_which_data_it_is_on(tmp_path: Path) -> None:
    inputs = outputs(tmp_path, 0.5)
    inputs["scores"] = write(tmp_path / "hub", "evaluate", {"scores.json": scores(0.5, family="hf")})
    found = run(tmp_path, inputs, dataclasses.replace(CONFIG, model_name="vit-families"))
    (version,) = mlflow_registry.versions("vit-families")
    for tags in (found["tags"], version.tags):
        assert (tags["vtab.family"], tags["vtab.family.mini_digits"]) == ("hf", "hf")


@contextlib.contextmanager
def repository(path: Path) -> Iterator[Path]:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(path), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    for name in ("code.py", "dvc.lock"):
        (path / name).write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    yield path


def test_git_tags(tmp_path: Path) -> None:
    assert lineage.git_tags(tmp_path) == {"git.commit": "unknown", "git.dirty": "unknown"}
    with repository(tmp_path) as path:
        clean = lineage.git_tags(path)
        assert len(clean["git.commit"]) == 40
        (path / "dvc.lock").write_text("2")
        assert lineage.git_tags(path) == clean | {"git.dirty": "false"}
        (path / "code.py").write_text("2")
        assert lineage.git_tags(path)["git.dirty"] == "true"


def test_lineage_reaches_only_the_block_it_was_given_to() -> None:
    with lineage.using({"a": "1"}):
        assert lineage.tags() == {"a": "1"}
        with lineage.using({"b": "2"}):
            assert lineage.tags() == {"b": "2"}
        assert lineage.tags() == {"a": "1"}
    assert lineage.tags() == {}


def test_hardware_is_named_without_the_host() -> None:
    found = lineage.hardware_tags()
    assert int(found["hardware.cpus"]) >= 1
    assert set(found) == {"hardware.cpus", "hardware.cpu", "hardware.gpu", "hardware.platform"}
    assert all(found.values())
