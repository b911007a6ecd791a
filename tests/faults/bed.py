"""Where faults are tried: a checkout with a pre-training long enough to be disturbed, and what it makes undisturbed."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests import servers
from tests.checkout import ROOT, environment, hashes, make_checkout, run
from tests.faults import stack
from tests.s3 import swift

STEPS, SAVE_EVERY, LOG_EVERY = 240, 24, 4
MARK = "bed-of-faults"  # a file in what may be tidied
SHARED = ("checkout", "finished", "in-s3", "undisturbed-*.json")  # by all trials; what else there is belongs to one
WAIT = 600  # seconds that anything here may take beside other tests


class Bed:
    """Makes what it has at first use, and shares it between faults; all of it is gone at the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._copies = 0
        self._open = contextlib.ExitStack()

    @functools.cached_property
    def checkout(self) -> Path:
        """Prepared and de-duplicated, so that pre-training comes next."""
        path = self.root / "checkout"
        if path.exists():
            return path
        make_checkout(path)
        configure(path, pretrain={"steps": STEPS, "save_every": SAVE_EVERY, "log_every": LOG_EVERY})
        done = run(path, "dvc", "repro", "deduplicate@smoke")
        assert done.returncode == 0, done.stderr
        commit(path)
        return path

    @functools.cached_property
    def finished(self) -> Path:
        """All stages done, with few steps."""
        path = self.root / "finished"
        if path.exists():
            return path
        make_checkout(path)
        done = run(path, "dvc", "repro", "register@smoke")
        assert done.returncode == 0, done.stderr
        return path

    @functools.cached_property
    def swift(self) -> swift.Server:
        """A real S3 server."""
        return self._open.enter_context(swift.running(self.root / f"swift-{os.getpid()}"))

    @functools.cached_property
    def prefect(self) -> dict[str, str]:
        """Where a Prefect server is: one that `vitflow run` brings along takes ten seconds to start, each time."""
        home = self.root / f"prefect-{os.getpid()}"
        home.mkdir()
        return {"PREFECT_API_URL": self._open.enter_context(servers.prefect(ROOT, home))}

    @functools.cached_property
    def stack(self) -> stack.Stack:
        """Prefect, MLflow and a runner in a checkout where pre-training comes next."""
        return self._open.enter_context(stack.running(self.copy(self.checkout), self.root / f"stack-{os.getpid()}"))

    def copy(self, checkout: Path) -> Path:
        """Another directory with the same state."""
        self._copies += 1
        path = self.root / f"copy-{self._copies}"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(checkout, path, symlinks=True)
        forget(path)  # what a trial that failed has left
        return path

    @functools.cache  # noqa: B019  it lives as long as the run
    def undisturbed(self, workers: str) -> dict[str, str]:
        """Hashes of what pre-training makes with so many workers when nothing happens."""
        known = self.root / f"undisturbed-{workers}.json"
        if known.exists():
            return json.loads(known.read_text())
        with started(self.checkout, *PRETRAIN, VITFLOW_WORKERS=workers) as training:
            assert training.end() == 0, training.text()
        found = take(self.checkout, "pretrain")
        known.write_text(json.dumps(found))
        return found

    def tidy(self) -> None:
        """Remove what earlier trials have left: another one would fail because of that, whatever it is about.

        Raises ValueError if the directory has something in it and was never a bed.
        """
        found = list(self.root.iterdir())
        if found and self.root / MARK not in found:
            raise ValueError(f"{self.root} is not empty and no bed of faults: name another directory")
        (self.root / MARK).touch()
        for path in found:
            if not any(path.match(name) for name in (MARK, *SHARED)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        self._open.close()


@contextlib.contextmanager
def bed(kept: Path | None = None) -> Iterator[Bed]:
    """In a directory whose path is short enough for the sockets of Ray and Swift; `kept` has what an earlier one made,
    with the code of that time."""
    with contextlib.ExitStack() as opened:
        temporary = tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp", ignore_cleanup_errors=True)
        made = Bed(kept or Path(opened.enter_context(temporary)))
        made.tidy()
        made.root.chmod(0o711)  # PostgreSQL, where it is not ours, has to come through
        try:
            yield made
        finally:
            made.close()


PRETRAIN = (sys.executable, "-m", "flows.stages", "pretrain", "smoke")
FLOW = (sys.executable, "-m", "flows.cli", "run", "smoke")


def configure(checkout: Path, **train: dict[str, Any]) -> None:
    """Other numbers for the trainings of stages, committed."""
    path = checkout / "pipelines.yaml"
    known = yaml.safe_load(path.read_text())
    for stage, changes in train.items():
        known["pipelines"]["smoke"][stage]["train"] |= changes
    path.write_text(yaml.safe_dump(known, sort_keys=False))
    commit(checkout)


def commit(checkout: Path) -> None:
    """Everything that changed, in git."""
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *who, "commit", "-q", "-a", "-m", "as the test wants it"], cwd=checkout, check=True)


