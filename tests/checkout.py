"""A throw-away checkout: the working tree as it is, committed, with its own state; and commands run in it."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "tests" / "smoke.yaml"


def make_checkout(path: Path, *pipelines: str) -> Path:
    """A git repository with the files of the working tree that git would track, and these pipelines (default: smoke).

    `smoke` comes from tests/smoke.yaml; the others are those of pipelines.yaml.
    """
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for file in files:
        if (ROOT / file).is_file():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, path / file)
    for file in (ROOT / "vit").rglob("__pycache__/*.nb[ic]"):  # numba's machine code: compiled once, not per checkout
        (path / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, path / file.relative_to(ROOT))
    known = yaml.safe_load((ROOT / "pipelines.yaml").read_text())["pipelines"] | yaml.safe_load(SMOKE.read_text())
    chosen = {"pipelines": {name: known[name] for name in pipelines or ("smoke",)}}
    (path / "pipelines.yaml").write_text(yaml.safe_dump(chosen, sort_keys=False))
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "test"]):
        subprocess.run([*git, *command], cwd=path, check=True)
    return path


def environment(path: Path, **extra: str) -> dict[str, str]:
    """For a process in the checkout: its own code and state, no workers, nothing inherited from a running stack."""
    prefixes = ("PREFECT_", "MLFLOW_", "RAY_", "VITFLOW_", "DVC_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    own = {
        "PYTHONPATH": str(path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VITFLOW_WORKERS": "0",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    return inherited | own | extra


def vitflow(path: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """`vitflow …` in the checkout."""
    return run(path, sys.executable, "-m", "flows.cli", *arguments, **extra)


def run(path: Path, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """A command in the checkout; its output is kept, its exit code is not checked."""
    return subprocess.run(
        command, cwd=path, env=environment(path, **extra), capture_output=True, text=True, check=False, timeout=900
    )


def hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, by relative path."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".gitignore"
    }
