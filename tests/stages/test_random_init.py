"""The control of fine-tuning: the same network from random weights, on the FLOPs of pre-training and fine-tuning."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from flows.adapters import ray_training
from flows.stages import output, random_init
from flows.stages.config import load
from flows.stages.finetune import FinetuneConfig, finetune
from flows.stages.pretrain import PretrainConfig, pretrain
from flows.stages.progress import Progress, listening
from flows.stages.random_init import RandomInitConfig
from tests.networks import tiny_vit
from vit.data.shards import Shards, png_example, write
from vit.models.build import build
from vit.models.counting import forward_macs
from vit.models.weights import native

SIZE = {"train": 60, "val": 20}
LOW, HIGH = 8, 16  # pixels
NETWORK = tiny_vit(resolution=LOW, patch_size=4)


@dataclasses.dataclass(frozen=True)
class Nothing:
    """The config of a stage that has none."""


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", "0")


def short(steps: int, learning_rate: float) -> dict[str, Any]:
    changes: dict[str, Any] = {"steps": steps, "warmup_steps": steps // 5, "learning_rate": learning_rate}
    train = dataclasses.replace(load("mini").pretrain.train, **changes, batch_size=8, save_every=10, log_every=5)
    return {"train": train}


def pretraining() -> PretrainConfig:
    return dataclasses.replace(load("mini").pretrain, model=NETWORK, **short(40, 0.002))


def tuning(rates: tuple[float, ...] | None = (0.01,), **changes: Any) -> FinetuneConfig:
    control = None if rates is None else RandomInitConfig(learning_rates=rates)
    own = {"resolution": HIGH, "random_init": control, "dev_percent": 20} | short(15, 0.005) | changes
    return dataclasses.replace(load("mini").finetune, **own)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Dark and bright images, and a network pre-trained on them."""
    directory, random = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    with output.writing(directory / "prepare", "prepare", Nothing(), {}) as work:
        examples = [
            png_example(
                f"{split}-{n}", split, n % 2, random.integers(0, 100, (8, 8, 3), np.uint8) + np.uint8(99 * (n % 2))
            )
            for split, size in SIZE.items()
            for n in range(size)
        ]
        write(work / "corpus", examples, name="corpus", class_names=["dark", "bright"])
    with output.writing(directory / "kept", "deduplicate", Nothing(), {}) as work:
        pq.write_table(Shards(directory / "prepare/corpus").table, work / "index.parquet")
    given = {"images": directory / "prepare", "kept": directory / "kept"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITFLOW_WORKERS", "0")
        return given | {"backbone": pretrain(pretraining(), **given, out=directory / "pretrain")}


def metrics(out: Path) -> dict[str, Any]:
    return json.loads((out / "metrics.json").read_text())


def per_image(resolution: int) -> int:
    """FLOPs: forward and twice as much backward, two for each multiply-add."""
    return 6 * sum(forward_macs(dataclasses.replace(NETWORK, resolution=resolution), 2).values())


def test_its_steps_are_the_flops_of_both_trainings(inputs: dict[str, Path], tmp_path: Path) -> None:
    found = metrics(finetune(tuning(), **inputs, out=tmp_path / "out"))
    before = metrics(inputs["backbone"])
    assert (before["train/steps"], before["train/flops"]) == (40, 40 * 8 * per_image(LOW))
    assert (found["train/steps"], found["train/flops"]) == (15, 15 * 8 * per_image(HIGH))
    budget = 40 * 8 * per_image(LOW) + 15 * 8 * per_image(HIGH)
    steps = math.ceil(budget / (8 * per_image(HIGH)))
    assert 15 < found["train/steps_random_init"] == steps < 40 + 15
    assert budget <= found["train/flops_random_init"] == steps * 8 * per_image(HIGH) < budget + 8 * per_image(HIGH)
    assert found["learning_rate_random_init"] == 0.01 and found["num_train_random_init"] == SIZE["train"]
    assert 0 <= found["val/top1_random_init"] <= 1
    (row,) = json.loads((tmp_path / "out" / output.RUNS).read_text())
    assert row["name"] == "random_init/seed-0" and row["params"]["steps"] == steps
    assert not (tmp_path / ".scratch").exists()


def test_pre_trained_weights_are_never_seen(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Other weights under the same description change fine-tuning and leave the control as it is."""
    torch.manual_seed(5)
    with output.writing(tmp_path / "other", "pretrain", pretraining(), {}) as work:
        native.save(work / output.MODEL, build(NETWORK, 2))
        output.write_json(work / "metrics.json", metrics(inputs["backbone"]))
    one, two = (
        metrics(finetune(tuning(), **(inputs | {"backbone": backbone}), out=tmp_path / name / "out"))
        for name, backbone in (("one", inputs["backbone"]), ("two", tmp_path / "other"))
    )
    assert one["train/loss"] != two["train/loss"]
    control = {name: value for name, value in one.items() if name.endswith("_random_init")}
    assert control and control == {name: two[name] for name in control}


def test_fine_tuning_is_the_same_with_and_without_it(inputs: dict[str, Path], tmp_path: Path) -> None:
    plain = finetune(tuning(None), **inputs, out=tmp_path / "plain")
    both = finetune(tuning(), **inputs, out=tmp_path / "both")
    assert output.sha256(plain / output.MODEL) == output.sha256(both / output.MODEL)
    assert metrics(plain).items() <= metrics(both).items() and not (plain / output.RUNS).exists()


def test_of_several_rates_the_best_on_the_dev_part_is_taken(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = finetune(tuning((0.0, 0.01)), **inputs, out=tmp_path / "out")
    names = [row["name"].partition("-steps")[0] for row in json.loads((out / output.RUNS).read_text())]
    assert names == ["random_init/dev/lr-0", "random_init/dev/lr-0.01", "random_init/seed-0"]
    assert metrics(out)["learning_rate_random_init"] == 0.01


def test_killed_half_way_it_goes_on(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its own checkpoint; and fine-tuning, which was done, does no update again."""
    whole = finetune(tuning(), **inputs, out=tmp_path / "whole" / "out")
    real, told = ray_training.run, list[dict[str, float]]()

    def dies(worker: Any, job: Any, **given: Any) -> None:
        def report(step: int, found: dict[str, float]) -> None:
            if job.scratch.name == "seed-0" and step >= 15:
                raise KeyboardInterrupt
            given["report"](step, found)

        real(worker, job, **(given | {"report": report}))

    monkeypatch.setattr(ray_training, "run", dies)
    with pytest.raises(KeyboardInterrupt):
        finetune(tuning(), **inputs, out=tmp_path / "killed" / "out")
    monkeypatch.setattr(ray_training, "run", real)
    with listening(lambda event: told.append(dict(event.metrics))):
        again = finetune(tuning(), **inputs, out=tmp_path / "killed" / "out")
    assert [one["train/resumed_from_step"] for one in told if "train/resumed_from_step" in one] == [15.0]
    assert [one[name] for one in told if (name := "train/resumed_from_step_random_init") in one] == [10.0]
    assert metrics(again) == metrics(whole)


def test_its_numbers_are_told_under_its_name(inputs: dict[str, Path], tmp_path: Path) -> None:
    told: list[Progress] = []
    with listening(told.append):
        finetune(tuning(), **inputs, out=tmp_path / "out")
    top1 = {name: event.metrics[name] for event in told for name in event.metrics if name.startswith("val/top1")}
    found = metrics(tmp_path / "out")
    assert top1 == {name: found[name] for name in ("val/top1", "val/top1_random_init")}
    assert {event.stage for event in told} == {"finetune"}


def test_the_schedule_keeps_its_shares() -> None:
    train = dataclasses.replace(load("mini").pretrain.train, steps=100, warmup_steps=10, cooldown_steps=20)
    longer = random_init.lasting(train, 250)
    assert (longer.steps, longer.warmup_steps, longer.cooldown_steps) == (250, 25, 50)
    assert random_init.lasting(train, 1).warmup_steps == 0


def test_what_cannot_be_compared_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="learning_rates is empty"):
        RandomInitConfig(learning_rates=())
    with output.writing(tmp_path / "old", "pretrain", pretraining(), {}) as work:
        native.save(work / output.MODEL, build(NETWORK, 2))
        output.write_json(work / "metrics.json", {"val/top1": 0.5})
    with pytest.raises(ValueError, match="so what pre-training took is not known"):
        finetune(tuning(), **(inputs | {"backbone": tmp_path / "old"}), out=tmp_path / "out")
