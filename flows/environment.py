"""Environment that everything we start shares: state inside the checkout, no telemetry, generous start-up times.

Must run before prefect, ray, mlflow or dvc are imported; a variable that is already set wins. A stack started
by `vitflow up` is found through .vitflow/up.json.
"""

import enum
import json
import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import psutil

UP_FILE = Path(".vitflow") / "up.json"
POSTGRES = Path(".vitflow") / "postgres"  # below a checkout; its folder data is there once `vitflow up` began with it
ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PREFECT_API_URL")
UP_MLFLOW = "http://127.0.0.1:5000"  # where `vitflow up` serves MLflow unless told otherwise


class Database(enum.StrEnum):
    """Of the servers that `vitflow up` starts."""

    AUTO = "auto"
    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


def apply_defaults(root: Path | None = None) -> None:
    """Set the variables that are not set yet; passwords move from addresses to the variables that are made for them."""
    root = root or checkout()
    for name, value in (defaults(root) | running_stack(root)).items():
        os.environ.setdefault(name, value)
    for name in ADDRESSES:
        _take_login_out_of(name)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # its server does not make it


def _take_login_out_of(name: str) -> None:
    """Of http://user:password@host only http://host stays: addresses are printed, tagged and linked."""
    parts = urlsplit(os.environ.get(name, ""))
    login, at, host = parts.netloc.rpartition("@")
    user, _, password = map(unquote, login.partition(":"))
    if not at or not password:
        return
    if parts.scheme.startswith("postgresql"):
        held, host = {"PGPASSWORD": password}, f"{quote(user)}@{host}"
    elif name == "PREFECT_API_URL":
        held = {"PREFECT_API_AUTH_STRING": f"{user}:{password}"}
    else:
        held = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    os.environ[name] = urlunsplit(parts._replace(netloc=host))
    for variable, value in held.items():
        os.environ.setdefault(variable, value)


def defaults(root: Path) -> dict[str, str]:
    """Variable names to values for an embedded run in this checkout."""
    in_postgres = (root / POSTGRES / "data").exists()  # a second registry in SQLite would hide the models of the first
    return {
        "VITFLOW_ROOT": str(root),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_HOME": str(root / ".vitflow" / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "vitflow",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": UP_MLFLOW if in_postgres else f"sqlite:///{root / 'mlflow.db'}",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "DVC_NO_ANALYTICS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "GIT_PYTHON_REFRESH": "quiet",
    }


def running_stack(root: Path) -> dict[str, str]:
    """PREFECT_API_URL and MLFLOW_TRACKING_URI of a running `vitflow up` in this checkout, if there is one."""
    try:
        stack = json.loads((root / UP_FILE).read_text())
        if psutil.pid_exists(stack["pid"]):
            return dict(stack["environment"])
    except (OSError, ValueError, KeyError):
        pass
    return {}


def end_orphaned_servers() -> None:
    """Stop Prefect's temporary servers of this checkout whose flow was killed: nothing else ever would."""
    for process in psutil.process_iter():
        try:
            if (
                process.ppid() == 1
                and "prefect.server.api.server:create_app" in process.cmdline()
                and process.environ().get("PREFECT_HOME") == os.environ["PREFECT_HOME"]
            ):
                process.terminate()
        except psutil.Error:
            continue  # it ended meanwhile, or is somebody else's


def checkout() -> Path:
    """The nearest directory upwards that has a pipelines.yaml, else the one this package lies in."""
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / "pipelines.yaml").is_file():
            return directory
    return Path(__file__).parents[1]
