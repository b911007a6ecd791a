"""Sweeps of the stage finetune: chosen on a dev part of train, retrained on all of it, no point trained twice."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.stages import finetune_sweep, output
from flows.stages.config import load
from flows.stages.finetune import FinetuneConfig, finetune
from tests.networks import tiny_vit
from vit.data.datasets.dev_split import last_percent
from vit.data.shards import Shards, png_example, write
from vit.models import load as load_model
from vit.models.build import build
from vit.models.weights import native
from vit.training.sweep import SweepConfig

SIZE = {"train": 60, "val": 20}
RATES, SEEDS = (0.0, 0.02), (0, 5)  # nothing is learned with a rate of 0
KEYS = [f"key-{n}" for n in range(SIZE["train"])]
HELD_OUT = {KEYS[row] for row in last_percent(KEYS, 20)}


@dataclasses.dataclass(frozen=True)
class Nothing:
    """The config of a stage that has none."""


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", "0")


def inputs(directory: Path, wrong: str = "") -> dict[str, Path]:
    """Is an image dark or bright? Labels are the other way round in `val`, or in the dev part, if that is `wrong`."""
    random = np.random.default_rng(0)

    def is_wrong(split: str, n: int) -> bool:
        return wrong == split or (wrong == "dev" and split == "train" and KEYS[n] in HELD_OUT)

    with output.writing(directory / "prepare", "prepare", Nothing(), {}) as work:
        examples = [
            png_example(
                f"{'key' if split == 'train' else 'val'}-{n}",
                split,
                (n + is_wrong(split, n)) % 2,
                random.integers(0, 100, (8, 8, 3), np.uint8) + np.uint8(150 * (n % 2)),
            )
            for split, size in SIZE.items()
            for n in range(size)
        ]
        write(work / "corpus", examples, name="corpus", class_names=["dark", "bright"])
    with output.writing(directory / "kept", "deduplicate", Nothing(), {}) as work:
        pq.write_table(Shards(directory / "prepare/corpus").table, work / "index.parquet")
    with output.writing(directory / "backbone", "pretrain", Nothing(), {}) as work:
        native.save(work / output.MODEL, build(tiny_vit(resolution=8, patch_size=4), 2))
    return {"images": directory / "prepare", "kept": directory / "kept", "backbone": directory / "backbone"}


def config(**changes: Any) -> FinetuneConfig:
    mini = load("mini").finetune
    train = dataclasses.replace(
        load("mini").evaluate.train, steps=40, warmup_steps=4, batch_size=8, save_every=20, log_every=10
    )
    sweep = SweepConfig(learning_rates=RATES, steps=(), seeds=SEEDS, rungs=())
    usual = {"resolution": 8, "train": train, "sweep": sweep, "dev_percent": 20}
    return dataclasses.replace(mini, **{**usual, **changes})


def done(directory: Path, wrong: str = "") -> tuple[Path, dict[str, dict[str, Any]]]:
    out = finetune(config(), **inputs(directory, wrong), out=directory / "out")
    return out, {row["name"]: row for row in json.loads((out / output.RUNS).read_text())}


def test_the_choice_is_retrained_on_all_of_train_with_every_seed(tmp_path: Path) -> None:
    out, rows = done(tmp_path)
    assert list(rows) == ["dev/lr-0-steps-40-part-1", "dev/lr-0.02-steps-40-part-1", "seed-0", "seed-5"]
    assert rows["seed-5"]["params"] == {"learning_rate": 0.02, "steps": 40, "seed": 5}
    metrics = json.loads((out / "metrics.json").read_text())
    tops = [rows[f"seed-{seed}"]["metrics"]["val/top1"] for seed in SEEDS]
    assert metrics["val/top1"] == tops[0] > 0.9 and metrics["num_train"] == SIZE["train"]
    assert metrics["val/top1_mean"] == pytest.approx(np.mean(tops))
    assert metrics["val/top1_std"] == pytest.approx(np.std(tops))
    assert load_model(out / output.MODEL).num_classes == 2 and not (tmp_path / ".scratch").exists()


def test_poisoned_val_labels_change_no_choice(tmp_path: Path) -> None:
    _, usual = done(tmp_path / "usual")
    _, poisoned = done(tmp_path / "poisoned", "val")
    assert [poisoned[name] for name in poisoned if name.startswith("dev")] == [
        usual[name] for name in usual if name.startswith("dev")
    ]
    assert poisoned["seed-0"]["params"] == usual["seed-0"]["params"]
    assert poisoned["seed-0"]["metrics"]["val/top1"] == pytest.approx(1 - usual["seed-0"]["metrics"]["val/top1"])


def test_poisoned_dev_labels_do(tmp_path: Path) -> None:
    _, rows = done(tmp_path, "dev")
    assert rows["seed-0"]["params"]["learning_rate"] == 0.0


def test_a_restart_trains_no_finished_point_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    real, left = finetune_sweep.score_point, 1

    def dies(item: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        ran.append(item[1].name)
        return real(item)

    monkeypatch.setattr(finetune_sweep, "score_point", dies)
    given = inputs(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        finetune(config(), **given, out=tmp_path / "out")
    left = 99
    finetune(config(), **given, out=tmp_path / "out")
    assert ran == ["dev-lr-0-steps-40", "dev-lr-0.02-steps-40"]


def test_a_dev_part_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dev_percent 100"):
        config(dev_percent=100)
    tiny = dataclasses.replace(config(), dev_percent=0.1)
    with pytest.raises(ValueError, match=r"dev_percent 0\.1 of 60 training images leaves none"):
        finetune(tiny, **inputs(tmp_path), out=tmp_path / "out")
