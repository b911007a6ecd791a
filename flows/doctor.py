"""`vitflow doctor`: what is installed, which services answer, what is misconfigured, and how to mend it."""

import dataclasses
import importlib.metadata
import json
import os
import shutil
import socket
import sys
import urllib.request
from collections.abc import Callable
from urllib.parse import urlparse

from rich.table import Table

from flows import stack_databases
from flows.adapters import dvc_repo, mlflow_runs, postgres
from flows.environment import POSTGRES, Database
from flows.stages.config import load, names, root
from flows.terminal import console

PACKAGES = ("prefect", "torch", "ray", "dvc", "mlflow", "boto3")  # those that are named; all are compared
NEEDED_GB = 2  # of disk for the embedded pipeline
COLOURS = {"ok": "green", "warning": "yellow", "broken": "red"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One check; `mend` says what to do unless the state is ok."""

    what: str
    state: str  # ok, warning or broken
    detail: str
    mend: str = ""


def show(*, as_json: bool) -> int:
    """Print all findings; the exit code is 0, or 1 if something is broken."""
    findings = examine()
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        table = Table()
        for column in ("what", "", "found", "to mend it"):
            table.add_column(column)
        for finding in findings:
            table.add_row(finding.what, f"[{COLOURS[finding.state]}]{finding.state}", finding.detail, finding.mend)
        console.print(table)
    return int(any(finding.state == "broken" for finding in findings))


def examine() -> list[Finding]:
    """All checks; one that itself fails is a broken finding, never a traceback."""
    checks = (python, packages, hardware, disk, pipelines, git, dvc, dvc_remote, mlflow, prefect, database, ray)
    return [_safely(check) for check in checks]


def python() -> Finding:
    return Finding(what="python", state="ok", detail=sys.version.split()[0])


def packages() -> Finding:
    """Installed versions against requirements.txt: a stray upgrade is why most servers won't start, or only half."""
    pinned = dict(line.split("==") for line in (root() / "requirements.txt").read_text().splitlines() if "==" in line)
    installed = {name: _version(name) for name in pinned}
    wrong = [
        f"{name} {found or 'is missing'} (pinned {pinned[name]})"
        for name, found in installed.items()
        if found != pinned[name]
    ]
    if wrong:
        mend = "touch requirements.txt && make setup"
        return Finding(what="packages", state="broken", detail=", ".join(wrong), mend=mend)
    shown = ", ".join(f"{name} {installed[name]}" for name in PACKAGES)
    return Finding(what="packages", state="ok", detail=f"{shown}, and {len(pinned) - len(PACKAGES)} more as pinned")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def hardware() -> Finding:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding(what="hardware", state="ok", detail=f"{os.cpu_count()} CPU cores, {', '.join(gpus) or 'no GPU'}")


def disk() -> Finding:
    free = shutil.disk_usage(root()).free / 1e9
    state = "ok" if free > NEEDED_GB else "broken"
    mend = "" if state == "ok" else "make clean, dvc gc --workspace, or a larger disk"
    return Finding(what="disk", state=state, detail=f"{free:.0f} GB free", mend=mend)


def pipelines() -> Finding:
    for name in names():
        load(name)
    return Finding(what="pipelines.yaml", state="ok", detail=f"{len(names())} pipelines, all valid")


def git() -> Finding:
    from flows.stages.lineage import git_tags

    tags = git_tags(root())
    if tags["git.commit"] == "unknown":
        mend = "git init and commit, or work in a clone"
        return Finding(
            what="git", state="warning", detail="no commit: models cannot say which code made them", mend=mend
        )
    if tags["git.dirty"] == "true":
        detail = f"{tags['git.commit'][:10]} with uncommitted changes, which models will be marked with"
        return Finding(what="git", state="warning", detail=detail, mend="git commit before a run that matters")
    return Finding(what="git", state="ok", detail=tags["git.commit"][:10])


def dvc() -> Finding:
    dvc_repo.ensure_initialised(root())
    return Finding(what="dvc", state="ok", detail=f"cache in {root() / '.dvc' / 'cache'}")


def dvc_remote() -> Finding:
    url = dvc_repo.remote(root())
    if url is None:
        mend = "dvc remote add --default NAME s3://… to share outputs"
        return Finding(what="dvc remote", state="ok", detail="none: outputs stay on this machine", mend=mend)
    if not dvc_repo.remote_verifies(root()):
        mend = "dvc remote modify NAME verify true"
        return Finding(what="dvc remote", state="warning", detail=f"`dvc pull` believes what {url} sends", mend=mend)
    return Finding(what="dvc remote", state="ok", detail=url)


def mlflow() -> Finding:
    uri = os.environ["MLFLOW_TRACKING_URI"]
    mlflow_runs.check(uri)
    return Finding(what="mlflow", state="ok", detail=uri)


def prefect() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    if url is None:
        return Finding(
            what="prefect", state="ok", detail="a temporary server for each run; `make up` keeps one with a UI"
        )
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5):
            return Finding(what="prefect", state="ok", detail=url)
    except OSError as error:
        detail = f"PREFECT_API_URL={url} does not answer ({error})"
        return Finding(what="prefect", state="broken", detail=detail, mend="start the server, or unset PREFECT_API_URL")


def database() -> Finding:
    """Which one `vitflow up` would use."""
    chosen = stack_databases.chosen(Database.AUTO)
    if chosen is Database.POSTGRESQL:
        return Finding(what="database", state="ok", detail="PostgreSQL")
    lacking = postgres.missing(root() / POSTGRES)
    mend = "install PostgreSQL before the first run, if several people or runs will share it"
    return Finding(what="database", state="ok", detail=f"SQLite ({lacking or 'as this checkout began'})", mend=mend)


def ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Finding(what="ray", state="ok", detail="started on this machine when a stage needs it")
    parsed = urlparse(address if "://" in address else f"ray://{address}")
    try:
        with socket.create_connection((parsed.hostname or "", parsed.port or 6379), timeout=5):
            return Finding(what="ray", state="ok", detail=address)
    except OSError as error:
        detail = f"RAY_ADDRESS={address} does not answer ({error})"
        return Finding(what="ray", state="broken", detail=detail, mend="start the cluster, or unset RAY_ADDRESS")


def _safely(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:
        return Finding(what=check.__name__, state="broken", detail=str(error), mend="see the message")
