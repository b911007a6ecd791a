"""`vitflow backup` and `vitflow restore`: the registry, the runs and what the servers know, of this checkout.

Both databases as of one moment each (PostgreSQL's dump, SQLite's backup), then models that MLflow keeps on this disk;
what is on S3 is S3's to keep (versioning). Data and outputs of stages are DVC's: `dvc push`. May be taken while all is
in use, and restored in a checkout elsewhere. A backup is a folder, written whole or not at all, with the SHA-256 of
each file.
"""

import contextlib
import hashlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.adapters import postgres
from flows.environment import POSTGRES, running_stack
from flows.stack_databases import NAMES
from flows.stages.config import root
from flows.stages.lineage import git_tags

MANIFEST = "backup.json"
ARTIFACTS = "mlartifacts"
SQLITE = {"mlflow": Path("mlflow.db"), "prefect": Path(".vitflow") / "prefect" / "prefect.db"}
ASIDE = Path(".vitflow") / "before-restore"


def backup(out: Path) -> dict[str, Any]:
    """Write a backup to a folder that is not there yet; what its manifest says. Raises ValueError, RuntimeError."""
    if out.exists():
        raise ValueError(f"{out} exists; name a folder that does not")
    beside = out.with_name(out.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        in_postgres = (root() / POSTGRES / "data").exists()
        # First what refers, then what is referred to: artifacts are written before the database knows them.
        _dump_postgres(beside) if in_postgres else _dump_sqlite(beside)
        if (root() / ARTIFACTS).exists():
            shutil.copytree(root() / ARTIFACTS, beside / ARTIFACTS)
        manifest = {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "commit": git_tags(root())["git.commit"],
            "root": str(root()),
            "database": "postgresql" if in_postgres else "sqlite",
            "files": {str(path.relative_to(beside)): _sha256(path) for path in _files(beside)},
        }
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest


def restore(backed_up: Path, *, replace: bool) -> dict[str, Any]:
    """Put a backup back into this checkout; with `replace`, what is there is moved to .vitflow/before-restore first.

    Nothing is touched unless every file of the backup is as it was written. Raises ValueError, RuntimeError.
    """
    if running_stack(root()):
        raise ValueError("`vitflow up` runs in this checkout; stop it first")
    manifest = _verified(backed_up)
    with_postgres = manifest["database"] == "postgresql"
    if with_postgres and (lacking := postgres.missing(root() / POSTGRES)):
        raise ValueError(f"this backup is of PostgreSQL, which cannot run here: {lacking}")
    there = _state()
    if there and not replace:
        raise ValueError(f"this checkout has {', '.join(map(str, there))}; --replace moves that to {ASIDE}-…")
    with _moved_aside(there):
        if (backed_up / ARTIFACTS).exists():
            shutil.copytree(backed_up / ARTIFACTS, root() / ARTIFACTS)
        _load_postgres(backed_up) if with_postgres else _load_sqlite(backed_up, manifest["root"])
    return manifest


def _state() -> list[Path]:
    """What a checkout has of it, relative to it; SQLite's logs belong to the files that they lie beside."""
    patterns = [str(POSTGRES), *(f"{path}*" for path in SQLITE.values()), ARTIFACTS]
    return sorted(path.relative_to(root()) for pattern in patterns for path in root().glob(pattern))


def _dump_postgres(out: Path) -> None:
    with postgres.attached(root() / POSTGRES) as cluster:
        for name in NAMES:
            cluster.dump(name, out / f"{name}.dump")


def _load_postgres(backed_up: Path) -> None:
    with postgres.running(root() / POSTGRES) as cluster:
        for name in NAMES:
            cluster.create(name)
            cluster.restore(name, backed_up / f"{name}.dump")


def _dump_sqlite(out: Path) -> None:
    found = {name: root() / file for name, file in SQLITE.items() if (root() / file).exists()}
    if "mlflow" not in found:
        raise ValueError(f"there is nothing to back up in {root()}: no mlflow.db, no {POSTGRES}")
    for name, file in found.items():
        with contextlib.closing(sqlite3.connect(file)) as source, contextlib.closing(_sqlite(out, name)) as copy:
            source.backup(copy)


def _load_sqlite(backed_up: Path, was_in: str) -> None:
    for name, file in SQLITE.items():
        if (backed_up / f"{name}.db").exists():
            (root() / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(backed_up / f"{name}.db", root() / file)
    if was_in != str(root()):
        with contextlib.closing(sqlite3.connect(root() / SQLITE["mlflow"])) as database, database:
            _move_addresses(database, f"{Path(was_in).as_uri()}/", f"{root().as_uri()}/")


def _move_addresses(database: sqlite3.Connection, old: str, new: str) -> None:
    """Embedded runs keep whole addresses of their artifacts: those in the checkout follow it."""
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for _, column, kind, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
            if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                change = (
                    f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) WHERE substr("{column}", 1, ?) = ?'
                )
                database.execute(change, (new, len(old) + 1, len(old), old))


def _sqlite(out: Path, name: str) -> sqlite3.Connection:
    return sqlite3.connect(out / f"{name}.db")


@contextlib.contextmanager
def _moved_aside(there: list[Path]) -> Iterator[None]:
    """What was there is kept beside; it comes back if the block fails."""
    aside = root() / f"{ASIDE}-{time.strftime('%Y%m%d-%H%M%S')}"
    for path in there:
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        (root() / path).rename(aside / path)
    try:
        yield
    except BaseException:
        for path in _state():
            _remove(root() / path)
        for path in there:
            (aside / path).rename(root() / path)
        raise


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _verified(backed_up: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((backed_up / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{backed_up} is no backup: its {MANIFEST} cannot be read ({error})") from error
    found = {str(path.relative_to(backed_up)): path for path in _files(backed_up) if path.name != MANIFEST}
    if absent := sorted(manifest["files"].keys() - found.keys()):
        raise ValueError(f"the backup {backed_up} lacks {absent[0]} and {len(absent) - 1} other files")
    for name, expected in manifest["files"].items():
        if _sha256(found[name]) != expected:
            raise ValueError(
                f"the backup {backed_up} is damaged: {name} is not as it was written; nothing was restored"
            )
    return manifest


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
