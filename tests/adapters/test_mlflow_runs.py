"""A stage's run: opened once, continued after a failure, closed honestly, complete after an outage."""

import contextlib
import http.server
import logging
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from flows.adapters import mlflow_endings, mlflow_points, mlflow_runs, mlflow_store
from flows.adapters.mlflow_runs import ServiceDown, attached, catch_up, check, close_stale, find_run, stage_run
from flows.adapters.mlflow_store import client

pytestmark = pytest.mark.usefixtures("store")


def tags(fingerprint: str, stage: str = "pretrain") -> dict[str, str]:
    return {"vitflow.fingerprint": fingerprint, "vitflow.stage": stage}


def status(run_id: str) -> str:
    return client().get_run(run_id).info.status


def points(run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client().get_metric_history(run_id, key)]


def test_run_holds_numbers_files_params_and_tags(store: Path, tmp_path: Path) -> None:
    (tmp_path / "curves.png").write_bytes(b"picture")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("a")
    with stage_run("holds", "mini/pretrain", tags("f0"), {"train.steps": 5}) as run:
        for step in range(1, 6):
            run.log(step, {"train/loss": 1 / step})
        run.log_figure(tmp_path / "curves.png")
        run.log_artifacts(tmp_path / "more")
        run.set_tags({"note": "hello"})
    data = client().get_run(run.run_id).data
    assert run.url is None  # an embedded store has no web page
    assert points(run.run_id, "train/loss") == [(step, 1 / step) for step in range(1, 6)]
    assert data.params == {"train.steps": "5"}
    assert data.tags["note"] == "hello"
    assert data.tags["vitflow.pid"] == str(os.getpid())
    assert status(run.run_id) == "FINISHED"
    kept = {path.name for path in (store / "mlartifacts" / "holds" / run.run_id).rglob("*") if path.is_file()}
    assert kept == {"curves.png", "a.txt"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED"), (GeneratorExit, "KILLED")],
)
def test_interrupted_run_is_continued(error: type[BaseException], expected: str) -> None:
    fingerprint = f"again-{error.__name__}"
    with pytest.raises(error), stage_run("again", "mini/pretrain", tags(fingerprint), {"a": 1}) as first:
        for step in (1, 2, 3):
            first.log(step, {"train/loss": step})
        raise error
    assert status(first.run_id) == expected
    with stage_run("again", "mini/pretrain", tags(fingerprint), {"a": 1, "b": 2}) as second:
        assert status(second.run_id) == "RUNNING"
        for step in (2, 3, 4):  # resumed from a checkpoint of step 1
            second.log(step, {"train/loss": step, "val/top1": step})
    assert second.run_id == first.run_id
    assert points(second.run_id, "train/loss") == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert points(second.run_id, "val/top1") == [(2, 2), (3, 3), (4, 4)]
    assert client().get_run(second.run_id).data.params == {"a": "1", "b": "2"}
    assert find_run(fingerprint, "pretrain") == first.run_id


def test_finished_run_is_not_reopened() -> None:
    with stage_run("twice", "mini/pretrain", tags("f2")) as first:
        pass
    with stage_run("twice", "mini/pretrain", tags("f2")) as second:
        pass
    assert second.run_id != first.run_id
    assert find_run("f2", "finetune") is None


def test_attached_logs_into_a_run_that_stays_open() -> None:
    with stage_run("attach", "mini/pretrain", tags("f3")) as run:
        with attached(run.run_id) as rank0:
            rank0.log(1, {"train/loss": 0.5})
        assert points(run.run_id, "train/loss") == [(1, 0.5)]
        assert status(run.run_id) == "RUNNING"


def test_not_a_number_is_kept() -> None:
    with stage_run("nan", "mini/pretrain", tags("f4")) as run:
        run.log(1, {"train/loss": math.nan})
    assert math.isnan(points(run.run_id, "train/loss")[0][1])


def test_only_runs_of_dead_processes_are_closed() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    changes = {
        "alive": {"note": "ours"},
        "dead": {"vitflow.pid": str(ended.pid)},
        "reused": {"vitflow.pid_started": "1"},  # our pid, but of an earlier process
        "elsewhere": {"vitflow.host": "another", "vitflow.pid": "1"},
    }
    with contextlib.ExitStack() as stack:
        runs = {name: stack.enter_context(stage_run("stale", "mini/pretrain", tags(name))) for name in changes}
        for name, run in runs.items():
            run.set_tags(changes[name])
        assert sorted(close_stale("stale")) == sorted([runs["dead"].run_id, runs["reused"].run_id])
        assert {name: status(run.run_id) for name, run in runs.items()} == {
            "alive": "RUNNING",
            "dead": "KILLED",
            "reused": "KILLED",
            "elsewhere": "RUNNING",
        }
    assert close_stale("no-such-experiment") == []


