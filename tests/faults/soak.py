"""Small pipelines in a row, a random fault in each; after each, whether anything is left over, wrong, or growing."""

import contextlib
import dataclasses
import json
import random
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from tests.checkout import ROOT, run
from tests.faults import bed as beds
from tests.faults import faults
from tests.faults.bed import FLOW, Bed, Running, bed, started

RESULTS = ROOT / "test-results" / "soak.json"
SHORT = (
    "finetune.train.steps=3",
    "finetune.train.save_every=3",
    "evaluate.train.steps=2",
    "evaluate.train.save_every=2",
)
LAST = 25.0  # seconds into a run, up to which it is disturbed
TRIES = 3  # starts that a pipeline may need
console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """What one pipeline was like."""

    number: int
    fault: str
    workers: int
    own_server: bool  # of Prefect; else one that all rounds share
    seconds: float
    starts: int
    memory_mb: float  # the most that all its processes held together
    handles: int  # open files and sockets, the most
    processes: int  # the most
    database_kb: int
    temporary: int  # files and directories where temporary ones are made, and in shared memory, afterwards
    wrong: list[str]

    @property
    def kind(self) -> tuple[int, bool]:
        """What it needs depends on this, more than on anything that could leak."""
        return self.workers, self.own_server


def kill_flow(running: Running, source: random.Random) -> None:
    faults.kill(running.head)


def ask_to_end(running: Running, source: random.Random) -> None:
    running.process.terminate()


def interrupt_twice(running: Running, source: random.Random) -> None:
    running.process.terminate()
    time.sleep(source.uniform(0, 1))
    running.process.terminate()


def kill_child(running: Running, source: random.Random) -> None:
    """Prefect's server, a Ray worker, a process of Ray's: whichever there is."""
    with contextlib.suppress(psutil.Error):
        faults.kill(source.choice(running.family()[1:] or running.family()))


def pause(running: Running, source: random.Random) -> None:
    """All of it, as a machine that is suspended."""
    family = running.family()
    for one in family:
        with contextlib.suppress(psutil.Error):
            faults.hang(one)
    time.sleep(3)
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.resume()


def damage_checkpoint(running: Running, source: random.Random) -> None:
    """Killed, and its newest checkpoint is cut, if it has one."""
    faults.kill(running.head)
    for path in beds.checkpoints(running.checkout)[-1:]:
        faults.truncate(path / "state.safetensors", source)


def lose_output(running: Running, source: random.Random) -> None:
    """Killed, and the output that a stage made last is gone."""
    faults.kill(running.head)
    running.process.wait()
    made = sorted((running.checkout / "runs/smoke").glob("*@*/config.json"), key=lambda path: path.stat().st_mtime)
    for config in made[-1:]:
        faults.remove(config.parent, source)


FAULTS: tuple[Callable[[Running, random.Random], None], ...] = (
    kill_flow,
    ask_to_end,
    interrupt_twice,
    kill_child,
    pause,
    damage_checkpoint,
    lose_output,
)


def soak(times: int, seed: int, kept: Path | None) -> int:
    """Exit code 1 if anything was wrong; each round is written as soon as it is over."""
    rounds: list[Round] = []
    with bed(kept) as where:
        where.finished  # noqa: B018  made at first use
        for number in range(times):
            source = random.Random(f"{seed}/{number}")
            rounds.append(one_round(where, number, source))
            console.print(sentence(rounds[-1]), markup=False)
            write(rounds)
    console.print(json.dumps(growth(rounds), indent=1), markup=False)
    good = sum(not one.wrong for one in rounds)
    console.print(f"{good}/{times} ended right")
    return int(good < times)


def one_round(where: Bed, number: int, source: random.Random) -> Round:
    """A pipeline of its own seed, disturbed once, started again until it is done."""
    checkout, fault, start = where.finished, source.choice(FAULTS), time.monotonic()
    before = known(checkout)
    overrides = [
        word for one in (*SHORT, f"pretrain.train.seed={1000 + time.time_ns() % 10**9}") for word in ("--set", one)
    ]
    temporary = where.root / "t"  # short, for the sockets of Ray
    temporary.mkdir(exist_ok=True)
    places = {"TMPDIR": str(temporary), "RAY_TMPDIR": str(temporary)}
    own_server = source.random() < 0.25  # which a fault may hit
    places |= {} if own_server else where.prefect
    moment, workers = source.uniform(2, LAST), "2" if source.random() < 0.25 else "0"
    most, starts, code, wrong = {"memory": 0.0, "handles": 0.0, "processes": 0.0}, 0, -1, list[str]()
    for starts in range(1, TRIES + 1):
        with started(checkout, *FLOW, *overrides, VITFLOW_WORKERS=workers, **places) as running:
            family = disturbed(running, (lambda run: fault(run, source)) if starts == 1 else None, moment, most)
            code = running.process.poll()
            left = beds.alive([one for one in family if not beds.waits_for_nothing(one)], 20)
        wrong += [f"still there after start {starts}: {left}"] if left else []
        if code == 0:
            break
    wrong += [] if code == 0 else [f"exit code {code} after {starts} starts"]
    wrong += leftovers(checkout, before)
    return Round(
        number=number,
        fault=f"{fault.__name__} after {moment:.0f} s, {workers} workers",
        workers=int(workers),
        own_server=own_server,
        seconds=round(time.monotonic() - start, 1),
        starts=starts,
        memory_mb=round(most["memory"] / 1e6),
        handles=int(most["handles"]),
        processes=int(most["processes"]),
        database_kb=(checkout / "mlflow.db").stat().st_size // 1024,
        temporary=sum(len(list(temporary.glob(names))) for names in ("*", "vitflow-ray-*/*"))
        + sum(1 for _ in Path("/dev/shm").iterdir()),
        wrong=wrong,
    )


