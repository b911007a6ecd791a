"""Shared by all tests: quiet, one thread per process, nothing outside temporary directories."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from flows.adapters import postgres
from tests.checkout import environment, make_checkout

ON_DEMO = {"tests/flows/test_demo.py", "tests/ui/test_browser.py"}

torch.set_num_threads(1)
settings.register_profile("repo", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("repo")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests on the demo first: they take longest."""
    items.sort(key=lambda item: "demo" not in getattr(item, "fixturenames", ()))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """For `--dist loadfile`."""
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


class ByFile(LoadFileScheduling):
    """Gives a process whole files, and all on the demo to the same one. xdist has groups, but not for pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "demo" if file in ON_DEMO else file


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which `make demo` has run, with two Ray workers; it takes minutes, so all slow tests share it.

    The environment is this one, to save its installation.
    """
    checkout = make_checkout(tmp_path_factory.mktemp("demo"), "mini")
    (checkout / ".venv").symlink_to(Path(sys.prefix))
    start = time.monotonic()
    done = subprocess.run(
        ["make", "demo"],
        cwd=checkout,
        env=environment(checkout, VITFLOW_WORKERS="2", RAY_worker_niceness="0"),  # other tests run beside it
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, f"make demo took {time.monotonic() - start:.0f} s")
    return checkout


@pytest.fixture(scope="module")
def open_place() -> Iterator[Path]:
    """A folder whose contents PostgreSQL's user may reach; the test is skipped where there is no PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="vitflow-test-") as name:
        place = Path(name)
        place.chmod(0o711)
        if lacking := postgres.missing(place / "postgres"):
            pytest.skip(f"needs PostgreSQL (see .ci/run): {lacking}")
        yield place
