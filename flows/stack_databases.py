"""Which database the servers of `vitflow up` keep their state in, started if it is one that has to be.

SQLite is what embedded runs use, too: a checkout that has begun with it stays with it, so that no model is lost from
sight. A fresh checkout on a machine with PostgreSQL begins with that, and its embedded runs then need `vitflow up`.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.adapters import postgres
from flows.environment import POSTGRES, Database
from flows.stages.config import root

NAMES = ("prefect", "mlflow")


@dataclass(frozen=True, kw_only=True)
class Databases:
    """Variables that tell each server where its state is."""

    sentence: str  # what is used, for people
    prefect: dict[str, str]
    mlflow: dict[str, str]


def chosen(database: Database) -> Database:
    """SQLITE or POSTGRESQL. Raises ValueError, with the reason, if what is asked for cannot be had here."""
    place, file = root() / POSTGRES, root() / "mlflow.db"
    lacking = postgres.missing(place)
    in_use = (place / "data").exists()
    if (database is Database.POSTGRESQL or in_use) and lacking is not None:
        raise ValueError(f"PostgreSQL cannot run: {lacking}. Install Debian's package postgresql, or its like")
    if database is Database.SQLITE and in_use:
        raise ValueError(f"this checkout's registry is in PostgreSQL ({place}); leave --database out")
    if database is Database.POSTGRESQL and file.exists():
        raise ValueError(f"this checkout's registry is in SQLite ({file}); use a fresh checkout, or move the file away")
    if database is Database.AUTO:
        return Database.SQLITE if lacking or (file.exists() and not in_use) else Database.POSTGRESQL
    return database


@contextlib.contextmanager
def databases(database: Database, logs: Path) -> Iterator[Databases]:
    """Ready for both servers while the block runs. Raises as `chosen`; RuntimeError if PostgreSQL does not start."""
    if chosen(database) is Database.SQLITE:
        yield Databases(
            sentence="SQLite", prefect={}, mlflow={"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{root() / 'mlflow.db'}"}
        )
        return
    with postgres.running(root() / POSTGRES, logs / "postgres.log") as cluster:
        for name in NAMES:
            cluster.create(name)
        prefect = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": cluster.address("prefect", "asyncpg")}
        mlflow = {"MLFLOW_BACKEND_STORE_URI": cluster.address("mlflow", "psycopg")}
        yield Databases(
            sentence=f"PostgreSQL at port {cluster.port}",
            prefect=prefect | cluster.environment,
            mlflow=mlflow | cluster.environment,
        )
