"""Rows about what is saved: half-written, damaged, of another run, of another number of workers, not a number."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.faults import bed as beds
from tests.faults import faults
from tests.faults.bed import PRETRAIN, SAVE_EVERY, Bed, started
from tests.faults.inside import dying
from tests.faults.row import Draw, Row, Trial
from tests.vit.training.conftest import ALONE, SITTING, Sitting
from tests.vit.training.test_equality import assert_same
from vit.training import checkpoint
from vit.training.checkpoint import Checkpoints, State

REAL_EVERY = 10  # trials of row 4 that kill a real training, not a forked writer
CALLS = 10  # of Python's that name a path of a checkpoint, in one save of a training; at least


def killed_while_saving(where: Bed, draw: Draw) -> Trial:
    """At a random byte of a file, or before a random one of the calls that make directories, move and remove."""
    if draw.number % REAL_EVERY == REAL_EVERY - 1:
        return killed_training_while_saving(where, draw)
    kept = Checkpoints(directory=where.root / f"saving-{draw.number}", fingerprint="f")
    states = [State(step=step, tensors={"model.x": torch.full((500, 50), float(step))}) for step in (4, 8, 12)]
    checkpoint.save(kept, states[0])
    size = (kept.directory / checkpoint.name(4) / checkpoint.STATE).stat().st_size
    calls = calls_of_a_save(where.root / f"counting-{draw.number}", states)

    def save() -> None:
        if draw.number % 2:
            dying.at_byte(draw.source.randrange(size))
        else:
            dying.at_call(draw.source.randrange(1, calls + 1), "step-")
        checkpoint.save(kept, states[1])

    code = faults.in_child(save)
    assert code < 0, f"the writer lived on: {code}"
    start = time.monotonic()
    found = checkpoint.load_newest(kept)
    assert found is not None and checkpoint.is_equal(found, states[found.step // 4 - 1])
    checkpoint.save(kept, states[2])
    left = sorted(path.name for path in kept.directory.iterdir() if path.name not in map(checkpoint.name, (4, 8, 12)))
    assert not left, left
    return Trial(redone=8 - found.step, seconds=time.monotonic() - start)


def calls_of_a_save(directory: Path, states: list[State]) -> int:
    """How many calls name a path of the second checkpoint's; counted in a child, as hooks stay."""
    kept = Checkpoints(directory=directory, fingerprint="f")
    checkpoint.save(kept, states[0])

    def save() -> None:
        seen = dying.counting_calls("step-")
        checkpoint.save(kept, states[1])
        os._exit(seen())

    count = faults.in_child(save)
    assert count > 1, "nothing was counted"
    return count


def killed_training_while_saving(where: Bed, draw: Draw) -> Trial:
    where.undisturbed("0")
    number = draw.source.randrange(CALLS * 3, CALLS * 6)
    env = faults.inside(where.checkout, "flows.stages", "at_call", number, "step-")
    with started(where.checkout, *PRETRAIN, VITFLOW_WORKERS="0", **env) as training:
        code = training.end()
    assert code == -9, f"the writer lived on: {code}"
    done, kept = beds.reported(where.checkout), beds.saved(where.checkout)
    start = time.monotonic()
    with started(where.checkout, *PRETRAIN, VITFLOW_WORKERS="0") as again:
        assert again.end() == 0, again.text()[-2000:]
    beds.same(beds.take(where.checkout, "pretrain"), where.undisturbed("0"))
    assert not beds.litter(where.checkout)
    return Trial(redone=max(0, done - kept), seconds=time.monotonic() - start)


def of_another_network(path: Path) -> None:
    """A checkpoint that is whole, of another run: its files fit its manifest."""
    (other := path.with_name("other")).mkdir()
    kept = Checkpoints(directory=other, fingerprint="another")
    state = State(step=checkpoint.step_of(path), tensors={"model.x": torch.zeros(3)})
    made = checkpoint.save(kept, state)
    shutil.rmtree(path)
    made.rename(path)
    shutil.rmtree(other)


def damaged(path: Path, kind: str, draw: Draw) -> None:
    """A checkpoint, or what Ray keeps beside it, in one of the ways of row 5."""
    state, manifest = path / checkpoint.STATE, path / checkpoint.MANIFEST
    ways: dict[str, Callable[[], None]] = {
        "bit": lambda: faults.flip_bit(state, draw.source),
        "cut": lambda: faults.truncate(state, draw.source),
        "empty": lambda: faults.empty(state, draw.source),
        "missing": lambda: faults.remove(state, draw.source),
        "other network": lambda: of_another_network(path),
        "no manifest": lambda: faults.remove(manifest, draw.source),
        "Ray's snapshot": lambda: faults.cut_ray_snapshot(path.parents[1] / "ray" / path.parents[1].name),
    }
    ways[kind]()


DAMAGES = ("bit", "cut", "empty", "missing", "other network", "no manifest", "Ray's snapshot", "all of them")


