"""Rows about the servers: duplicate triggers, outages, cancelling, rolling back."""

import concurrent.futures
import contextlib
import csv
import http.client
import json
import threading
import time
import urllib.error
from collections.abc import Iterator
from typing import Any

from tests.faults import bed as beds
from tests.faults.bed import PRETRAIN, STEPS, Bed, started
from tests.faults.row import Draw, Row, Trial
from tests.faults.rows_registry import registrars
from tests.faults.stack import FINAL, Stack, wait

OUTAGE = 60.0  # seconds
DISTURBED = 5000  # steps: minutes
FINETUNE = (*PRETRAIN[:-2], "finetune", PRETRAIN[-1])
END_SECONDS = 35.0  # from the request to a final state
EVERY, LOGGED = 50, 7  # steps between two checkpoints, two reports, of trainings that are long enough to be disturbed
FEW = ("finetune.train.steps=3", "evaluate.train.steps=2", "evaluate.probes.supports=1")


def long(draw: Draw, workers: str, steps: int) -> list[str]:
    """Overrides for a pre-training of its own that takes a while."""
    train = {"steps": steps, "save_every": EVERY, "log_every": LOGGED, "seed": draw.source.randrange(10**6)}
    words = [f"pretrain.train.{name}={value}" for name, value in train.items()]
    return [*words, *FEW, f"deploy.env.VITFLOW_WORKERS='{workers}'"]


def started_at_once(where: Bed, draw: Draw) -> Trial:
    """Ten requests for a run at the same moment, with one idempotency key and then with none."""
    stack, seed = where.stack, draw.source.randrange(10**6)
    overrides = [f"finetune.train.seed={seed}", "pretrain.train.steps=20", *FEW]
    address = f"deployments/{stack.deployment()}/create_flow_run"
    body = {"parameters": {"pipeline": "smoke", "overrides": overrides}}
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        keyed = list(pool.map(lambda _: stack.ask(address, body | {"idempotency_key": str(seed)})["id"], range(10)))
        assert len(set(keyed)) == 1, keyed
        ids = keyed[:1] + [one["id"] for one in pool.map(lambda _: stack.ask(address, body), range(10))]
    begun, ended = time.monotonic(), 0
    while ended < 2:  # the one that does the work, and one that finds it done
        states = [stack.state(one) for one in ids]
        assert sum(one["type"] == "RUNNING" for one in states) <= 1, states
        assert not {one["type"] for one in states} & set(FINAL[1:]), states
        ended = sum(one["type"] == "COMPLETED" for one in states)
        assert time.monotonic() - begun < beds.WAIT, states
        time.sleep(0.5)
    for one in ids:
        if stack.state(one)["type"] == "SCHEDULED":
            stack.set_state(one, "CANCELLED", "Cancelled")
    wait(lambda: all(stack.state(one)["type"] in FINAL for one in ids), lambda: [stack.state(one) for one in ids])
    versions = stack.tracked("model-versions/search", filter="name='vit-smoke'")["model_versions"]
    tags = [{tag["key"]: tag["value"] for tag in one["tags"]} for one in versions]
    assert sum(overrides[0] in one["vitflow.overrides"] for one in tags) == 1, tags
    return Trial()