def disturbed(
    running: Running, fault: Callable[[Running], None] | None, moment: float, most: dict[str, float]
) -> list[psutil.Process]:
    """Watch a run to its end, or until it is clear that it has none; the fault comes after so many seconds."""
    family, begun = running.family(), time.monotonic()
    while running.process.poll() is None and time.monotonic() - begun < beds.WAIT:
        family = watch(running, most) or family
        if fault is not None and time.monotonic() - begun > moment:
            fault(running)
            fault = None
        time.sleep(0.5)
    return family


def watch(running: Running, most: dict[str, float]) -> list[psutil.Process]:
    """Raise `most` to what all processes hold now; returns them."""
    family, memory, handles = running.family(), 0, 0
    for one in family:
        with contextlib.suppress(psutil.Error):
            memory += one.memory_info().rss
            handles += one.num_fds()
    for name, value in (("memory", memory), ("handles", handles), ("processes", len(family))):
        most[name] = max(most[name], value)
    return family


def known(checkout: Path) -> list[dict[str, Any]]:
    """The registered versions."""
    command = (sys.executable, "-m", "flows.cli", "models", "vit-smoke", "--json")
    return json.loads(run(checkout, *command).stdout)


def leftovers(checkout: Path, before: list[dict[str, Any]]) -> list[str]:
    """What should not be there once a pipeline is done."""
    wrong = [f"half-written: {path}" for path in beds.litter(checkout)]
    wrong += [f"scratch: {path.name}" for path in (checkout / "runs/smoke").glob(".scratch/*")]
    now = known(checkout)
    if len(now) != len(before) + 1:
        wrong.append(f"{len(now) - len(before)} new versions instead of one")
    champions = [one["version"] for one in now if "champion" in one["aliases"]]
    best = max(one["scores"]["vtab/mean_of_tasks"] for one in now)
    holders = [one["scores"]["vtab/mean_of_tasks"] for one in now if "champion" in one["aliases"]]
    if len(champions) != 1 or holders[0] < best:
        wrong.append(f"champion {champions} with {holders}, the best has {best}")
    with sqlite3.connect(f"file:{checkout / 'mlflow.db'}?mode=ro", uri=True) as database:
        (running,) = database.execute("select count(*) from runs where status = 'RUNNING'").fetchone()
    wrong += [f"{running} MLflow runs still RUNNING"] if running else []
    status = run(checkout, "dvc", "status", "--json")
    if status.returncode or json.loads(status.stdout) != {}:
        wrong.append(f"dvc status: {status.stdout}{status.stderr}"[:300])
    return wrong


def growth(rounds: list[Round]) -> dict[str, Any]:
    """The median of the last third over that of the first, and what the database and /tmp gained in a round.

    A round is measured by the median of its kind: Ray workers and a server of its own need more whenever they come.
    """
    third = max(1, len(rounds) // 3)
    found: dict[str, Any] = {}
    for name in ("memory_mb", "handles", "processes", "seconds"):
        alike: dict[tuple[int, bool], list[float]] = {}
        for one in rounds:
            alike.setdefault(one.kind, []).append(getattr(one, name))
        parts = [getattr(one, name) / statistics.median(alike[one.kind]) for one in rounds]
        found[name] = round(statistics.median(parts[-third:]) / statistics.median(parts[:third]), 2)
    steps = max(1, len(rounds) - 1)
    for name in ("database_kb", "temporary"):
        found[f"{name} a round"] = round((getattr(rounds[-1], name) - getattr(rounds[0], name)) / steps, 1)
    return found


def sentence(one: Round) -> str:
    state = "right" if not one.wrong else "WRONG: " + "; ".join(one.wrong)
    return f"{one.number + 1}: {one.fault}: {one.starts} starts, {one.seconds:.0f} s, {one.memory_mb:.0f} MB: {state}"


def write(rounds: list[Round]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    found = {"growth": growth(rounds), "rounds": [dataclasses.asdict(one) for one in rounds]}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
