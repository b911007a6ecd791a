"""A PostgreSQL of this checkout: its binaries found, its cluster made once, started, stopped, dumped and restored.

It listens on the loopback only and asks for a password, which is in a file that libpq and asyncpg read (PGPASSFILE): no
address, command line or log holds it. PostgreSQL refuses to run as root; started by root, it runs as the user
`postgres`, which Debian's package makes.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.adapters.child_process import ends_with_parent

HOST = "127.0.0.1"
USER = "vitflow"
ACCOUNT = "postgres"  # of the operating system, if we are root
PASSWORD_FILE = "pgpass"
START_SECONDS = 60.0
NEEDED = ("initdb", "pg_dump", "pg_restore", "postgres", "psql")


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A cluster that runs."""

    port: int
    password_file: Path

    def address(self, database: str, driver: str = "") -> str:
        """For SQLAlchemy; without the password."""
        return f"postgresql{driver and '+' + driver}://{USER}@{HOST}:{self.port}/{database}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs beside the address."""
        return {"PGPASSFILE": str(self.password_file)}

    def dump(self, database: str, file: Path) -> None:
        """All of a database as of one moment, others writing meanwhile, in PostgreSQL's own compressed format."""
        self._run("pg_dump", "--format=custom", "--no-owner", f"--file={file}", database)

    def restore(self, database: str, file: Path) -> None:
        """Fill an empty database from a dump, in one transaction: all of it or nothing."""
        self._run("pg_restore", "--no-owner", "--single-transaction", f"--dbname={database}", str(file))

    def create(self, database: str) -> None:
        """A database, unless it is there."""
        if not self.query(f"SELECT 1 FROM pg_database WHERE datname = '{database}'", "postgres"):
            self.query(f'CREATE DATABASE "{database}"', "postgres")

    def query(self, query: str, database: str) -> str:
        """What psql prints for it, values alone. Raises RuntimeError."""
        return self._run("psql", "--no-psqlrc", "-qtAc", query, database).strip()

    def _run(self, tool: str, *arguments: str) -> str:
        command = [str(_tool(tool)), "-h", HOST, "-p", str(self.port), "-U", USER, "--no-password", *arguments]
        return _checked(command, os.environ | self.environment)


def missing(directory: Path) -> str | None:
    """Why no PostgreSQL can run with its data below this directory; None if one can."""
    if absent := [name for name in NEEDED if _found(name) is None]:
        return f"{', '.join(absent)} not found"
    if os.geteuid() == 0:
        try:
            account = _account()
        except KeyError:
            return f"it refuses to run as root, and there is no user {ACCOUNT}"
        there = next(path for path in (directory, *directory.parents) if path.exists())
        if subprocess.run(["test", "-x", str(there)], check=False, cwd="/", **account).returncode:
            return f"it refuses to run as root, and the user {ACCOUNT} may not enter {there}"
    return None


@contextlib.contextmanager
def running(directory: Path, log: Path | None = None) -> Iterator[Postgres]:
    """The cluster with its data below this directory, made if it is not there, at a free port.

    Ends with this process, whatever happens to it. Raises RuntimeError if it does not start.
    """
    account, data = _account(), directory / "data"
    if not (data / "PG_VERSION").is_file():
        _initialise(directory, account)
    # One may go on whose owner was killed where the kernel does not tell children: there must be one only.
    if (forgotten := _server(data)) is not None:
        forgotten.send_signal(signal.SIGINT)
        forgotten.wait(30)
    port = _free_port()
    # No socket files: their paths have a limit, which checkouts exceed.
    options = {"listen_addresses": HOST, "unix_socket_directories": "", "max_connections": "200"}
    command = [str(_tool("postgres")), "-D", str(data), "-p", str(port)]
    command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    with (log or Path(os.devnull)).open("ab") as output:
        process = subprocess.Popen(
            command,
            **account,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
            preexec_fn=ends_with_parent(signal.SIGINT),
        )
    cluster = Postgres(port=port, password_file=directory / PASSWORD_FILE)
    try:
        _wait(process, cluster, log)
        yield cluster
    finally:
        _stop(process)


@contextlib.contextmanager
def attached(directory: Path) -> Iterator[Postgres]:
    """The cluster as `running`; one that another process has started is used and left running."""
    file = directory / "data" / "postmaster.pid"
    if _server(directory / "data") is None:
        with running(directory) as cluster:
            yield cluster
    else:
        port = int(file.read_text().splitlines()[3])
        yield Postgres(port=port, password_file=directory / PASSWORD_FILE)


def _initialise(directory: Path, account: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    data, password = directory / "data", secrets.token_urlsafe(24)
    _write_secret(directory / PASSWORD_FILE, f"{HOST}:*:*:{USER}:{password}\n")
    shutil.rmtree(data, ignore_errors=True)  # of a start that was interrupted
    data.mkdir(mode=0o700)
    if account:
        os.chown(data, account["user"], account["group"])
    read, write = os.pipe()  # the password goes by a pipe: in no argument, in no second file
    os.write(write, password.encode())
    os.close(write)
    if account:
        os.fchown(read, account["user"], account["group"])
    try:
        command = [str(_tool("initdb")), "-D", str(data), "-U", USER, "--auth=scram-sha-256"]
        command += ["--encoding=UTF8", "--locale=C.UTF-8"]
        _checked(
            [*command, f"--pwfile=/dev/fd/{read}", "--no-instructions"],
            os.environ,
            pass_fds=(read,),
            cwd="/",
            **account,
        )
    except RuntimeError:
        shutil.rmtree(data, ignore_errors=True)
        raise
    finally:
        os.close(read)


def _write_secret(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)


def _server(data: Path) -> psutil.Process | None:
    """The process that serves this data, if there is one."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int((data / "postmaster.pid").read_text().split("\n")[0]))
        if process.name() == "postgres" and str(data) in process.cmdline():
            return process
    return None


def _wait(process: "subprocess.Popen[Any]", cluster: Postgres, log: Path | None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(RuntimeError):
            cluster.query("SELECT 1", "postgres")
            return
        time.sleep(0.1)
    said = f"; see {log}" if log else ""
    raise RuntimeError(f"PostgreSQL did not start at port {cluster.port} (exit code {process.poll()}){said}")


def _stop(process: "subprocess.Popen[Any]") -> None:
    """Its fast shutdown: clients are told to leave. Its immediate one if that takes longer than anyone would wait."""
    for by, patience in ((signal.SIGINT, 30.0), (signal.SIGQUIT, None)):
        if process.poll() is None:
            process.send_signal(by)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def _checked(command: list[str], environment: Mapping[str, str], **options: Any) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _account() -> dict[str, Any]:
    """Popen's arguments for the user that PostgreSQL runs as: oneself, unless that is root."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(ACCOUNT)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _tool(name: str) -> Path:
    found = _found(name)
    if found is None:
        raise RuntimeError(f"PostgreSQL's {name} was not found on PATH or in /usr/lib/postgresql")
    return found


def _found(name: str) -> Path | None:
    """On PATH, or where Debian's packages keep it, the newest."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    found = shutil.which(name) or next((path / name for path in versions if (path / name).is_file()), None)
    return Path(found) if found else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
