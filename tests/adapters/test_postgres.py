"""The PostgreSQL of a checkout: started, asked, dumped, gone with its owner; its password in one file only."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.adapters import postgres

OWNER = """
import sys, time
from pathlib import Path
from flows.adapters import postgres
with postgres.running(Path(sys.argv[1])):
    print(Path(sys.argv[1], "data", "postmaster.pid").read_text().split()[0], flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def place(open_place: Path) -> Path:
    """Where a cluster has a database mlflow with one value."""
    with postgres.running(open_place / "first") as cluster:
        cluster.create("mlflow")
        cluster.query("CREATE TABLE t (v int); INSERT INTO t VALUES (42)", "mlflow")
    return open_place / "first"


def test_data_outlive_the_process_and_a_dump_fills_another(place: Path, open_place: Path) -> None:
    with postgres.running(place) as cluster:
        cluster.create("mlflow")  # it is there: nothing happens
        assert cluster.query("SELECT v FROM t", "mlflow") == "42"
        with postgres.attached(place) as same:
            assert same == cluster
            same.dump("mlflow", open_place / "dump")
    with postgres.attached(open_place / "second") as other:
        other.create("mlflow")
        other.restore("mlflow", open_place / "dump")
        assert other.query("SELECT v FROM t", "mlflow") == "42"


def test_only_who_has_the_password_comes_in(place: Path, open_place: Path) -> None:
    secret = (place / "pgpass").read_text().strip().rpartition(":")[2]
    assert (place / "pgpass").stat().st_mode & 0o077 == 0
    with postgres.running(place, open_place / "log") as cluster:
        assert cluster.query("SHOW listen_addresses", "postgres") == "127.0.0.1"
        assert secret not in cluster.address("mlflow", "psycopg")
        (open_place / "none").touch(0o600)
        with pytest.raises(RuntimeError, match="no password supplied"):
            dataclasses.replace(cluster, password_file=open_place / "none").query("SELECT 1", "postgres")
    assert secret not in (open_place / "log").read_text()


def test_it_ends_with_a_killed_owner(place: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(place)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    server = psutil.Process(int(owner.stdout.readline()))
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    server.wait(20)
    with postgres.running(place) as cluster:
        assert cluster.query("SELECT v FROM t", "mlflow") == "42"


def test_why_it_cannot_run(open_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_found", lambda name: None if name == "pg_dump" else Path(name))
    assert postgres.missing(open_place) == "pg_dump not found"
