"""Shared by all tests: quiet, one thread per process, nothing outside temporary directories."""

import os
import subprocess
import sys
import time
from pathlib import Path

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

from tests.checkout import environment, make_checkout

torch.set_num_threads(1)
settings.register_profile("repo", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("repo")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `--dist loadgroup`: tests that share the demo, or Swift, in one process; the demo first, since it takes
    longest; the others by file."""
    for item in items:
        shared = [name for name in ("demo", "swift") if name in getattr(item, "fixturenames", ())]
        item.add_marker(pytest.mark.xdist_group(shared[0] if shared else item.path.stem))
    items.sort(key=lambda item: "demo" not in getattr(item, "fixturenames", ()))


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
        env=environment(checkout, VITFLOW_WORKERS="2"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, f"make demo took {time.monotonic() - start:.0f} s")
    return checkout
