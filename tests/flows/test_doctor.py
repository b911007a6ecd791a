"""`vitflow doctor`: every check says what it found, and how to mend what is wrong."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import doctor
from flows.adapters import postgres
from flows.cli import app
from tests.checkout import ROOT


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("requirements.txt", "pipelines.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setenv("VITFLOW_ROOT", str(tmp_path))
    return tmp_path


def test_a_stray_version_and_a_missing_package_are_named(checkout: Path) -> None:
    assert doctor.packages().state == "ok"
    pins = (checkout / "requirements.txt").read_text()
    (checkout / "requirements.txt").write_text(
        pins.replace("sqlalchemy==2.0", "sqlalchemy==2.1") + "no-such-thing==1.0\n"
    )
    found = doctor.packages()
    assert found.state == "broken"
    assert "sqlalchemy 2.0" in found.detail and "(pinned 2.1" in found.detail
    assert "no-such-thing is missing (pinned 1.0)" in found.detail


def test_a_check_that_fails_is_a_finding(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the exit code says that something is broken; the other checks go on."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    (checkout / "pipelines.yaml").write_text("pipelines: {x: 1}")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    found = {one["what"]: one for one in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert {name for name, one in found.items() if one["state"] == "broken"} >= {
        "pipelines",
        "mlflow",
        "prefect",
        "ray",
    }
    assert all(one["mend"] for one in found.values() if one["state"] != "ok")
    assert found["python"]["state"] == "ok"


def test_which_database_the_servers_would_have(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "missing", lambda place: None)
    assert doctor.database().detail == "PostgreSQL"
    (checkout / "mlflow.db").touch()
    assert doctor.database().detail == "SQLite (as this checkout began)"
    (checkout / "mlflow.db").unlink()
    monkeypatch.setattr(postgres, "missing", lambda place: "initdb not found")
    assert doctor.database().detail == "SQLite (initdb not found)"


@pytest.mark.parametrize(("verifies", "state"), [(True, "ok"), (False, "warning")])
def test_a_remote_that_is_believed_is_a_warning(verifies: bool, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.dvc_repo, "remote", lambda root: "/disk/of/others")
    monkeypatch.setattr(doctor.dvc_repo, "remote_verifies", lambda root: verifies)
    assert doctor.dvc_remote().state == state
