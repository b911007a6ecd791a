"""docs/operations.md as it is written: every command in it, run."""

import contextlib
import io
import json
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from flows.adapters import storage
from tests import servers
from tests.checkout import ROOT, environment, make_checkout, run, vitflow
from tests.faults.bed import commit
from tests.s3 import stores, swift
from tests.ui.served import Served, free_port, served

DOCS = ROOT / "docs" / "operations.md"
TOOLS = "vitflow|dvc|mlflow|prefect|git"
ELSEWHERE = {
    "vitflow faults run 22": "make faults",
    "vitflow faults run 10,29": "make faults",
    "git checkout --theirs dvc.lock && dvc checkout": "tests/flows/test_two_machines.py",
}


def documented() -> set[str]:
    """The commands: indented blocks without their comments, and what is in backquotes and more than a name."""
    text = re.sub(r"```.*?```", "", DOCS.read_text(), flags=re.DOTALL)
    blocks = {line.split("  #")[0].strip() for line in text.splitlines() if re.match(rf"    ({TOOLS}) ", line)}
    blocks = {line.split(" # ")[0].strip() for line in blocks}
    quoted = {one for one in re.findall(r"`([^`\n]+)`", text) if re.match(rf"({TOOLS}) \S+ \S", one)}
    return blocks | {one for one in quoted if "…" not in one}


def test_every_command_is_run_here_or_elsewhere() -> None:
    written = Path(__file__).read_text()
    missing = {
        one for one in documented() - ELSEWHERE.keys() if f'"{one}"' not in written and f"'{one}'" not in written
    }
    assert not missing
    assert len(documented()) > 25
    assert ELSEWHERE.keys() <= documented()


def words(command: str) -> list[str]:
    """Of a command that is in the docs; AssertionError if it is not."""
    assert command in documented(), f"{command} is not in {DOCS.name}"
    return command.split()


class Place:
    """A checkout whose pipeline `mini` has the numbers of `smoke`, and what stands for names in the docs."""

    def __init__(self, root: Path) -> None:
        self.root, self.checkout = root, make_checkout(root / "checkout")
        self.stands_for = {"DIR": str(root / "kept"), "REPOSITORY": str(self.checkout)}
        self.env: dict[str, str] = {"VITFLOW_WORKERS": "0"}

    def ask(self, command: str, code: int = 0, cwd: Path | None = None) -> str:
        """Run it as it is written, in the checkout; what it printed."""
        words(command)
        done = run(cwd or self.checkout, "bash", "-c", self.filled(command), **self.env)
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def filled(self, command: str) -> str:
        """With what stands for the names."""
        for name, value in self.stands_for.items():
            command = command.replace(name, value)
        return command


def documented_pipeline(checkout: Path) -> None:
    """`mini`, as small as `smoke`."""
    file = checkout / "pipelines.yaml"
    small = yaml.safe_load(file.read_text())["pipelines"]["smoke"]
    small["register"]["model_name"] = "vit-mini"
    file.write_text(yaml.safe_dump({"pipelines": {"mini": small}}, sort_keys=False))
    (checkout / ".gitignore").write_text(
        (checkout / ".gitignore").read_text() + "photos/\n*.png\n*.jpg\nagain/\nout/\n"
    )
    commit(checkout)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """With three versions, the last of which is champion and the first before it, and a few photographs."""
    place = Place(tmp_path_factory.mktemp("operations"))
    documented_pipeline(place.checkout)
    for seed in (None, 1, 2):
        changes = [] if seed is None else ["--set", f"finetune.train.seed={seed}"]
        done = vitflow(place.checkout, "run", "mini", *changes)
        assert done.returncode == 0, done.stdout + done.stderr
        if seed is None:
            commit(place.checkout)
    (place.checkout / "photos").mkdir()
    for number, name in enumerate(("cat.png", "dog.jpg", "photos/0.png", "photos/1.png", "photos/2.png")):
        Image.new("RGB", (40, 30), (50 * number, 100, 200)).save(place.checkout / name)
    return place


