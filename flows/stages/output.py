"""The output contract of every stage: a directory appears whole or not at all, and says what made it.

A stage writes into a sibling scratch directory. On success `config.json` is written last (stage, resolved
config, digests of the inputs, SHA-256 of every file) and the directory is renamed into place; on failure
nothing is left. `config.json` holds no times, hosts or run ids, so the same inputs and config give the
same bytes, and its own SHA-256 identifies the whole output.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.json"
MODEL = "model.safetensors"  # what pretrain and finetune leave: the trained network, alone

RUNS = "runs.json"  # what finetune and evaluate leave of a sweep: every run with its name, params and metrics


class IncompleteInput(ValueError):
    """A stage was pointed at a directory that no stage finished, or whose files changed since."""


class DiskFull(OSError):
    """The disk filled up while a stage wrote its output; nothing half-written is left."""


@contextlib.contextmanager
def writing(out: Path, stage: str, config: Any, inputs: Mapping[str, Path]) -> Iterator[Path]:
    """Yield an empty directory that becomes `out` when the block succeeds, and vanishes when it fails.

    Raises IncompleteInput if an input is no finished output, DiskFull if the disk is full.
    """
    description = describe(stage, config, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.parent / f".{out.name}.writing-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        files = {str(path.relative_to(work)): sha256(path) for path in sorted(work.rglob("*")) if path.is_file()}
        write_json(work / CONFIG, {**description, "files": files})
        _replace(work, out)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free = shutil.disk_usage(out.parent).free
        raise DiskFull(
            errno.ENOSPC,
            f"no space left on the disk of {out.parent} ({free / 1e6:.0f} MB free) while stage {stage} wrote its "
            "output; free some space and run again: finished stages are kept",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def describe(stage: str, config: Any, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """What a stage is about to do: its name, resolved config, digests of its inputs, and their fingerprint."""
    wanted = {
        "stage": stage,
        "config": dataclasses.asdict(config),
        "inputs": {name: digest(path) for name, path in sorted(inputs.items())},
    }
    canonical = json.dumps(wanted, sort_keys=True, separators=(",", ":"))
    return {"fingerprint": hashlib.sha256(canonical.encode()).hexdigest()[:12], **wanted}


def fingerprint(stage: str, config: Any, inputs: Mapping[str, Path]) -> str:
    """Twelve hex digits that name (stage, config, contents of the inputs)."""
    return str(describe(stage, config, inputs)["fingerprint"])


def is_complete(directory: Path) -> bool:
    """True if a stage finished writing `directory`."""
    return (directory / CONFIG).is_file()


def digest(directory: Path) -> str:
    """SHA-256 of an output's config.json, which lists the SHA-256 of all its files: the identity of its contents."""
    if not is_complete(directory):
        raise IncompleteInput(
            f"{directory} is not the finished output of a stage ({CONFIG} is missing); run that stage first"
        )
    return sha256(directory / CONFIG)


def read(directory: Path) -> dict[str, Any]:
    """The config.json of a finished output."""
    digest(directory)
    return json.loads((directory / CONFIG).read_text())


def verify(directory: Path) -> None:
    """Compare every file with the SHA-256 in config.json; raises IncompleteInput naming those that differ."""
    files = read(directory)["files"]
    broken = [name for name, expected in files.items() if not _matches(directory / name, expected)]
    if broken:
        raise IncompleteInput(
            f"{len(broken)} of {len(files)} files in {directory} are missing or changed since they were written, "
            f"first {broken[0]}; delete the directory and run its stage again (or `dvc checkout`)"
        )


def write_json(path: Path, value: Any) -> None:
    """Write JSON the same way every time: sorted keys, two spaces, final newline."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _matches(path: Path, expected: str) -> bool:
    return path.is_file() and sha256(path) == expected


def _replace(work: Path, out: Path) -> None:
    """Swap directories: rename cannot overwrite a directory with files in it, so the old one steps aside first."""
    old = out.parent / f".{out.name}.old-{os.getpid()}"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    work.rename(out)
    shutil.rmtree(old, ignore_errors=True)
