"""`vitflow up` on PostgreSQL: a run from images to a registered model, backed up while all of it runs, restored."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.checkout import make_checkout, vitflow
from tests.ui.served import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def checkout(open_place: Path) -> Path:
    checkout = make_checkout(open_place / "checkout")
    (checkout / ".vitflow").mkdir()
    return checkout


@pytest.fixture(scope="module")
def stack(checkout: Path) -> Iterator[Served]:
    with served(checkout) as running:
        yield running


def test_a_whole_run_a_backup_and_its_return(checkout: Path, stack: Served, open_place: Path) -> None:
    printed = (checkout / ".vitflow" / "up.txt").read_text()
    assert "on PostgreSQL at port" in printed
    done = vitflow(checkout, "run", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(checkout.glob("*.db")) and not list(checkout.glob(".vitflow/prefect/*.db")), "nothing is in SQLite"
    before = vitflow(checkout, "models", "show", "vit-smoke", "--json").stdout
    done = vitflow(checkout, "backup", str(open_place / "kept"))
    assert done.returncode == 0, done.stdout + done.stderr
    refused = vitflow(checkout, "restore", str(open_place / "kept"), "--replace")
    assert refused.returncode != 0 and "stop it first" in refused.stderr
    assert stack.interrupt() in (0, 130)

    alone = vitflow(checkout, "models")
    assert alone.returncode == 3 and "make up" in alone.stderr, "no second, empty registry is begun beside it"
    shutil.rmtree(checkout / ".vitflow" / "postgres")
    shutil.rmtree(checkout / "mlartifacts")
    done = vitflow(checkout, "restore", str(open_place / "kept"))
    assert done.returncode == 0, done.stdout + done.stderr
    with served(checkout) as again:
        assert vitflow(checkout, "models", "show", "vit-smoke", "--json").stdout == before
        rerun = vitflow(checkout, "run", "smoke", "--json")
        assert rerun.returncode == 0, rerun.stdout + rerun.stderr
        assert again.run_count() == 2, "the flow run from before the restore, and this one"


def test_a_killed_stack_leaves_nothing_behind(open_place: Path) -> None:
    """Servers, runner and PostgreSQL with all its processes end with `vitflow up`, even if that cannot say goodbye."""
    checkout = make_checkout(open_place / "killed")
    (checkout / ".vitflow").mkdir()
    with served(checkout) as stack:
        family = psutil.Process(stack.process.pid).children(recursive=True)
        assert any("postgres" in process.name() for process in family)
        stack.process.kill()
        stack.process.wait()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive
