"""All bytes in S3, all servers on PostgreSQL: corpus, artifacts, DVC's remote and checkpoints go over HTTP to Swift.

One story, so the order counts: a model is made, nothing is new, images are new, S3 is lost, another machine goes on.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psutil
import pytest
import yaml

from tests.checkout import hashes, make_checkout, run, vitflow
from tests.faults import stack as stacks
from tests.faults.bed import commit, configure
from tests.flows.test_retraining import GIT, STAGES, draw
from tests.s3 import stores
from tests.s3.swift import Server

pytestmark = [pytest.mark.slow, pytest.mark.long]
OUTAGE = 60.0  # seconds
TWO = "deploy.env.VITFLOW_WORKERS='2'"


@dataclass(frozen=True)
class Chain:
    """A checkout whose bytes are in a bucket, and the servers."""

    checkout: Path
    stack: stacks.Stack
    swift: Server
    bucket: str
    environment: dict[str, str]  # S3 and the servers, for commands

    def flow(self, *overrides: str) -> tuple[float, bool, list[str]]:
        """A run through the deployment, to its end: its seconds, whether it started Ray, and what it logged."""
        with self.stack.flow(*overrides) as flow_run:
            return self.ended(flow_run)

    def ended(self, flow_run: str) -> tuple[float, bool, list[str]]:
        seen = set[str]()

        def is_over() -> bool:
            for one in self.stack.runner.family():
                with contextlib.suppress(psutil.Error):
                    seen.add(one.name())
            return self.stack.state(flow_run)["type"] in stacks.FINAL

        stacks.wait(is_over, self.stack.runner.log.read_text, 1800)
        assert self.stack.state(flow_run)["type"] == "COMPLETED", self.stack.runner.log.read_text()[-6000:]
        found = self.stack.ask(f"flow_runs/{flow_run}")
        begun, ended = (datetime.fromisoformat(found[name]) for name in ("start_time", "end_time"))
        return (ended - begun).total_seconds(), "raylet" in seen, self.logged(flow_run)

    def logged(self, flow_run: str) -> list[str]:
        """As Prefect's page shows it."""
        asked: dict[str, Any] = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC"}
        found: list[str] = []
        while page := self.stack.ask("logs/filter", {**asked, "offset": len(found)}):
            found += [one["message"] for one in page]
        return found

    def vitflow(self, *words: str, checkout: Path | None = None) -> CompletedProcess[str]:
        done = vitflow(checkout or self.checkout, *words, **self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def keys(self, prefix: str) -> list[str]:
        pages = self.swift.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def upload(self, photos: Path) -> None:
        client = self.swift.client()
        for file in photos.rglob("*.png"):
            client.upload_file(str(file), self.bucket, f"photos/{file.relative_to(photos)}")

    def is_pushed(self) -> None:
        """DVC's remote has all that dvc.lock names."""
        done = run(self.checkout, "dvc", "status", "--cloud", "--json", *map("{}@smoke".format, STAGES), **self.s3)
        assert done.returncode == 0 and json.loads(done.stdout) == {}, done.stdout + done.stderr

    @property
    def s3(self) -> dict[str, str]:
        return stores.environment(self.swift.url, self.swift.access_key, self.swift.secret_key)


@pytest.fixture(scope="module")
def chain(open_place: Path, swift: Server) -> Iterator[Chain]:
    bucket, checkout = swift.make_bucket("chain"), make_checkout(open_place / "checkout")
    file = checkout / "pipelines.yaml"
    known = yaml.safe_load(file.read_text())
    known["pipelines"]["smoke"]["prepare"] |= {"source": "folder", "location": f"s3://{bucket}/photos"}
    file.write_text(yaml.safe_dump(known, sort_keys=False))
    assert run(checkout, "dvc", "remote", "add", "--default", "store", f"s3://{bucket}/dvc").returncode == 0
    commit(checkout)
    s3 = stores.environment(swift.url, swift.access_key, swift.secret_key)
    s3 |= {"VITFLOW_CHECKPOINTS": f"s3://{bucket}/checkpoints", "VITFLOW_CACHE": str(open_place / "cache")}
    with stacks.running(checkout, open_place / "stack", artifacts=f"s3://{bucket}/mlflow", **s3) as stack:
        made = Chain(
            checkout, stack, swift, bucket, {**s3, "MLFLOW_TRACKING_URI": stack.environment["MLFLOW_TRACKING_URI"]}
        )
        draw(open_place / "photos", 0, 100)
        made.upload(open_place / "photos")
        yield made


def test_from_images_in_s3_to_a_model_in_s3(chain: Chain) -> None:
    assert chain.flow(TWO)[1], "the training is on Ray"
    chain.is_pushed()
    assert any(key.endswith("MLmodel") for key in chain.keys("mlflow/")) and chain.keys("dvc/")
    assert chain.keys("checkpoints/") == [], "of trainings that are done"
    image = next((chain.checkout.parent / "photos").rglob("*.png"))
    answers = json.loads(chain.vitflow("predict", str(image), "--model", "models:/vit-smoke@champion", "--json").stdout)
    assert answers[0]["label"] in ("dark", "light")


def test_nothing_new_below_the_prefix_costs_seconds(chain: Chain) -> None:
    seconds, used_ray, log = chain.flow(TWO)
    assert sum("up to date" in line for line in log) == len(STAGES), log
    assert any("has 200 files" in line and "as when it was read" in line for line in log), log
    print(f"nothing new: {seconds:.1f} s")
    assert not used_ray and seconds < 60  # 20 on a machine that nobody else uses


def test_new_images_below_the_prefix_run_what_depends_on_them(chain: Chain) -> None:
    draw(chain.checkout.parent / "photos", 100, 105)
    chain.upload(chain.checkout.parent / "photos")
    log = "\n".join(chain.flow(TWO)[2])
    assert all(f"{stage}: running, because" in log for stage in STAGES) and "has 210 files" in log, log
    versions = json.loads(chain.vitflow("models", "--json").stdout)
    assert [one["version"] for one in versions] == ["2", "1"]
    data = json.loads(chain.vitflow("models", "diff", "vit-smoke/1", "vit-smoke/2", "--json").stdout)["data"]
    assert data["dedup/images_in"] == [200.0, 210.0] and {"dvc.prepare", "dvc.deduplicate"} <= set(data)
    chain.is_pushed()


def test_s3_is_lost_for_a_minute(chain: Chain) -> None:
    """Killed once the training keeps checkpoints there. Stages that end meanwhile push to it, and so does MLflow."""
    configure(chain.checkout, pretrain={"steps": 400, "save_every": 20, "log_every": 10})
    with chain.stack.flow(TWO) as flow_run:
        stacks.wait(lambda: chain.keys("checkpoints/pretrain"), chain.stack.runner.log.read_text)
        with chain.swift.away():
            time.sleep(OUTAGE)
        chain.ended(flow_run)
    chain.is_pushed()
    assert chain.keys("checkpoints/") == []
    assert len(json.loads(chain.vitflow("models", "--json").stdout)) == 3
    found = chain.stack.tracked("runs/search", {"experiment_ids": experiments(chain), "max_results": 1000})["runs"]
    assert {one["info"]["status"] for one in found} == {"FINISHED"}
    assert not list((chain.checkout / ".vitflow").glob("untold/*")), "MLflow knows all"


def experiments(chain: Chain) -> list[str]:
    found = chain.stack.tracked("experiments/search", {"max_results": 100})["experiments"]
    return [one["experiment_id"] for one in found]


def test_another_machine_pulls_what_it_needs_and_pushes_what_it_makes(chain: Chain) -> None:
    assert run(chain.checkout, *GIT, "commit", "-qam", "what was made").returncode == 0
    other = chain.checkout.parent / "other"
    assert run(chain.checkout, "git", "clone", "-q", str(chain.checkout), str(other)).returncode == 0
    pulled = chain.vitflow("run", "smoke", checkout=other)
    assert pulled.stdout.count("up to date") == len(STAGES), pulled.stdout
    assert hashes(other / "runs/smoke/finetune") == hashes(chain.checkout / "runs/smoke/finetune")

    configure(other, finetune={"seed": 7})
    made = chain.vitflow("run", "smoke", checkout=other)
    assert made.stdout.count("up to date") == STAGES.index("finetune"), made.stdout
    commit(other)
    shutil.rmtree(chain.checkout / "runs/smoke/finetune")
    assert run(chain.checkout, "git", "pull", "-q", str(other), "HEAD").returncode == 0
    back = chain.vitflow("run", "smoke")
    assert back.stdout.count("up to date") == len(STAGES), back.stdout
    assert hashes(other / "runs/smoke/finetune") == hashes(chain.checkout / "runs/smoke/finetune")
