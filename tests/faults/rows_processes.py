"""Rows about processes that are killed, asked to end, stopped, or too many."""

import contextlib
import signal
import time

import psutil
import yaml

from tests.checkout import run
from tests.faults import bed as beds
from tests.faults import faults
from tests.faults.bed import FLOW, LOG_EVERY, PRETRAIN, SAVE_EVERY, STEPS, Bed, Running, alive, started
from tests.faults.row import Draw, Row, Trial

GRACE = 30  # seconds that a scheduler gives
TWO = {"VITFLOW_WORKERS": "2"}
ALONE = {"VITFLOW_WORKERS": "0"}
HANG = 15  # seconds without an answer
STARTING = 8  # seconds of work until a stage's process trains: imports


def resumed(where: Bed, workers: str, command: tuple[str, ...] = PRETRAIN) -> None:
    """The same again, to the end: what an undisturbed run makes, bit for bit, and nothing half-written."""
    with started(where.checkout, *command, VITFLOW_WORKERS=workers) as again:
        finish(again)
    beds.same(beds.take(where.checkout, "pretrain"), where.undisturbed(workers))
    assert not beds.litter(where.checkout)


def finish(training: Running) -> None:
    """To the end of pre-training; of a flow, which would go on, no further."""
    if training.process.args[-len(FLOW) :] != FLOW and "repro" not in training.process.args:
        assert training.end() == 0, training.text()[-2000:]
        return
    out = training.checkout / "runs/smoke/pretrain/config.json"
    training.wait(out.is_file)
    training.process.terminate()
    training.end(120)


def cost(done: int, kept: int) -> int:
    """Steps that are done again. A report may lag behind by as many steps as lie between two."""
    assert done - kept <= SAVE_EVERY + LOG_EVERY, f"{done} steps were done, {kept} were kept"
    return max(0, done - kept)


def killed_worker(where: Bed, draw: Draw) -> Trial:
    where.undisturbed("2")
    with started(where.checkout, *PRETRAIN, **TWO) as training:
        training.reach(draw.source.randrange(LOG_EVERY, STEPS - SAVE_EVERY))
        workers = training.member("RayTrainWorker")
        assert len(workers) == 2, [beds.words(one) for one in workers]
        faults.kill(draw.source.choice(workers))
        start, done, kept = time.monotonic(), beds.reported(where.checkout), beds.saved(where.checkout)
        finish(training)
        seconds = time.monotonic() - start
    beds.same(beds.take(where.checkout, "pretrain"), where.undisturbed("2"))
    assert not beds.litter(where.checkout)
    return Trial(redone=cost(done, kept), seconds=seconds)


def killed_driver(where: Bed, draw: Draw) -> Trial:
    """Of the stage's own door, of the flow, or of DVC."""
    kind = draw.of("flow", "stage", "dvc")
    where.undisturbed("2")
    dvc = ("dvc", "repro", "-s", "-f", "pretrain@smoke")
    command = {"flow": FLOW, "dvc": dvc}.get(kind, PRETRAIN)
    with started(where.checkout, *command, **TWO) as training:
        training.reach(draw.source.randrange(SAVE_EVERY, STEPS - SAVE_EVERY))
        family = training.family()
        faults.kill(family[0])
        start, done, kept = time.monotonic(), beds.reported(where.checkout), beds.saved(where.checkout)
        left = alive([one for one in family if not beds.waits_for_nothing(one)], 10)
        assert not left, f"{kind}: still there: {left}"
    resumed(where, "2", command)
    return Trial(redone=cost(done, kept), seconds=time.monotonic() - start)


