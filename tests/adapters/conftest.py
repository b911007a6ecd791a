"""One embedded MLflow store for the tests of this directory: creating its tables takes seconds."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkout")


@pytest.fixture
def store(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a checkout whose mlflow.db is used; shared, so tests take names of their own."""
    monkeypatch.setenv("VITFLOW_ROOT", str(store_root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store_root / 'mlflow.db'}")
    return store_root