def test_outage_delays_points_but_loses_none(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(mlflow_points, "FLUSH_EVERY", 0.02)
    api = client()
    write, failures = api.log_batch, []

    def flaky(*arguments: object, **options: object) -> None:
        if options.get("metrics") and len(failures) < 3:
            failures.append(1)
            raise MlflowException("connection refused")
        write(*arguments, **options)  # pyright: ignore[reportArgumentType]

    with caplog.at_level(logging.WARNING, "vitflow"), stage_run("outage", "mini/pretrain", tags("f5")) as run:
        monkeypatch.setattr(api, "log_batch", flaky)
        started = time.monotonic()
        for step in range(700):
            run.log(step, {"train/loss": float(step)})
        assert time.monotonic() - started < 0.2  # logging does not wait for the server
        while len(failures) < 3:
            time.sleep(0.01)
    assert points(run.run_id, "train/loss") == [(step, float(step)) for step in range(700)]
    assert len([record for record in caplog.records if "does not take metrics" in record.message]) == 1


def test_what_a_lost_server_misses_is_told_when_it_is_back(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_runs, "FINAL_WAIT", 0.1)
    (tmp_path / "curves.png").write_bytes(b"picture")

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    with stage_run("lost", "mini/pretrain", tags("f6")) as run:
        run.log(1, {"train/loss": 1.0})
        assert run.points.flush()
        monkeypatch.setattr(client(), "log_batch", refuse)
        run.log(2, {"train/loss": 0.5, "val/top1": 0.5})
        children = [{"name": "seed-0", "params": {"seed": 0}, "metrics": {"val/top1": 0.5}}]
        run.leave([tmp_path / "curves.png"], children)
    file = store / mlflow_endings.UNTOLD / f"{run.run_id}.json"
    assert any(f"how run {run.run_id} ended" in line and str(file) in line for line in caplog.messages)
    catch_up()
    assert file.is_file() and status(run.run_id) == "RUNNING", "it is still away"
    monkeypatch.delattr(client(), "log_batch")
    monkeypatch.setattr(client(), "log_artifact", refuse)
    catch_up()
    assert file.is_file(), "it takes numbers, but no files"
    monkeypatch.delattr(client(), "log_artifact")
    catch_up()
    assert not file.exists() and status(run.run_id) == "FINISHED"
    assert points(run.run_id, "train/loss") == [(1, 1.0), (2, 0.5)] and points(run.run_id, "val/top1") == [(2, 0.5)]
    assert [one.path for one in client().list_artifacts(run.run_id)] == ["curves.png"]
    experiment = client().get_run(run.run_id).info.experiment_id
    assert len(client().search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.run_id}'")) == 1


def test_gaps_are_filled_when_a_run_goes_on() -> None:
    """Killed while the server was away, a run has lost points that the resumed training gives again."""
    with pytest.raises(KeyboardInterrupt), stage_run("gaps", "mini/pretrain", tags("f10")) as run:
        for step in (1, 4):
            run.log(step, {"train/loss": step})
        raise KeyboardInterrupt
    with stage_run("gaps", "mini/pretrain", tags("f10")) as run:
        for step in (2, 3, 4, 5):
            run.log(step, {"train/loss": step})
    assert sorted(points(run.run_id, "train/loss")) == [(step, step) for step in range(1, 6)]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a..b", ".hidden", "x" * 101])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match="experiment"), stage_run(name, "mini/pretrain", tags("f7")):
        pass


def test_wrong_use_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"vitflow\.stage"), stage_run("x", "x", {"vitflow.fingerprint": "f"}):
        pass
    with stage_run("metric-names", "x", tags("f8")) as run, pytest.raises(ValueError, match="metric name"):
        run.log(1, {"../loss": 1.0})


@pytest.fixture
def server() -> Iterator[str]:
    """An HTTP server that answers /health with 200 and /broken/health with 500."""

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 500)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_check_tells_a_live_server_from_a_broken_one(server: str) -> None:
    check(server)
    check("sqlite:///anything.db")
    with pytest.raises(ServiceDown, match="answers 500"):
        check(f"{server}/broken")


def test_server_down_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_store, "HEALTH_TIMEOUT", 0.3)
    with socket.socket() as silent:  # accepts, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(ServiceDown, match=f"http://127.0.0.1:{port} does not answer"):
            check(f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(ServiceDown, match="MLFLOW_TRACKING_URI"), stage_run("down", "x", tags("f9")):
        pass
    assert time.monotonic() - started < 2


def test_runs_of_a_sweep_lie_below_that_of_their_stage() -> None:
    with stage_run("sweep", "mini/finetune", tags("sweep0", "finetune")) as run:
        for _ in range(2):  # a second attempt at the end of a stage
            for seed in (0, 1):
                params, metrics = {"learning_rate": 0.01, "seed": seed}, {"val/top1": 0.5 + seed / 10}
                run.leave([], [{"name": f"seed-{seed}", "params": params, "metrics": metrics}])
    experiment = client().get_run(run.run_id).info.experiment_id
    below = client().search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    found = {child.info.run_name: (child.data.params["seed"], child.data.metrics["val/top1"]) for child in below}
    assert found == {"seed-0": ("0", 0.5), "seed-1": ("1", 0.6)} and len(below) == 2
    assert {child.info.status for child in below} == {"FINISHED"}
    assert find_run("sweep0", "finetune") == run.run_id