def asked_to_end(where: Bed, draw: Draw) -> Trial:
    workers = draw.of("0", "2")
    where.undisturbed(workers)
    with started(where.checkout, *PRETRAIN, VITFLOW_WORKERS=workers) as training:
        training.reach(draw.source.randrange(LOG_EVERY, STEPS - SAVE_EVERY))
        start = time.monotonic()
        training.process.send_signal(signal.SIGTERM)
        code = training.end(GRACE)
        seconds = time.monotonic() - start
        assert code == 143, f"exit code {code}: {training.text()[-1500:]}"
        done, kept = beds.reported(where.checkout), beds.saved(where.checkout)
        assert kept >= done, f"{workers} workers: step {done} was reported, but {kept} is saved"
    resumed(where, workers)
    return Trial(redone=0, seconds=seconds)


def hanging_rank(where: Bed, draw: Draw) -> Trial:
    where.undisturbed("2")
    with started(where.checkout, *PRETRAIN, **TWO, VITFLOW_HANG_SECONDS=str(HANG)) as training:
        training.reach(draw.source.randrange(SAVE_EVERY, STEPS - SAVE_EVERY))
        stopped = draw.source.choice(training.member("RayTrainWorker"))
        faults.hang(stopped)
        start, done, kept = time.monotonic(), beds.reported(where.checkout), beds.saved(where.checkout)
        with contextlib.suppress(psutil.Error):
            stopped.wait(HANG + 30)
        assert time.monotonic() - start < HANG + 30, "nobody noticed"
        finish(training)
        seconds = time.monotonic() - start
    beds.same(beds.take(where.checkout, "pretrain"), where.undisturbed("2"))
    return Trial(redone=cost(done, kept), seconds=seconds)


def out_of_memory(where: Bed, draw: Draw) -> Trial:
    """Refused memory: a sentence with the bytes that were asked for. With more of it the run goes on."""
    checkout = where.copy(where.checkout)
    beds.configure(checkout, pretrain={"batch_size": 512, "steps": 24, "save_every": 12, "log_every": 2})
    env = faults.inside(checkout, "flows.stages", "of_hunger", draw.source.randrange(1, 10), "history.jsonl", 2)
    env["MALLOC_MMAP_THRESHOLD_"] = "65536"  # or the memory of the pass before would do
    start = time.monotonic()
    with started(checkout, *PRETRAIN, **ALONE, **env) as training:
        code, text = training.end(), training.text()
    assert code == 1 and "Traceback" not in text, f"{code}: {text[-2500:]}"
    assert "does not fit into the memory" in text and "VITFLOW_MICRO_BATCH=256" in text, text[-2500:]
    assert not beds.litter(checkout) and not (checkout / "runs/smoke/pretrain").exists()
    with started(checkout, *PRETRAIN, **ALONE) as again:
        assert again.end() == 0, again.text()[-2000:]
    return Trial(redone=0, seconds=time.monotonic() - start)


def pretraining(running: Running) -> list[psutil.Process]:
    """The stage's processes of a running `dvc repro`."""
    return [one for one in running.family() if beds.words(one)[2:4] == ["flows.stages", "pretrain"]]


def side_by_side(orphan: psutil.Process, second: Running) -> int:
    """How many trained at once while the second ran; AssertionError if the orphan lives for 5 s."""
    most, start = 0, time.monotonic()
    while second.process.poll() is None:
        lives = orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE
        assert not lives or time.monotonic() - start < 5, "the orphan lives on"
        training = [one for one in pretraining(second) if one.cpu_times().user > STARTING]
        most = max(most, lives + len(training))
        time.sleep(0.2)
    return most


def killed_dvc(where: Bed, draw: Draw) -> Trial:
    """DVC leaves its stage behind; ours notices and ends, so that no two ever write side by side."""
    number = signal.SIGTERM if draw.of("TERM", "KILL") == "TERM" else signal.SIGKILL
    where.undisturbed("0")
    dvc = ("dvc", "--wait-for-lock", "repro", "-s", "-f", "pretrain@smoke")
    with started(where.checkout, *dvc, **ALONE) as first:
        first.reach(draw.source.randrange(SAVE_EVERY, STEPS - 2 * SAVE_EVERY))
        family = first.family()
        orphans = pretraining(first)
        assert len(orphans) == 1, [beds.words(one) for one in family]
        first.process.send_signal(number)
        first.end(10)  # or its process id would still be somebody's
        start, done, kept = time.monotonic(), beds.reported(where.checkout), beds.saved(where.checkout)
        with started(where.checkout, *dvc, **ALONE) as second:
            together = side_by_side(orphans[0], second)
            assert second.end() == 0, second.text()[-2000:]
            seconds = time.monotonic() - start
        assert together <= 1, "two trained side by side"
    beds.same(beds.take(where.checkout, "pretrain"), where.undisturbed("0"))
    return Trial(redone=cost(done, kept), seconds=seconds)


