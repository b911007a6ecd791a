"""One run of a pipeline: its config, where each stage writes, and whether that is already there.

A stage whose section and inputs are those of pipelines.yaml writes to `runs/NAME/STAGE`, which DVC tracks. Any
other writes to `runs/NAME/STAGE@FINGERPRINT`, which DVC never sees, and is found again by that fingerprint.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.adapters import dvc_repo
from flows.adapters.mlflow_store import check_name
from flows.stages import arrivals, output
from flows.stages.config import INPUTS, STAGES, ConfigError, Pipeline, load, root
from flows.stages.prepare import PrepareConfig

logger = logging.getLogger("vitflow.run")
# What a stage writes before it is renamed, the output that it replaces, checkpoints that are being deleted.
LEFTOVERS = (
    *(f".{{stage}}{which}.{what}-*" for which in ("", "@*") for what in ("writing", "old")),
    ".scratch/.{stage}-*.done-*",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A pipeline by name with its overrides applied."""

    pipeline: str
    overrides: tuple[str, ...]
    config: Pipeline
    plain: Pipeline  # without overrides
    root: Path
    _code: dict[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)  # by stage, once a run

    @classmethod
    def of(cls, pipeline: str, overrides: tuple[str, ...] = ()) -> "Run":
        """Load and check; raises ConfigError."""
        plain = load(pipeline)
        try:
            check_name(pipeline, "pipeline name")  # it is a directory, and a part of DVC's names
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return cls(pipeline, tuple(overrides), load(pipeline, overrides), plain, root())

    def section(self, stage: str) -> Any:
        """The config of a stage."""
        return getattr(self.config, stage)

    def is_tracked(self, stage: str) -> bool:
        """True if nothing that this stage depends on is overridden."""
        same = self.section(stage) == getattr(self.plain, stage)
        return same and all(self.is_tracked(source) for source in INPUTS[stage].values())

    def inputs(self, stage: str) -> dict[str, Path]:
        """Directories that a stage reads, by parameter name; all of them finished."""
        return {name: self.out(source) for name, source in INPUTS[stage].items()}

    def out(self, stage: str) -> Path:
        """Where a stage writes. Raises IncompleteInput if that depends on an input that is not finished."""
        directory = self.root / "runs" / self.pipeline
        if self.is_tracked(stage):
            return directory / stage
        if stage not in self._code:
            self._code[stage] = json.dumps(dvc_repo.code_state(self.root, self.target(stage)), sort_keys=True)
        contents = output.fingerprint(stage, self.section(stage), self.inputs(stage))
        return directory / f"{stage}@{hashlib.sha256((contents + self._code[stage]).encode()).hexdigest()[:12]}"

    def target(self, stage: str) -> str:
        """DVC's name of the stage."""
        return f"{stage}@{self.pipeline}"

    def stale(self, stage: str) -> tuple[str, ...]:
        """Why a stage must run, in words; empty if it is up to date. Restores its output from DVC's cache if it can."""
        if not self.is_tracked(stage):
            is_complete = output.is_complete(self.out(stage))
            return self._arrived(stage) if is_complete else ("no run with these overrides and inputs yet",)
        status = dvc_repo.status(self.root, self.target(stage))
        if status.only_outputs and dvc_repo.restore(self.root, self.target(stage)):
            logger.info("%s: restored from DVC's cache", stage)
            return self._arrived(stage)
        return status.reasons or self._arrived(stage)

    def _arrived(self, stage: str) -> tuple[str, ...]:
        """What changed outside the checkout, where DVC does not look."""
        section = self.section(stage)
        return arrivals.changes(section, self.out(stage)) if isinstance(section, PrepareConfig) else ()

    def plan(self) -> dict[str, tuple[str, ...]]:
        """For every stage why it would run, without running anything; empty reasons mean up to date."""
        reasons: dict[str, tuple[str, ...]] = {}
        for stage in STAGES:
            rebuilt = [source for source in INPUTS[stage].values() if reasons[source]]
            reasons[stage] = tuple(f"{source} runs before it" for source in rebuilt) or self.stale(stage)
        return reasons

    @contextlib.contextmanager
    def only_one(self, stage: str) -> Iterator[None]:
        """Wait while another process on this machine works on the same stage of the same pipeline.

        What a killed one has left half-written is removed: nobody can be writing it any more.
        """
        directory = self.root / "runs" / self.pipeline
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f".{stage}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("another process runs %s of %s; waiting for it", stage, self.pipeline)
                fcntl.flock(file, fcntl.LOCK_EX)
            for leftover in (path for pattern in LEFTOVERS for path in directory.glob(pattern.format(stage=stage))):
                shutil.rmtree(leftover, ignore_errors=True)
            yield


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dataclasses or mappings to dotted names, as they are written in overrides and in MLflow."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        return {prefix.removesuffix("."): value}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= flatten(inner, f"{prefix}{name}.")
    return flat
