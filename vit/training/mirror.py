"""A second place for the checkpoints of a run, which outlives this machine: known only by what can be asked of it."""

import dataclasses
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger("vitflow.checkpoint")
MANIFEST = "manifest.json"  # of a checkpoint; put last and removed first, so that who finds it finds everything


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mirror:
    """Files by name, such as `step-00000100/manifest.json`."""

    put: Callable[[Path, str], None]  # a file, or a directory with its manifest last
    names: Callable[[], list[str]]
    get: Callable[[str, Path], None]  # raises FileNotFoundError
    remove: Callable[[str], None]


def send(mirror: Mirror, newest: Path) -> None:
    """Put a finished checkpoint and the files beside it; what is no longer in its directory goes there, too."""
    directory = newest.parent
    for file in sorted(directory.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            still = file.with_name(f".{file.name}.sending")  # the training goes on writing to the file itself
            shutil.copyfile(file, still)
            mirror.put(still, file.name)
            still.unlink()
    mirror.put(newest, newest.name)
    clear(mirror, [name for name in mirror.names() if not (directory / name).exists()])


def clear(mirror: Mirror, names: list[str]) -> None:
    """Remove files, manifests first."""
    for name in sorted(names, key=lambda name: not name.endswith(MANIFEST)):
        mirror.remove(name)


def fetch_newest(mirror: Mirror, directory: Path, check: Callable[[Path], object]) -> int:
    """Bring the newest checkpoint that `check` does not refuse (ValueError), and the files beside it.

    What is here already stays, unless it is refused. Returns how many there are if all of them are refused, else 0.
    """
    names = mirror.names()
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        if "/" not in name and not (directory / name).exists():
            mirror.get(name, directory / name)
    steps = sorted((name.partition("/")[0] for name in names if name.endswith(f"/{MANIFEST}")), reverse=True)
    for step in steps:
        for where in ("here", "elsewhere") if (directory / step).exists() else ("elsewhere",):
            try:
                fetch(mirror, directory, step)
                check(directory / step)
                return 0
            except (ValueError, FileNotFoundError) as error:
                logger.warning("%s, as it was kept %s; trying another", error, where)
                shutil.rmtree(directory / step, ignore_errors=True)
    return len(steps)


def fetch(mirror: Mirror, directory: Path, step: str) -> None:
    """Bring a checkpoint, whole or not at all, unless it is here already."""
    if (directory / step).exists():
        return
    work = directory / f".{step}.fetching-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        for name in mirror.names():
            if name.startswith(f"{step}/"):
                mirror.get(name, work / name.partition("/")[2])
        if not (directory / step).exists():  # another rank of this machine may have been faster
            work.rename(directory / step)
    finally:
        shutil.rmtree(work, ignore_errors=True)
