"""A batch job below an S3 prefix on Ray: the answers of the same folder here; killed, it does only the rest.

And the same model behind `mlflow models serve` gives the same answers.
"""

import base64
import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from flows.adapters import storage
from tests import servers
from tests.checkout import environment, make_checkout, vitflow
from tests.flows.test_predict import BAD, MODEL, crown, draw
from tests.s3.proxy import FaultProxy, Plan
from tests.s3.swift import Server
from tests.ui.served import free_port

pytestmark = pytest.mark.slow
NUM = 120
ASK = ["--model", MODEL, "--piece", "4", "--json"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a champion, a folder of photos and what it says of them, asked here."""
    checkout = make_checkout(tmp_path_factory.mktemp("predict"))
    crown(checkout)
    draw(checkout / "photos", NUM)
    done = vitflow(checkout, "predict", "photos", "--out", "here", *ASK)
    assert done.returncode == 0, done.stderr
    return checkout


def answers(file: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in pq.read_table(file).to_pylist()}


def kept(checkout: Path) -> list[Path]:
    """Finished pieces."""
    return list((checkout / ".vitflow" / "predict").glob("*/[0-9a-f]*"))


@contextlib.contextmanager
def killed_after(checkout: Path, pieces: int, *command: str) -> Iterator[None]:
    """Start the command, kill it and all that it started once so many pieces are done."""
    process = subprocess.Popen(command, cwd=checkout, env=environment(checkout, VITFLOW_WORKERS="2"))
    deadline = time.monotonic() + 240
    while len(kept(checkout)) < pieces:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    yield


@pytest.mark.long
def test_a_prefix_on_ray_is_answered_like_the_folder_here(
    checkout: Path, swift: Server, bucket: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    storage.put(checkout / "photos", f"s3://{bucket}/photos")
    proxy.plan = Plan(shares={"slow": 1.0}, pause=0.3)
    place, out = f"s3://{bucket}/photos", f"s3://{bucket}/out/all.parquet"
    with killed_after(checkout, 3, sys.executable, "-m", "flows.cli", "predict", place, "--out", out, *ASK):
        assert "Contents" not in swift.client().list_objects_v2(Bucket=bucket, Prefix="out/"), "whole or not at all"
    proxy.plan = Plan()
    proxy.requests.clear()
    done = vitflow(checkout, "predict", place, "--out", out, *ASK, VITFLOW_WORKERS="2")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["images"], told["errors"]) == (NUM + len(BAD), len(BAD))
    assert told["done_before"] >= 12
    read = {one.path for one in proxy.gets("/photos/")}
    assert len(read) == told["images"] - told["done_before"], "only the rest is read"
    swift.client().download_file(bucket, "out/all.parquet", str(tmp_path / "all.parquet"))
    there, here = answers(tmp_path / "all.parquet"), answers(checkout / "here" / "predictions.parquet")
    assert there.keys() == here.keys()
    for name, row in here.items():
        assert there[name] == row | {"probability": row["probability"] and pytest.approx(row["probability"], abs=1e-6)}
    assert not kept(checkout)


@pytest.fixture
def server(checkout: Path) -> Iterator[str]:
    """The model behind MLflow's own server."""
    address, store = f"http://127.0.0.1:{free_port()}", f"sqlite:///{checkout / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", MODEL, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    with servers.running(command, f"{address}/ping", checkout, checkout / "serve.log", MLFLOW_TRACKING_URI=store):
        yield f"{address}/invocations"


def test_mlflows_server_answers_the_same(checkout: Path, server: str) -> None:
    here = answers(checkout / "here" / "predictions.parquet")
    names = [name for name, row in here.items() if not row["error"]]
    sent = [base64.b64encode((checkout / "photos" / name).read_bytes()).decode() for name in names]
    told = ask(server, sent)
    assert [row["label"] for row in told] == [here[name]["label"] for name in names]
    expected = [here[name]["probability"] for name in names]
    assert [row["score"] for row in told] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(server, [base64.b64encode(b"no image").decode()])


def ask(server: str, images: list[str]) -> list[dict[str, Any]]:
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}}).encode()
    request = urllib.request.Request(server, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]
