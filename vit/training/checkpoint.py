"""Checkpoints of a running training: written atomically, verified on load, newest valid one wins.

`step-00000100/` holds `state.safetensors` (model and optimiser tensors, no pickle) and `manifest.json` (step,
fingerprint of the run, size and SHA-256 of every file). The directory is renamed into place when complete.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from vit.training import mirror
from vit.training.averaging import Average
from vit.training.mirror import MANIFEST, Mirror

logger = logging.getLogger("vitflow.checkpoint")
STATE = "state.safetensors"
KEEP = 2  # newest checkpoints; the best one is kept besides


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """Everything a training run needs to go on: `step` updates are done; sample order and noise follow from it."""

    step: int
    tensors: dict[str, Tensor]  # "model.NAME", "optimizer.SLOT.NAME" and "average.NAME"
    numbers: dict[str, float] = dataclasses.field(default_factory=dict[str, float])  # what else the loop remembers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where the checkpoints of one run are, and which run that is."""

    directory: Path
    fingerprint: str
    mirror: Mirror | None = None  # where else, if anywhere


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint says it is."""

    step: int
    numbers: dict[str, float]
    files: tuple[str, ...]


class BadCheckpoint(ValueError):
    """A checkpoint whose files are missing, changed, or of another run."""


class NoValidCheckpoint(ValueError):
    """Checkpoints exist, but none can be trusted: starting afresh would silently lose the work."""


def capture(model: nn.Module, optimizer: Optimizer, average: Average, step: int, numbers: dict[str, float]) -> State:
    """The state after `step` updates; its tensors are those of the training, not copies."""
    tensors = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        slots = optimizer.state.get(parameter, {})
        tensors |= {f"optimizer.{slot}.{name}": value for slot, value in slots.items() if value is not None}
    tensors |= {f"average.{name}": tensor for name, tensor in average.tensors.items()}
    return State(step=step, tensors=tensors, numbers=numbers)


def restore(model: nn.Module, optimizer: Optimizer, average: Average, state: State) -> None:
    """Put a captured state back."""
    model.load_state_dict(_under("model", state))
    average.restore(_under("average", state) or dict(model.named_parameters()))
    names = {parameter: name for name, parameter in model.named_parameters()}
    slots: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _under("optimizer", state).items():
        slot, _, name = key.partition(".")
        slots.setdefault(name, {})[slot] = tensor
    # torch numbers parameters in the order of its groups.
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    numbered = {index: slots[name] for index, name in enumerate(order) if name in slots}
    optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})


def _under(part: str, state: State) -> dict[str, Tensor]:
    start = f"{part}."
    return {key.removeprefix(start): tensor for key, tensor in state.tensors.items() if key.startswith(start)}


def save(checkpoints: Checkpoints, state: State) -> Path:
    """Write `step-N` whole or not at all, then delete all but the newest and the best of the older ones."""
    directory = checkpoints.directory
    final = directory / name(state.step)
    work = directory / f".{final.name}.writing-{os.getpid()}"
    for leftover in directory.glob(".step-*.writing-*"):  # of a process that died in the middle
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.tensors.items()}, work / STATE)
        finish(checkpoints, state.step, state.numbers, work)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)  # on a full disk the space is needed
        raise
    return final


def finish(checkpoints: Checkpoints, step: int, numbers: dict[str, float], work: Path) -> None:
    """Turn a directory of written files into the checkpoint of `step`: manifest, fsync, rename, old ones away."""
    files = {path.name: [path.stat().st_size, _sha256(path)] for path in sorted(work.iterdir())}
    manifest = {"step": step, "numbers": numbers, "fingerprint": checkpoints.fingerprint, "files": files}
    (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    for file in work.iterdir():
        _sync(file)
    final = checkpoints.directory / name(step)
    shutil.rmtree(final, ignore_errors=True)
    work.rename(final)
    _sync(checkpoints.directory)
    best = name(int(numbers["best_step"])) if "best_step" in numbers else None
    for old in _steps(checkpoints.directory)[:-KEEP]:
        if old.name != best:
            shutil.rmtree(old, ignore_errors=True)
    if checkpoints.mirror is not None:
        mirror.send(checkpoints.mirror, final)


def load(path: Path, *, fingerprint: str) -> State:
    """Read one checkpoint; raises BadCheckpoint saying what is wrong with it."""
    manifest = verified(path, fingerprint=fingerprint)
    return State(step=manifest.step, tensors=load_file(path / STATE), numbers=manifest.numbers)


def verified(path: Path, *, fingerprint: str) -> Manifest:
    """The manifest of a checkpoint whose files are as they were written; raises BadCheckpoint."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        step, files = int(manifest["step"]), {str(name): tuple(about) for name, about in manifest["files"].items()}
        numbers = {str(name): float(value) for name, value in manifest["numbers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"checkpoint {path} has no readable manifest ({error})") from error
    if manifest.get("fingerprint") != fingerprint:
        raise BadCheckpoint(f"checkpoint {path} belongs to run {manifest.get('fingerprint')}, not to {fingerprint}")
    for file, expected in files.items():
        there = path / file
        if not there.is_file() or (there.stat().st_size, _sha256(there)) != expected:
            raise BadCheckpoint(f"checkpoint {path} is damaged: {file} is missing or differs from its manifest")
        if there.name == STATE:
            _check_header(there)
    return Manifest(step=step, numbers=numbers, files=tuple(files))


def _check_header(state: Path) -> None:
    """A manifest can be made to fit any file; only tensors are read. Raises BadCheckpoint."""
    try:
        with safe_open(state, framework="pt"):
            pass
    except SafetensorError as error:
        raise BadCheckpoint(f"checkpoint {state.parent}: {state.name} holds no tensors ({error})") from error


def newest(checkpoints: Checkpoints) -> Path | None:
    """The newest checkpoint that verifies, or None if there is none; broken ones are skipped with a warning.

    Raises NoValidCheckpoint if there are some but all are broken.
    """
    refused = 0
    if checkpoints.mirror is not None:
        check = functools.partial(verified, fingerprint=checkpoints.fingerprint)
        refused = mirror.fetch_newest(checkpoints.mirror, checkpoints.directory, check)
    paths = _steps(checkpoints.directory)
    for path in reversed(paths):
        try:
            verified(path, fingerprint=checkpoints.fingerprint)
            return path
        except BadCheckpoint as error:
            logger.warning("%s; trying the one before", error)
    if paths or refused:
        raise NoValidCheckpoint(
            f"all {max(len(paths), refused)} checkpoints in {checkpoints.directory} are broken; delete that directory, "
            "and its copy at VITFLOW_CHECKPOINTS if there is one, to start the stage afresh"
        )
    return None


def load_newest(checkpoints: Checkpoints) -> State | None:
    """The state of the newest checkpoint that verifies, None if there is none; raises as `newest`."""
    path = newest(checkpoints)
    return None if path is None else load(path, fingerprint=checkpoints.fingerprint)


def name(step: int) -> str:
    """Directory name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The inverse of `name`."""
    return int(path.name.removeprefix("step-"))


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