def damaged_checkpoint(where: Bed, draw: Draw) -> Trial:
    kind = draw.of(*DAMAGES)
    workers = "2" if kind == "Ray's snapshot" else "0"
    where.undisturbed(workers)
    with started(where.checkout, *PRETRAIN, VITFLOW_WORKERS=workers) as training:
        training.reach(2 * SAVE_EVERY + draw.source.randrange(SAVE_EVERY))
        faults.kill(training.head)
    beds.alive(training.family(), 20)
    found = beds.checkpoints(where.checkout)
    assert len(found) == 2
    done, kept = beds.reported(where.checkout), beds.saved(where.checkout)
    for path in found if kind == "all of them" else found[-1:]:
        damaged(path, "bit" if kind == "all of them" else kind, draw)
    start = time.monotonic()
    with started(where.checkout, *PRETRAIN, VITFLOW_WORKERS=workers) as again:
        code, text = again.end(), again.text()
    if kind == "all of them":
        assert code == 1 and "all 2 checkpoints" in text and "delete that directory" in text, text[-2000:]
        assert beds.checkpoints(where.checkout) == found, "what may be mended by hand was removed"
        beds.forget(where.checkout)
        return Trial()
    assert code == 0, text[-2000:]
    warnings = [line for line in text.splitlines() if "trying the one before" in line]
    expected = 0 if kind == "Ray's snapshot" else 1
    assert len(warnings) == expected and all(found[-1].name in line for line in warnings), warnings
    beds.same(beds.take(where.checkout, "pretrain"), where.undisturbed(workers))
    kept -= SAVE_EVERY * expected
    return Trial(redone=max(0, done - kept), seconds=time.monotonic() - start)


def other_numbers_of_workers(where: Bed, draw: Draw) -> Trial:
    """One training by 1, 2, 4 and 8 workers, in a random order, each killed but the last."""
    alone, found = (
        Sitting(where.root / f"{name}-{draw.number}") for name in ("alone", "found") if not made(where, name, draw)
    )
    alone.run(ALONE)
    counts = draw.source.sample((1, 2, 4, 8), 4)
    start = time.monotonic()
    for number, count in enumerate(counts):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
        dies = {} if number == 3 else {"dies": 5 * (number + 1) + draw.source.randrange(3)}
        found.run([*command, SITTING], timeout=beds.WAIT, **dies)
    assert found.world_sizes() == counts
    (expected,) = alone.batches().values()
    for steps in found.batches().values():
        assert all(images == expected[step][: len(images)] for step, images in steps.items()), f"{counts}: other images"
    assert_same(found, alone)
    return Trial(seconds=time.monotonic() - start)


def made(where: Bed, name: str, draw: Draw) -> None:
    (where.root / f"{name}-{draw.number}").mkdir()


def not_a_number(where: Bed, draw: Draw) -> Trial:
    """A rate that no network stands: stopped with a sentence and the batch's images; again, it is stopped again."""
    checkout, start = where.copy(where.checkout), time.monotonic()
    rewinds = draw.of("0", "1")
    beds.configure(checkout, pretrain={"learning_rate": 1e38, "rewinds": int(rewinds)})
    for _ in range(2):
        with started(checkout, *PRETRAIN, VITFLOW_WORKERS="0") as training:
            code, text = training.end(), training.text()
        assert code == 1 and "lower learning_rate" in text and "diverged.json" in text, text[-2000:]
        assert not (checkout / "runs/smoke/pretrain").exists() and not beds.litter(checkout)
    for path in beds.checkpoints(checkout):
        tensors = load_file(path / checkpoint.STATE)
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values()), f"{path} holds no numbers"
    (noted,) = (checkout / "runs/smoke/.scratch").glob("pretrain-*/checkpoints/diverged.json")
    entries = json.loads(noted.read_text())
    assert len(entries) == int(rewinds) + 1 and all(len(entry["images"]) == 32 for entry in entries)
    return Trial(seconds=time.monotonic() - start)


ROWS = [
    Row(
        number=4,
        fault="SIGKILL in the middle of saving a checkpoint, at a random byte or call: the newest whole one is used, "
        "never a half one; nothing is left over after the next save",
        times=20,
        attempt=killed_while_saving,
        brief=9,
        fewer="20 of 50, 2 of them in real trainings: for time",
    ),
    Row(
        number=5,
        fault="the newest checkpoint has a bit flipped, is cut, empty, without file or manifest, of another "
        "network, or Ray's index is cut: the one before is used, one warning names it; all broken: a clear stop, "
        "no fresh start",
        times=8,
        attempt=damaged_checkpoint,
    ),
    Row(
        number=6,
        fault="resumed by 1, 2, 4 and 8 workers in random order: the same images, losses and weights to 1e-5",
        times=1,
        attempt=other_numbers_of_workers,
    ),
    Row(
        number=19,
        fault="the training diverges (NaN): stopped or rewound as configured, the cause and its images are listed, "
        "no checkpoint holds a NaN",
        times=2,
        attempt=not_a_number,
    ),
]
