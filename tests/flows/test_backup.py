"""`vitflow backup` and `restore`: what was registered is there again, elsewhere too; nothing damaged is put back."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import backup as backups
from flows.adapters.mlflow_store import client
from flows.cli import app


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one run, its artifact, and a model version that stands for it."""
    enter(tmp_path / "first", monkeypatch)
    experiment = client().create_experiment("smoke", (tmp_path / "first" / "mlartifacts" / "smoke").as_uri())
    run = client().create_run(experiment)
    client().log_text(run.info.run_id, "what it learned", "notes.txt")
    client().create_registered_model("vit-smoke")
    client().create_model_version("vit-smoke", f"{run.info.artifact_uri}/model", run.info.run_id)
    client().set_registered_model_alias("vit-smoke", "champion", "1")
    return tmp_path / "first"


def enter(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir(exist_ok=True)
    monkeypatch.setenv("VITFLOW_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)  # MLflow sets it for its whole process


def champion_notes() -> str:
    """What the champion's run has as an artifact."""
    version = client().get_model_version_by_alias("vit-smoke", "champion")
    return Path(client().download_artifacts(version.run_id, "notes.txt")).read_text()


def test_restored_in_a_checkout_elsewhere(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(app, ["backup", str(tmp_path / "kept")])
    assert done.exit_code == 0, done.output
    shutil.rmtree(checkout)
    enter(tmp_path / "second", monkeypatch)
    done = CliRunner().invoke(app, ["restore", str(tmp_path / "kept")])
    assert done.exit_code == 0, done.output
    assert champion_notes() == "what it learned"
    source = client().get_model_version("vit-smoke", "1").source
    assert source.startswith((tmp_path / "second").as_uri()), "addresses follow the checkout"


def test_a_damaged_backup_touches_nothing(checkout: Path, tmp_path: Path) -> None:
    backups.backup(tmp_path / "kept")
    file = next((tmp_path / "kept").rglob("notes.txt"))
    file.write_text("what it Learned")
    with pytest.raises(ValueError, match=r"damaged: mlartifacts/.*notes.txt"):
        backups.restore(tmp_path / "kept", replace=True)
    file.unlink()
    with pytest.raises(ValueError, match=r"lacks mlartifacts/.*notes.txt"):
        backups.restore(tmp_path / "kept", replace=True)
    assert champion_notes() == "what it learned"


def test_what_is_there_is_kept(checkout: Path, tmp_path: Path) -> None:
    """Restoring over a registry asks for --replace, and then moves it aside; a backup never overwrites one."""
    backups.backup(tmp_path / "kept")
    with pytest.raises(ValueError, match="exists"):
        backups.backup(tmp_path / "kept")
    client().create_registered_model("vit-later")
    with pytest.raises(ValueError, match=r"mlflow.db.*--replace"):
        backups.restore(tmp_path / "kept", replace=False)
    backups.restore(tmp_path / "kept", replace=True)
    assert champion_notes() == "what it learned"
    (aside,) = checkout.glob(".vitflow/before-restore-*/mlflow.db")
    assert aside.stat().st_size > 0


def test_a_failure_half_way_puts_all_back(checkout: Path, tmp_path: Path) -> None:
    backups.backup(tmp_path / "kept")
    manifest = json.loads((tmp_path / "kept" / "backup.json").read_text())
    (tmp_path / "kept" / "backup.json").write_text(json.dumps(manifest | {"root": "not/absolute"}))
    with pytest.raises(ValueError, match="relative path"):
        backups.restore(tmp_path / "kept", replace=True)
    assert champion_notes() == "what it learned"


def test_not_while_the_stack_runs(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backups.backup(tmp_path / "kept")
    monkeypatch.setattr(backups, "running_stack", lambda root: {"MLFLOW_TRACKING_URI": "there"})
    with pytest.raises(ValueError, match="stop it first"):
        backups.restore(tmp_path / "kept", replace=True)