def servers_down(where: Bed, draw: Draw) -> Trial:
    """Killed in the middle of a pre-training, started again a minute later; or only after its end."""
    kind, stack = draw.of("both", "MLflow, to the end", "Prefect", "MLflow"), where.stack
    if kind == "MLflow, to the end":
        return mlflow_stays_away(where, draw)
    lost = {"Prefect": [stack.prefect], "MLflow": [stack.mlflow], "both": [stack.prefect, stack.mlflow]}
    with stack.flow(*long(draw, "0", DISTURBED)) as flow_run:
        training(stack, flow_run, draw.source.randrange(EVERY, DISTURBED // 10))
        for server in lost[kind]:
            server.kill()
        goes_on(stack)
        for server in lost[kind]:
            server.start()
        back = time.monotonic()
        if kind == "Prefect":  # the runner, too, has to be there again
            return Trial(redone=0, seconds=stack.cancel(flow_run))
        wait(lambda: stack.state(flow_run)["type"] in FINAL, lambda: stack.state(flow_run))
        assert stack.state(flow_run)["type"] == "COMPLETED", stack.state(flow_run)
        metrics_are_whole(stack)
        return Trial(redone=0, seconds=time.monotonic() - back)


def goes_on(stack: Stack) -> None:
    """For as long as the outage takes, the training does steps, unless it ends."""
    step, start = beds.reported(stack.checkout), time.monotonic()
    while (passed := time.monotonic() - start) < OUTAGE:
        time.sleep(20)
        now = beds.reported(stack.checkout)
        assert now > step or not beds.checkpoints(stack.checkout), (
            f"no step after {step} in the outage's {passed:.0f} s"
        )
        step = now


def mlflow_stays_away(where: Bed, draw: Draw) -> Trial:
    """The training goes on to its end and keeps what it made; the next stage stops until there is somebody to tell."""
    stack, alone = where.stack, {"VITFLOW_WORKERS": "0", **where.stack.environment}
    where.undisturbed("0")
    try:
        with started(stack.checkout, *PRETRAIN, **alone) as first:
            first.reach(draw.source.randrange(beds.LOG_EVERY, STEPS // 2))
            stack.mlflow.kill()
            assert first.end() == 0, first.text()[-4000:]
            assert "could not be told how run" in first.text(), first.text()[-4000:]
        with started(stack.checkout, *FINETUNE, **alone) as stopped:
            assert stopped.end() == 1 and "does not answer" in stopped.text().splitlines()[-1], stopped.text()
    finally:
        stack.mlflow.start()
    start = time.monotonic()
    with started(stack.checkout, *FINETUNE, **alone) as second:
        assert second.end() == 0, second.text()[-2000:]
        seconds = time.monotonic() - start
    metrics_are_whole(stack)
    beds.same(beds.take(stack.checkout, "pretrain"), where.undisturbed("0"))
    beds.take(stack.checkout, "finetune")
    return Trial(redone=0, seconds=seconds)


def training(stack: Stack, flow_run: str, step: int) -> None:
    """Until a flow run has done so many steps of its pre-training."""

    def there() -> bool:
        state = stack.state(flow_run)
        assert state["type"] not in FINAL, state
        return beds.reported(stack.checkout) >= step

    wait(there, stack.runner.log.read_text)


def metrics_are_whole(stack: Stack) -> None:
    """Of the newest pre-training, MLflow has every step that its own file has, and calls it finished."""
    out = max((stack.checkout / "runs/smoke").glob("pretrain*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    with out.open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    (run,) = pretrainings(stack)[:1]
    assert run["info"]["status"] == "FINISHED", run["info"]
    asked = {"run_id": run["info"]["run_id"], "metric_key": "train/loss", "max_results": "20000"}
    logged = [int(point["step"]) for point in stack.tracked("metrics/get-history", **asked)["metrics"]]
    assert sorted(logged) == steps, f"{len(steps)} steps were logged, MLflow has {len(set(logged))}"


def pretrainings(stack: Stack) -> list[dict[str, Any]]:
    """MLflow's runs, the newest first."""
    experiment = stack.tracked("experiments/get-by-name", experiment_name="smoke")["experiment"]["experiment_id"]
    wanted = {"filter": "tags.`vitflow.stage` = 'pretrain'", "order_by": ["attributes.start_time DESC"]}
    return stack.tracked("runs/search", {"experiment_ids": [experiment], "max_results": 1000, **wanted}).get("runs", [])


def cancelled(where: Bed, draw: Draw) -> Trial:
    """As the button of Prefect's page does it; every second time at any moment, the start of Ray included."""
    stack, workers = where.stack, draw.of("0", "2")
    with stack.flow(*long(draw, workers, 20 * DISTURBED)) as flow_run:
        wait(lambda: stack.state(flow_run)["type"] == "RUNNING", lambda: stack.state(flow_run))
        if trains := draw.number // 2 % 2 == 0:
            training(stack, flow_run, EVERY)
            assert any("raylet" in line for line in stack.strangers()) == (workers == "2"), stack.strangers()
        time.sleep(draw.source.uniform(0, 1 if trains else 20))
        done = beds.reported(stack.checkout)
        seconds = stack.cancel(flow_run, END_SECONDS)
        assert not trains or "CRASHED" not in stack.states(flow_run), "Prefect took it for a crash"
        kept = beds.saved(stack.checkout)
        assert kept >= done, f"{workers} workers: step {done} was reported, but {kept} is saved"
        assert not trains or kept % EVERY, f"nothing was saved but every {EVERY}th step: {kept}"
        assert not beds.litter(stack.checkout)
        assert {one["info"]["status"] for one in pretrainings(stack)} <= {"KILLED", "FINISHED"}
        stack.set_state(flow_run, "SCHEDULED", "AwaitingRetry")
        training(stack, flow_run, kept + LOGGED)
        stack.cancel(flow_run, END_SECONDS)
        (history,) = (stack.checkout / "runs/smoke/.scratch").glob("pretrain-*/checkpoints/history.jsonl")
        steps = [json.loads(line)["step"] for line in history.read_text().splitlines()]
        assert steps == sorted(steps), f"steps were done again: {steps}"  # one that is reported twice is done once
        return Trial(redone=0, seconds=seconds)


def rolled_back(where: Bed, draw: Draw) -> Trial:
    """MLflow's server is killed before the rollback and after it, while a consumer asks all the time."""
    stack, name, source = where.stack, f"back-{draw.source.randrange(10**9)}", "s3://nobody/reads/this"
    with registrars(where, 1, **stack.environment) as (registrar,):
        for score in (0.1, 0.2):
            number = registrar.tell("version", name=name, score=score, source=source, tags={})
            registrar.tell("promote", name=name, number=number)
        with asking(stack, name) as served:
            time.sleep(draw.source.uniform(0, 2))
            restart(stack)
            registrar.tell("roll_back", name=name)
            start = time.monotonic()
            found = champion(stack, name)
            seconds = time.monotonic() - start
            restart(stack)
            after = champion(stack, name)
        state = registrar.tell("state", name=name)
    assert (found, after) == ("1", "1") and seconds < 1, (found, after, seconds)
    assert {number: one["aliases"] for number, one in state.items()} == {"1": ["champion"], "2": ["previous"]}, state
    assert served == ["2", "1"], served
    return Trial(seconds=seconds)


def restart(stack: Stack) -> None:
    stack.mlflow.kill()
    time.sleep(1)
    stack.mlflow.start()


def champion(stack: Stack, name: str) -> str:
    """As any consumer asks; HTTPError if the server says that there is none."""
    return stack.tracked("registered-models/alias", name=name, alias="champion")["model_version"]["version"]


@contextlib.contextmanager
def asking(stack: Stack, name: str) -> Iterator[list[str]]:
    """What a consumer who asks all the time is told, without repetitions; no answer at all is not "no model"."""
    served, over = list[str](), threading.Event()

    def ask() -> None:
        while not over.wait(0.02):
            try:
                answer = champion(stack, name)
            except urllib.error.HTTPError as error:
                answer = f"{error.code}: {error.read().decode(errors='replace')[:200]}"
            except (OSError, ValueError, http.client.HTTPException):  # refused, or cut in the middle of an answer
                continue
            if served[-1:] != [answer]:
                served.append(answer)

    consumer = threading.Thread(target=ask)
    consumer.start()
    try:
        yield served
    finally:
        over.set()
        consumer.join()


ROWS = [
    Row(
        number=8,
        fault="ten requests for a run at once: with one idempotency key one run, without any one that runs while the "
        "others wait; a registered version",
        times=1,
        attempt=started_at_once,
        unit="runs",
        fewer="the ninth and tenth are not waited for: tests/flows/test_ten_at_once.py does, also with `cancel_new`",
    ),
    Row(
        number=10,
        fault="Prefect's server, MLflow's or both killed for 60 s in mid-training: it goes on, no step is missing "
        "in MLflow afterwards; MLflow away to the end and longer: a clear stop, the next start trains nothing again",
        times=4,
        attempt=servers_down,
        left_out="Prefect's server away for longer than its client is patient (five minutes)",
    ),
    Row(
        number=22,
        fault="cancelled through Prefect's API at a random moment, in this process or on two workers: a final state "
        "within 35 s, no process left 10 s later, MLflow's runs KILLED, no step lost when retried",
        times=2,
        attempt=cancelled,
        fewer="2 of 10, one on workers: each takes a minute or two",
        brief=1,
    ),
    Row(
        number=29,
        fault="a rollback between two kills of MLflow's server: `champion` is the old version less than a second "
        "later and after the restart, and a consumer that asks all the time never hears that there is none",
        times=1,
        attempt=rolled_back,
        unit="versions",
    ),
]
