"""A throw-away checkout with a `tiny` pipeline: the same code and stages, numbers that finish in seconds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def make_checkout(path: Path, *, pipelines: bool = True) -> Path:
    """A git clone of the working tree as it is, with `tiny` added to pipelines.yaml and committed."""
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for file in files:
        if (ROOT / file).is_file():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, path / file)
    if pipelines:
        document = yaml.safe_load((path / "pipelines.yaml").read_text())
        document["pipelines"] = {"tiny": tiny(document["pipelines"]["mini"])}
        (path / "pipelines.yaml").write_text(yaml.safe_dump(document))
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "test"]):
        subprocess.run([*git, *command], cwd=path, check=True)
    return path


def tiny(mini: dict) -> dict:  # type: ignore[type-arg]
    """The mini pipeline with small numbers."""
    mini["prepare"] |= {"num_images": 640, "planted_fraction": 0.02, "val_fraction": 0.1}
    mini["pretrain"]["model"] |= {"width": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64}
    mini["pretrain"]["train"] |= {"steps": 12, "batch_size": 32, "warmup_steps": 2, "log_every": 2, "save_every": 4}
    mini["finetune"]["train"] |= {"steps": 6, "batch_size": 32, "warmup_steps": 1, "log_every": 2, "save_every": 3}
    mini["evaluate"]["train"] |= {"steps": 4, "batch_size": 32, "warmup_steps": 1}
    mini["register"] |= {"model_name": "vit-tiny"}
    return mini


def environment(path: Path, **extra: str) -> dict[str, str]:
    """For a process in the checkout: its own code and state, no workers, nothing inherited from a running stack."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "RAY_", "VITFLOW_", "DVC_"))
    }
    binaries = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PYTHONPATH": str(path), "PATH": binaries, "VITFLOW_WORKERS": "0", "DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1"}
    return inherited | own | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"} | extra


def vitflow(path: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """`vitflow …` in the checkout."""
    return run(path, sys.executable, "-m", "flows.cli", *arguments, **extra)


def run(path: Path, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """A command in the checkout; its output is kept, its exit code is not checked."""
    return subprocess.run(
        command, cwd=path, env=environment(path, **extra), capture_output=True, text=True, check=False, timeout=600
    )