class Running:
    """A command in a checkout, under way."""

    def __init__(self, checkout: Path, command: tuple[str, ...], env: dict[str, str]) -> None:
        self.checkout = checkout
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115  a pipe that nobody reads would fill up
        own = environment(checkout, **env) | {"PYTHONUNBUFFERED": "1", "RAY_worker_niceness": "0"}  # beside other tests
        self.process = subprocess.Popen(command, cwd=checkout, env=own, stdout=self.output, stderr=subprocess.STDOUT)
        self.head = psutil.Process(self.process.pid)

    def family(self) -> list[psutil.Process]:
        """The process and all below it."""
        try:
            return [self.head, *self.head.children(recursive=True)]
        except psutil.Error:
            return []

    def member(self, word: str) -> list[psutil.Process]:
        """Those of the family whose title or command line has the word."""
        return [one for one in self.family() if word in " ".join(words(one))]

    def text(self) -> str:
        """All that it has written."""
        self.output.seek(0)
        return self.output.read()

    def wait(self, condition: Callable[[], object]) -> None:
        """Until the condition holds; AssertionError if the command ends before, or nothing happens."""
        deadline = time.monotonic() + WAIT
        while not condition():
            assert self.process.poll() is None, f"ended too early: {self.text()[-2000:]}"
            assert time.monotonic() < deadline, f"nothing happened: {self.text()[-2000:]}"
            time.sleep(0.01)

    def reach(self, step: int) -> None:
        """Until so many steps of the training are reported."""
        self.wait(lambda: reported(self.checkout) >= step)

    def end(self, seconds: float = WAIT) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(seconds)


@contextlib.contextmanager
def started(checkout: Path, *command: str, **env: str) -> Iterator[Running]:
    """A command in the background; all that is left of it is killed at the end of the block."""
    running = Running(checkout, command, env)
    family: list[psutil.Process] = []
    try:
        yield running
    finally:
        family += running.family()
        end(family)
        running.process.wait()
        running.output.close()


def end(family: list[psutil.Process]) -> None:
    """Kill what is still alive, stopped or not."""
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()


def take(checkout: Path, stage: str) -> dict[str, str]:
    """Hashes of a stage's output, which is removed: the next trial begins where this one did, whatever DVC has seen."""
    out = checkout / "runs/smoke" / stage
    found = hashes(out)
    assert found, f"{out} is empty"
    shutil.rmtree(out)
    subprocess.run(["git", "checkout", "-q", "dvc.lock"], cwd=checkout, check=True)
    shutil.rmtree(checkout / ".dvc/cache/runs", ignore_errors=True)
    return found


def same(found: dict[str, str], expected: dict[str, str]) -> None:
    """AssertionError that names the files that differ."""
    differ = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    assert not differ, f"not as undisturbed: {', '.join(differ)}"


def checkpoints(checkout: Path) -> list[Path]:
    """Oldest first."""
    return sorted((checkout / "runs/smoke/.scratch").glob("pretrain-*/checkpoints/step-*"))


def saved(checkout: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.name.removeprefix("step-")) for path in checkpoints(checkout)), default=0)


def reported(checkout: Path) -> int:
    """The last step of the training that was reported."""
    steps = [0]
    for path in (checkout / "runs/smoke/.scratch").glob("pretrain-*/checkpoints/history.jsonl"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it is being written
            steps.append(json.loads(path.read_text().splitlines()[-1])["step"])
    return max(steps)


def forget(checkout: Path) -> None:
    """Remove what an unfinished stage has left."""
    shutil.rmtree(checkout / "runs/smoke/.scratch", ignore_errors=True)


def words(process: psutil.Process) -> list[str]:
    """Its command line; empty if it has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def alive(family: list[psutil.Process], seconds: float) -> list[str]:
    """The command lines of those that are still there after so long."""
    _, left = psutil.wait_procs(family, timeout=seconds)
    return [" ".join(words(one))[:120] for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def waits_for_nothing(process: psutil.Process) -> bool:
    """Prefect's temporary server, which the next run ends, and Ray's two agents: these tell a dead GCS for a minute
    that the raylet died."""
    return any(name in " ".join(words(process)) for name in ("RuntimeEnvAgent", "DashboardAgent", "prefect.server"))


def litter(checkout: Path) -> list[str]:
    """What should not be left when nothing runs: half-written outputs and checkpoints."""
    runs = checkout / "runs"
    return sorted(
        str(path.relative_to(runs)) for path in runs.rglob(".*") if "writing-" in path.name or ".old-" in path.name
    )
