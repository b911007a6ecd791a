"""DVC: what is fresh, what the cache can restore, and recording what was made. The owner of freshness.

Targets are dvc.yaml's names, `STAGE@PIPELINE`. Every call waits for DVC's lock instead of failing on it.
"""

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

os.environ.setdefault("DVC_NO_ANALYTICS", "1")
logger = logging.getLogger("vitflow.dvc")
UNPUSHED = Path(".vitflow") / "unpushed"  # targets that the remote could not take, a line each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """What DVC compared, in words; no reasons means fresh."""

    reasons: tuple[str, ...]
    only_outputs: bool  # the outputs differ from the record, but nothing that makes them does

    @property
    def is_fresh(self) -> bool:
        return not self.reasons


def status(root: Path, target: str) -> Status:
    """Compare a target's dependencies, parameters, command and outputs with dvc.lock."""
    if target not in _lock(root):
        return Status(reasons=("dvc.lock has no record of a run",), only_outputs=False)
    with _repo(root) as repo:
        changes = repo.status(targets=[target]).get(target, [])
    outputs = [path for change in changes if isinstance(change, dict) for path in change.get("changed outs", {})]
    causes = [sentence for change in changes for sentence in _causes(change)]
    reasons = causes + [f"{path} is missing or was changed" for path in outputs]
    return Status(reasons=tuple(reasons), only_outputs=bool(outputs) and not causes)


def restore(root: Path, target: str) -> bool:
    """Bring a recorded output back from the cache, or from the remote if there is one; False if neither has it."""
    with _repo(root) as repo:
        if not status(root, target).only_outputs:
            return False
        from dvc.exceptions import DvcException

        if repo.config["core"].get("remote"):
            with _warning(f"could not fetch {target} from the remote"):
                repo.fetch(targets=[target])
        with contextlib.suppress(DvcException):
            repo.checkout(targets=[target], force=True)
    return status(root, target).is_fresh


def commit(root: Path, target: str) -> None:
    """Record a target's output as made from its present dependencies, and push it if there is a remote.

    Call it only after success: DVC believes whatever lies there.
    """
    with _repo(root) as repo:
        repo.commit(target, force=True)
        if repo.config["core"].get("remote"):
            _push(repo, root / UNPUSHED, target)


def _push(repo: Any, unpushed: Path, target: str) -> None:
    """To the remote, together with what it could not take before."""
    waiting = set(unpushed.read_text().split()) if unpushed.is_file() else set[str]()
    waiting.add(target)
    unpushed.parent.mkdir(parents=True, exist_ok=True)
    unpushed.write_text("\n".join(sorted(waiting)) + "\n")
    said = (
        f"{target} is recorded, but could not be pushed to the remote; the next stage tries again, or `dvc push` does"
    )
    with _warning(said):
        repo.push(targets=sorted(waiting))
        unpushed.unlink()


def code_state(root: Path, target: str) -> dict[str, str]:
    """Hashes of the code files a target depends on, to notice edits made while it ran."""
    with _repo(root) as repo:
        (stage,) = repo.stage.collect(target)
        files = [Path(dep.fs_path) for dep in stage.deps if str(dep.fs_path).endswith(".py")]
    import hashlib

    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def recorded_hash(root: Path, path: Path) -> str | None:
    """The md5 under which dvc.lock records an output directory, or None if it does not."""
    wanted = str(path.resolve().relative_to(root.resolve()))
    for stage in _lock(root).values():
        for out in stage.get("outs", []):
            if out["path"] == wanted:
                return str(out["md5"])
    return None


def remote(root: Path) -> str | None:
    """URL of the default remote, or None."""
    known = _config(root)
    name = known["core"].get("remote")
    return str(known["remote"][name]["url"]) if name else None


def remote_verifies(root: Path) -> bool:
    """True if also `dvc pull` compares what the default remote sends with its hash, which DVC does when told to."""
    known = _config(root)
    return bool(known["remote"][known["core"]["remote"]].get("verify"))


def ensure_initialised(root: Path) -> None:
    """Raise ValueError if the checkout is no DVC repository, saying how to make it one."""
    if not (root / ".dvc").is_dir():
        raise ValueError(f"{root} is not a DVC repository (.dvc is missing): clone with git, or run `dvc init` there")


def _causes(change: Any) -> list[str]:
    """What differs besides the outputs, in words, from one item of DVC's status."""
    if isinstance(change, str):
        return [change]  # "changed command"
    sentences: list[str] = []
    for path, how in change.get("changed deps", {}).items():
        if isinstance(how, dict):  # parameters: {dotted name: how}
            sentences += [f"{name} in {path} is {word}" for name, word in how.items()]
        else:
            sentences.append(f"{path} is {'missing' if how == 'deleted' else how}")
    return sentences


def _lock(root: Path) -> dict[str, Any]:
    """The stages that dvc.lock records. Read-only."""
    lock = root / "dvc.lock"
    if not lock.is_file():
        return {}
    now = lock.stat()
    return _parsed(lock, (now.st_ino, now.st_size, now.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _parsed(lock: Path, _state: tuple[int, int, int]) -> dict[str, Any]:
    """The file in that state; parsed once, which takes a tenth of a second, and asked for by every stage."""
    return (yaml.safe_load(lock.read_text()) or {}).get("stages", {})


def _config(root: Path) -> Any:
    """DVC's settings as the user has them."""
    from dvc.config import Config

    ensure_initialised(root)
    return Config(str(root / ".dvc"))


@contextlib.contextmanager
def _repo(root: Path) -> Iterator[Any]:
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    # Or DVC believes whatever a remote sends. Given from outside, as what is changed in a repo's config is soon lost.
    verified = {"remote": {name: {"verify": True} for name in _config(root)["remote"]}}
    with Repo(str(root), config=verified, _wait_for_lock=True) as repo:
        yield repo


@contextlib.contextmanager
def _warning(sentence: str) -> Iterator[None]:
    """A remote that fails must not stop work that is safe on this disk."""
    try:
        yield
    except Exception as error:
        logger.warning("%s (%s)", sentence, error)