@pytest.fixture(scope="module")
def bucket(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """In a real S3 server."""
    with swift.running(tmp_path_factory.mktemp("swift")) as server:
        place.env |= stores.environment(server.url, server.access_key, server.secret_key)
        name = server.make_bucket("operations")
        place.stands_for |= {"s3://bucket": f"s3://{name}"}
        yield name


def aliases(place: Place) -> dict[str, list[str]]:
    """Of each version."""
    return {one["version"]: one["aliases"] for one in json.loads(vitflow(place.checkout, "models", "--json").stdout)}


@pytest.mark.slow
@pytest.mark.long
def test_the_registry(place: Place) -> None:
    assert vitflow(place.checkout, "models", "promote", "vit-mini/1", "--why", "the first").returncode == 0
    assert all(f"{number}" in place.ask("vitflow models") for number in (1, 2, 3))
    place.ask('vitflow models promote vit-mini/3 --why "half the size"')
    assert aliases(place)["3"] == ["champion"] and "previous" in aliases(place)["1"]
    shown = place.ask("vitflow models show vit-mini")
    assert (
        "half the size" in shown
        and run(place.checkout, "git", "rev-parse", "--short=7", "HEAD").stdout.strip() in shown
    )
    assert "finetune.train.seed" in place.ask("vitflow models diff vit-mini@previous vit-mini")
    place.ask('vitflow models rollback vit-mini --why "wrong labels"')
    assert "champion" in aliases(place)["1"] and aliases(place)["3"] == ["previous"]
    place.ask("vitflow models export vit-mini out/ --to onnx")
    assert {path.suffix for path in (place.checkout / "out").iterdir()} >= {".onnx", ".md", ".json"}
    assert "bit" in place.ask("vitflow models reproduce vit-mini --into again/")


@pytest.mark.slow
@pytest.mark.long
def test_answers(place: Place, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "dog.jpg" in place.ask("vitflow predict cat.png dog.jpg --top 3")
    place.ask("vitflow predict photos --out answers/ --model models:/vit-mini/3 --top 5")
    here = pq.read_table(place.checkout / "answers/predictions.parquet")
    assert here.num_rows == 3 and "label_5" in here.column_names
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    storage.put(place.checkout / "photos", f"s3://{bucket}/photos")
    place.ask("vitflow predict s3://bucket/photos --out s3://bucket/answers.parquet")
    table = storage.open(f"s3://{bucket}").read("answers.parquet")
    assert pq.read_table(io.BytesIO(table)).num_rows == 3
    address = f"http://127.0.0.1:{free_port()}"
    command = words("mlflow models serve -m models:/vit-mini@champion --env-manager local")
    asked = {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": address.rpartition(":")[2]}
    with servers.running(command, f"{address}/ping", place.checkout, place.root / "serve.log", **asked):
        pass


@pytest.mark.slow
@pytest.mark.long
def test_experiments_and_other_machines(place: Place, bucket: str) -> None:
    place.ask("dvc exp run -S pipelines.yaml:pipelines.mini.finetune.train.learning_rate=0.02 evaluate@mini")
    assert "0.02" in place.ask("dvc exp show --only-changed")
    run(place.checkout, "git", "checkout", "-q", "--", ".")
    place.ask("dvc remote add --default store s3://bucket/dvc")
    place.ask("dvc remote modify store verify true")
    done = run(place.checkout, "dvc", "remote", "modify", "store", "endpointurl", place.env["AWS_ENDPOINT_URL"])
    assert done.returncode == 0, done.stderr
    place.ask("dvc push register@mini")
    commit(place.checkout)
    elsewhere = place.root / "elsewhere"
    elsewhere.mkdir()
    place.ask("dvc get REPOSITORY runs/mini/finetune/model.safetensors", cwd=elsewhere)
    assert (elsewhere / "model.safetensors").stat().st_size > 10_000
    place.stands_for["NAME"] = "mini"
    assert "prepare" in place.ask("dvc repro -f prepare@NAME")


@pytest.mark.slow
@pytest.mark.long
def test_servers_and_deployments(place: Place) -> None:
    with served(place.checkout, *words("vitflow up")[2:]) as stack:
        place.env["PREFECT_API_URL"] = f"{stack.prefect}/api"
        place.ask("vitflow deploy --check")
        place.ask("vitflow deploy")
        place.stands_for["ID"] = started(place)
        wait_for(stack, place.stands_for["ID"], "Running")
        place.ask("prefect flow-run cancel ID")
        wait_for(stack, place.stands_for["ID"], "Cancelled")
        place.ask("vitflow backup DIR")
        place.ask("vitflow deploy mini --pool local")
        with worker(place, "prefect worker start --pool local"):
            wait_for(stack, started(place), "Completed")
    del place.env["PREFECT_API_URL"]
    shutil.rmtree(place.checkout / ".vitflow/prefect", ignore_errors=True)
    fresh = make_checkout(place.root / "fresh")
    place.ask("vitflow restore DIR", cwd=fresh)
    assert count(fresh) == 3
    done = vitflow(fresh, "models", "promote", "vit-mini/2", "--why", "to be lost again")
    assert done.returncode == 0, done.stderr
    place.ask("vitflow restore DIR --replace", cwd=fresh)
    assert list(fresh.glob(".vitflow/before-restore-*"))
    with served(fresh, *words("vitflow up --database sqlite")[2:]) as again:
        assert "SQLite" in (fresh / ".vitflow/up.txt").read_text() and again.run_count() >= 1


def started(place: Place) -> str:
    """A flow run of the deployment; its id."""
    done = run(place.checkout, "prefect", "deployment", "run", "vit-pipeline/mini", **place.env)
    found = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", done.stdout)
    assert found, done.stdout + done.stderr
    return found[0]


def wait_for(stack: Served, flow_run: str, state: str) -> None:
    deadline = time.monotonic() + 300
    while (now := stack.run_state(flow_run)) != state:
        assert time.monotonic() < deadline and now not in {"Failed", "Crashed"}, now + stack.log("runner")[-3000:]
        time.sleep(0.5)


@contextlib.contextmanager
def worker(place: Place, command: str) -> Iterator[None]:
    """In the background until the end of the block."""
    variables = environment(place.checkout, **place.env)
    process = subprocess.Popen(words(command), cwd=place.checkout, env=variables)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def count(checkout: Path) -> int:
    """Registered versions in a checkout's own registry."""
    with sqlite3.connect(f"file:{checkout / 'mlflow.db'}?mode=ro", uri=True) as database:
        return int(database.execute("select count(*) from model_versions").fetchone()[0])
