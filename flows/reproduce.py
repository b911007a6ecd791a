"""Make a registered version again: its commit in a clean clone, its pipeline and overrides, compared bit by bit."""

import dataclasses
import hashlib
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.adapters import mlflow_registry
from flows.adapters.mlflow_registry import Version
from flows.registry_facts import is_cost
from flows.stages import output
from flows.stages.lineage import software_tags

NEEDED = ("git.commit", "git.dirty", "vitflow.pipeline", "vitflow.overrides")


class CannotReproduce(RuntimeError):
    """The version does not say enough, its commit is gone, or the run failed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the second model compares with the first."""

    uri: str
    checkout: str
    is_same: bool  # every bit of the weights file
    max_difference: float  # largest absolute difference of a weight; infinite if the networks have other shapes
    scores: Mapping[str, tuple[float | None, float | None]]  # those that differ, as (first, second)
    software: Mapping[str, tuple[str | None, str | None]]  # what differs, as (then, now): a likely cause


def reproduce(version: Version, root: Path, into: Path) -> Outcome:
    """Clone `root` at the version's commit into `into`, run the pipeline there with state of its own, and compare.

    Data are made again by prepare, from where the config says they are. Raises CannotReproduce, or ValueError if
    `into` exists.
    """
    check(version)
    if into.exists():
        raise ValueError(f"{into} exists; a version is made again in a new directory")
    clone(root, version.tags["git.commit"], into)
    results = run(version, into)
    with tempfile.TemporaryDirectory() as scratch:
        first = mlflow_registry.fetch(version.uri, Path(scratch))
        second = Path(results["outputs"]["finetune"]) / output.MODEL
        is_same = _sha256(first) == _sha256(second)
        difference = 0.0 if is_same else largest_difference(first, second)
    return Outcome(
        uri=version.uri,
        checkout=str(into),
        is_same=is_same,
        max_difference=difference,
        scores=_differing(_reached(version.scores), _reached(results["register"]["metrics"])),
        software=_differing(
            {name: value for name, value in version.tags.items() if name.startswith("software.")}, software_tags()
        ),
    )


def check(version: Version) -> None:
    """Raise CannotReproduce unless the version was made by a pipeline, from files that are in git."""
    missing = [name for name in NEEDED if name not in version.tags]
    if missing:
        raise CannotReproduce(f"{version.uri} was not made by a pipeline here: it has no {', '.join(missing)}")
    if version.tags["git.dirty"] != "false":
        raise CannotReproduce(
            f"{version.uri} was made from files that were not committed (git.dirty is {version.tags['git.dirty']}), "
            f"so {version.tags['git.commit'][:10]} alone does not make it again; commit before training"
        )


def clone(root: Path, commit: str, into: Path) -> None:
    """A clone of this checkout's repository at a commit; objects are shared, nothing is fetched."""
    for command in (
        ["git", "clone", "--quiet", "--no-checkout", str(root), str(into)],
        ["git", "-C", str(into), "checkout", "--quiet", "--detach", commit],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CannotReproduce(
                f"commit {commit} cannot be checked out of {root}: {done.stderr.strip()}; fetch the branch that has it"
            )


def run(version: Version, into: Path) -> dict[str, Any]:
    """The results of the pipeline, run by the clone's own code in a process of its own."""
    tags, workers = version.tags, version.scores.get("pretrain/world_size")
    overrides = [part for one in shlex.split(tags["vitflow.overrides"]) for part in ("--set", one)]
    command = [sys.executable, "-m", "flows.cli", "run", tags["vitflow.pipeline"], *overrides, "--json"]
    elsewhere = ("VITFLOW_ROOT", "MLFLOW_", "PREFECT_")  # the clone keeps its runs to itself
    environment = {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)}
    environment["PYTHONPATH"] = str(into)
    if workers is not None:  # sums of gradients in another order are other bits
        environment.setdefault("VITFLOW_WORKERS", str(int(workers)))
    done = subprocess.run(command, cwd=into, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise CannotReproduce(f"the run in {into} ended with exit code {done.returncode}; its last lines say why")
    return json.loads(done.stdout)


def largest_difference(first: Path, second: Path) -> float:
    """Of two files of weights; infinite if names or shapes differ."""
    from vit.models.weights import native

    one, other = native.read(first).state, native.read(second).state
    if {name: tensor.shape for name, tensor in one.items()} != {name: tensor.shape for name, tensor in other.items()}:
        return math.inf
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted({*first, *second})
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def _reached(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    """Scores without costs; NaN, which equals nothing, as None."""
    kept = {name: value for name, value in scores.items() if not is_cost(name)}
    return {name: value if value is not None and math.isfinite(value) else None for name, value in kept.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
