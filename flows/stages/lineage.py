"""Where a result comes from, as tags: the door that starts a stage fills them in, the stage reads them.

They travel beside the config, not in it: the commit, the machine and the run id do not change what a stage computes.
"""

import contextlib
import contextvars
import os
import platform
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

SOFTWARE = (
    "torch",
    "numpy",
    "ray",
    "pillow",
    "opencv-python-headless",
    "simplejpeg",
    "numba",
    "mlflow",
    "prefect",
    "dvc",
)
RUN_ID = "mlflow.run_id"  # the MLflow run that the door opened for this stage, if it did

current: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar(
    "lineage", default=types.MappingProxyType({})
)


def tags() -> dict[str, str]:
    """The tags of the stage that runs now; empty if nobody filled them in."""
    return dict(current.get())


@contextlib.contextmanager
def using(tags: Mapping[str, str]) -> Iterator[None]:
    """Hand these tags to the stage called inside the block."""
    token = current.set(dict(tags))
    try:
        yield
    finally:
        current.reset(token)


def git_tags(root: Path) -> dict[str, str]:
    """`git.commit`, and `git.dirty`: true if any file but dvc.lock, which runs themselves change, differs from it."""
    commit, status = (
        _git(root, "rev-parse", "HEAD"),
        _git(root, "status", "--porcelain", "--", ".", ":(exclude)dvc.lock"),
    )
    return {
        "git.commit": commit or "unknown",
        "git.dirty": "unknown" if commit is None or status is None else str(bool(status)).lower(),
    }


def hardware_tags() -> dict[str, str]:
    """What the stage runs on, without naming the host: `hardware.cpus`, `.cpu`, `.gpu`, `.platform`."""
    return {
        "hardware.cpus": str(os.cpu_count() or "unknown"),
        "hardware.cpu": _cpu_model(),
        "hardware.gpu": _gpus(),
        "hardware.platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def software_tags() -> dict[str, str]:
    """Versions of what computes, reads or keeps results: `software.torch`, …; those that are installed."""
    tags = {"software.python": platform.python_version()}
    for name in SOFTWARE:
        with contextlib.suppress(metadata.PackageNotFoundError):
            tags[f"software.{name}"] = metadata.version(name)
    return tags


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git, no checkout or no commit."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or "unknown")


def _gpus() -> str:
    """Names of the GPUs, if the process uses torch anyway: importing it for a tag would cost seconds."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
