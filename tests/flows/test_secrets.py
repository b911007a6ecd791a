"""No secret is written anywhere: canaries in every variable that holds one, whole runs, a search of all there is."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import servers
from tests.checkout import make_checkout, vitflow
from tests.ui.served import free_port

pytestmark = [pytest.mark.slow, pytest.mark.long]
MARK = "c4n4ry"
HELD = {
    "AWS_ACCESS_KEY_ID": f"{MARK}-access",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}-secret",
    "AWS_SESSION_TOKEN": f"{MARK}-session",
    "MLFLOW_TRACKING_USERNAME": f"{MARK}-user",
    "MLFLOW_TRACKING_PASSWORD": f"{MARK}-password",
    "PREFECT_SERVER_API_AUTH_STRING": f"admin:{MARK}-prefect",
    "PREFECT_API_AUTH_STRING": f"admin:{MARK}-prefect",
    "RAY_AUTH_TOKEN": f"{MARK}-ray",
    "PGPASSWORD": f"{MARK}-postgres",
    "HTTP_PROXY": f"http://somebody:{MARK}-proxy@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}


def with_login(url: str) -> str:
    """The same address with a name and a password in it, as people write it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{MARK}-name:{MARK}-word@{parts.netloc}{parts.path}"


def found(*places: Path) -> list[str]:
    """Files below the places that hold the mark, in any encoding of it that has its bytes."""
    files = (file for place in places for file in place.rglob("*") if file.is_file() and not file.is_symlink())
    return [str(file) for file in files if MARK.encode() in file.read_bytes()]


def test_no_secret_is_written(tmp_path: Path) -> None:
    checkout, home, logs = make_checkout(tmp_path / "checkout"), tmp_path / "prefect", tmp_path / "logs"
    home.mkdir()
    logs.mkdir()
    for file in found(checkout):
        Path(file).unlink()  # this very test
    mlflow = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", mlflow.rpartition(":")[2]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{checkout}/mlflow.db", "--serve-artifacts"]
    command += ["--artifacts-destination", (checkout / "mlartifacts").as_uri()]
    with (
        servers.prefect(checkout, home, **HELD) as api,
        servers.running(command, f"{mlflow}/health", checkout, logs / "mlflow", **HELD),
    ):
        variables = HELD | {"PREFECT_API_URL": api, "MLFLOW_TRACKING_URI": with_login(mlflow)}
        said: list[subprocess.CompletedProcess[str]] = [vitflow(checkout, "run", "smoke", **variables)]
        assert said[0].returncode == 0, said[0].stdout + said[0].stderr
        said.append(vitflow(checkout, "doctor", **variables))
        down = variables | {"MLFLOW_TRACKING_URI": with_login("http://127.0.0.1:9")}
        said.append(vitflow(checkout, "run", "smoke", "--set", "finetune.train.seed=5", **down))
        assert said[2].returncode == 3 and "does not answer" in said[2].stderr
    spoken = [line for one in said for line in (one.stdout + one.stderr).splitlines() if MARK in line]
    assert not spoken, spoken
    assert not found(checkout, home, logs)
