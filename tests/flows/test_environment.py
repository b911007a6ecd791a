"""Passwords leave the addresses that are printed, tagged and linked, and lie where their programs look for them."""

import os
from pathlib import Path

import pytest

from flows.adapters import s3_requests
from flows.environment import apply_defaults


@pytest.mark.parametrize(
    ("name", "given", "kept", "held"),
    [
        (
            "MLFLOW_TRACKING_URI",
            "http://ada:p%40ss@host:5000/x",
            "http://host:5000/x",
            {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "p@ss"},
        ),
        ("PREFECT_API_URL", "https://ada:word@host/api", "https://host/api", {"PREFECT_API_AUTH_STRING": "ada:word"}),
        ("MLFLOW_TRACKING_URI", "postgresql://ada:word@host/db", "postgresql://ada@host/db", {"PGPASSWORD": "word"}),
        ("MLFLOW_TRACKING_URI", "http://host:5000", "http://host:5000", {}),
    ],
)
def test_a_login_in_an_address_moves(
    name: str, given: str, kept: str, held: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING", "PGPASSWORD"):
        monkeypatch.delenv(variable, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", {**os.environ, name: given})
        apply_defaults(tmp_path)
        assert os.environ[name] == kept
        found = {variable: os.environ[variable] for variable in held}
    assert found == held


def test_errors_of_s3_name_the_server_without_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://ada:word@host:9000")
    assert s3_requests._endpoint() == "http://host:9000"
