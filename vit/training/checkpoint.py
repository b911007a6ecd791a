"""Checkpoints of a running training: written atomically, verified on load, newest valid one wins.

`step-00000100/` holds `state.safetensors` (model and optimiser tensors, no pickle) and `manifest.json` (step,
fingerprint of the run, size and SHA-256 of the state). The directory is renamed into place when complete.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

logger = logging.getLogger("vitflow.checkpoint")
STATE, MANIFEST = "state.safetensors", "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """Everything a training run needs to go on: `step` updates are done; sample order and noise follow from it."""

    step: int
    tensors: dict[str, Tensor]  # "model.NAME" and "optimizer.INDEX.NAME"


class BadCheckpoint(ValueError):
    """A checkpoint whose files are missing, changed, or of another run."""


class NoValidCheckpoint(ValueError):
    """Checkpoints exist, but none can be trusted: starting afresh would silently lose the work."""


def capture(model: nn.Module, optimizer: Optimizer, step: int) -> State:
    """The state after `step` updates."""
    tensors = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in slots.items() if value is not None}
    return State(step=step, tensors=tensors)


def restore(model: nn.Module, optimizer: Optimizer, state: State) -> int:
    """Put a captured state back; returns the number of updates done."""
    model.load_state_dict(
        {key.removeprefix("model."): tensor for key, tensor in state.tensors.items() if key.startswith("model.")}
    )
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.tensors.items():
        if key.startswith("optimizer."):
            _, index, slot = key.split(".", 2)
            slots.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state.step


def save(directory: Path, state: State, *, fingerprint: str, keep: int = 2) -> Path:
    """Write `directory/step-N` whole or not at all, then delete all but the newest `keep`."""
    final = directory / name(state.step)
    work = directory / f".{final.name}.writing-{os.getpid()}"
    for leftover in directory.glob(".step-*.writing-*"):  # of a process that died in the middle
        shutil.rmtree(leftover, ignore_errors=True)
    work.mkdir(parents=True)
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.tensors.items()}, work / STATE)
    manifest = {
        "step": state.step,
        "fingerprint": fingerprint,
        "size": (work / STATE).stat().st_size,
        "sha256": _sha256(work / STATE),
    }
    (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    for file in (STATE, MANIFEST):
        _sync(work / file)
    shutil.rmtree(final, ignore_errors=True)
    work.rename(final)
    _sync(directory)
    for old in _steps(directory)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load(path: Path, *, fingerprint: str) -> State:
    """Read one checkpoint; raises BadCheckpoint saying what is wrong with it."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        step, expected = int(manifest["step"]), (manifest["size"], manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"checkpoint {path} has no readable manifest ({error})") from error
    if manifest.get("fingerprint") != fingerprint:
        raise BadCheckpoint(f"checkpoint {path} belongs to run {manifest.get('fingerprint')}, not to {fingerprint}")
    state = path / STATE
    if not state.is_file() or (state.stat().st_size, _sha256(state)) != expected:
        raise BadCheckpoint(f"checkpoint {path} is damaged: {STATE} is missing or differs from its manifest")
    return State(step=step, tensors=load_file(state))


def load_newest(directory: Path, *, fingerprint: str) -> State | None:
    """The newest checkpoint that verifies, or None if there is none; broken ones are skipped with a warning.

    Raises NoValidCheckpoint if there are some but all are broken.
    """
    paths = _steps(directory)
    for path in reversed(paths):
        try:
            return load(path, fingerprint=fingerprint)
        except BadCheckpoint as error:
            logger.warning("%s; trying the one before", error)
    if paths:
        raise NoValidCheckpoint(
            f"all {len(paths)} checkpoints in {directory} are broken; delete that directory to start the stage afresh"
        )
    return None


def name(step: int) -> str:
    """Directory name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def _steps(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_equal(a: State, b: State) -> bool:
    """Bit for bit the same."""
    return (
        a.step == b.step
        and a.tensors.keys() == b.tensors.keys()
        and all(torch.equal(tensor, b.tensors[key]) for key, tensor in a.tensors.items())
    )
