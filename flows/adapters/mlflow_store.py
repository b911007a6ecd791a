"""Where MLflow keeps things, whether it answers, and the one client for it; runs and registry build on this.

Without MLFLOW_TRACKING_URI everything is kept in the checkout: `mlflow.db` (SQLite) and `mlartifacts/`.
"""

import contextlib
import fcntl
import functools
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

# Before the import: MLflow reads these once. No telemetry, no start-up chatter, no pickles, no index of packages, and
# requests that give up within a minute or two instead of ten.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

if TYPE_CHECKING:  # importing mlflow takes seconds, and every command imports this module
    from mlflow.tracking import MlflowClient

HEALTH_TIMEOUT = 5.0  # seconds
RESTART_SECONDS = 60.0  # that a restart of the server may take
T = TypeVar("T")
logger = logging.getLogger("vitflow")


class ServiceDown(ConnectionError):
    """The MLflow server does not answer."""


def root() -> Path:
    """The checkout: where pipelines.yaml lies, or VITFLOW_ROOT."""
    return Path(os.environ.get("VITFLOW_ROOT") or Path(__file__).parents[2]).resolve()


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite file in the checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root() / 'mlflow.db'}"


def check(uri: str) -> None:
    """Raise ServiceDown if `uri` is a server that does not answer within HEALTH_TIMEOUT; files always pass."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=HEALTH_TIMEOUT):
            return
    except urllib.error.HTTPError as error:
        if error.code in (401, 404):  # it lives, behind a login or a proxy that hides /health
            return
        reason = f"answers {error.code}: {error.reason}"
        if error.code == 403:
            reason += " (behind a service name it must be started with --allowed-hosts NAME,NAME:PORT)"
    except (OSError, ValueError) as error:
        reason = f"does not answer: {getattr(error, 'reason', error)}"
    raise ServiceDown(
        f"the MLflow server at {uri} {reason}. Start it (`make up`), correct MLFLOW_TRACKING_URI, or unset it to "
        "keep runs in this checkout"
    )


def patiently(work: Callable[[], T], seconds: float = RESTART_SECONDS) -> T:
    """What `work` returns, called again while the server is away, for at most so long: readers outlive its restart.

    Raises what `work` raises, at once if the server answers.
    """
    deadline, told = time.monotonic() + seconds, False
    while True:
        try:
            return work()
        except Exception:
            if _answers() or time.monotonic() > deadline:
                raise
            if not told:
                logger.warning("MLflow does not answer at %s; waiting up to %.0f s for it", tracking_uri(), seconds)
            told = True
        time.sleep(1)


def _answers() -> bool:
    try:
        check(tracking_uri())
    except ServiceDown:
        return False
    return True


def client() -> "MlflowClient":
    """The client of the tracking URI that holds now; raises ServiceDown before MLflow starts retrying."""
    uri = tracking_uri()
    check(uri)
    return _client(uri)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock of this checkout: one process of this machine at a time. Several machines need Prefect's limits."""
    path = root() / ".vitflow" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_name(name: str, what: str) -> str:
    """`name` if it is safe as a directory and in a URI; raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name) or ".." in name:
        raise ValueError(f"{what} {name!r} must be up to 100 letters, digits, '-', '_' or single '.', no '/' or '..'")
    return name


@functools.cache
def _client(uri: str) -> "MlflowClient":
    from mlflow.tracking import MlflowClient

    api = MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)
    if uri.startswith("sqlite:"):
        with locked("mlflow"):  # the first use creates the tables; two at once would break each other
            api.search_experiments(max_results=1)
    return api