def eight_at_once(where: Bed, draw: Draw) -> Trial:
    """All want the same two stale stages. DVC lets one at a stage, and does not wait for that."""
    checkout = where.copy(where.checkout)
    for path in ("runs/smoke/deduplicate", "runs/smoke/prepare", ".dvc/cache"):
        faults.remove(checkout / path, draw.source)
    repro = ("dvc", "--wait-for-lock", "repro", "deduplicate@smoke")
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        all_of_them = [stack.enter_context(started(checkout, *repro, **ALONE)) for _ in range(8)]
        codes = [one.end(600) for one in all_of_them]
        refused = [one.text() for one, code in zip(all_of_them, codes, strict=True) if code]
    assert 0 in codes and all("is busy, it is being blocked by" in text for text in refused), refused
    again = run(checkout, *repro, **ALONE)
    assert again.returncode == 0 and again.stdout.count("didn't change, skipping") == 2, again.stdout + again.stderr
    lock = yaml.safe_load((checkout / "dvc.lock").read_text())
    assert set(lock["stages"]) >= {"prepare@smoke", "deduplicate@smoke"}
    assert not beds.litter(checkout)
    return Trial(seconds=time.monotonic() - start)


ROWS = [
    Row(
        number=1,
        fault="SIGKILL to one of two Ray workers at a random step: the run ends by itself with the bits of an "
        "undisturbed one, weights and metric log; at most one checkpoint interval is redone",
        times=3,
        attempt=killed_worker,
        brief=1,
        fewer="3 of 20: each takes half a minute",
    ),
    Row(
        number=2,
        fault="SIGKILL to the driver (stage, flow or `dvc repro`), which Ray's controller is part of: nothing is left "
        "running after 10 s, the next start resumes, same bits",
        times=3,
        attempt=killed_driver,
        fewer="1 of 5 each: each takes most of a minute",
        left_out="Prefect's worker: see row 22",
        brief=1,
    ),
    Row(
        number=3,
        fault="SIGTERM to a training in this process or on two workers: its state is saved within 30 s, exit code "
        "143, no step is lost, same bits when resumed",
        times=2,
        attempt=asked_to_end,
    ),
    Row(
        number=20,
        fault="SIGSTOP to one of two ranks: noticed within the limit (here 15 s) and 30 s, restarted, same bits",
        times=1,
        attempt=hanging_rank,
    ),
    Row(
        number=21,
        fault="out of memory: the training ends with a sentence that says what does not fit and what needs less, and "
        "goes on once there is more",
        times=2,
        attempt=out_of_memory,
        left_out="a GPU's memory (none here); one retry (Ray workers have three, a process of its own none)",
    ),
    Row(
        number=23,
        fault="`dvc repro` killed (TERM, KILL) and started again at once: the orphan ends within 5 s, no two train "
        "side by side, same bits",
        times=2,
        attempt=killed_dvc,
        brief=1,
    ),
    Row(
        number=24,
        fault="eight `dvc repro` at once in one checkout: each stage is done once, those that come too late are "
        "refused by DVC and harm nothing, dvc.lock is whole and fresh",
        times=1,
        attempt=eight_at_once,
        unit="stages",
        left_out="waiting instead of refusing: DVC (3.67) does not, even with --wait-for-lock; flow runs do",
    ),
]
