"""Sweeps of the stage evaluate: the choice is made on val200 alone, the chosen is retrained on all with every seed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.stages import output, transfers
from flows.stages.config import load
from flows.stages.evaluate import EvaluateConfig, evaluate
from flows.stages.transfers import Piece
from tests.networks import tiny_vit
from vit.data import shards
from vit.data.shards import png_example
from vit.models.build import build
from vit.models.weights import native
from vit.training.sweep import SweepConfig

SIZES = {"train800": 24, "val200": 12, "test": 16}
SWEEP = SweepConfig(learning_rates=(0.0, 0.02), steps=(), seeds=(0, 5), rungs=())  # nothing is learned with a rate of 0


@dataclasses.dataclass(frozen=True)
class Nothing:
    """The config of a stage that has none."""


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", "0")


def inputs(directory: Path, wrong: str = "") -> dict[str, Path]:
    """A task: is an image dark or bright? In the split `wrong` the labels are the other way round."""
    random = np.random.default_rng(0)
    with output.writing(directory / "images", "prepare", Nothing(), {}) as work:
        examples = [
            png_example(
                f"{split}-{n}",
                split,
                n % 2 if split != wrong else 1 - n % 2,
                random.integers(0, 100, (8, 8, 3), np.uint8) + np.uint8(150 * (n % 2)),
            )
            for split, size in SIZES.items()
            for n in range(size)
        ]
        shards.write(work / "tasks/light", examples, name="light", class_names=["dark", "bright"])
        task = {"name": "light", "group": "natural", "family": "mini", "num_classes": 2}
        output.write_json(work / "tasks/tasks.json", {"family": "mini", "tasks": [task]})
        corpus = [png_example("val-0", "val", 0, np.zeros((8, 8, 3), np.uint8))]
        shards.write(work / "corpus", corpus, name="corpus", class_names=["no"])
    with output.writing(directory / "dedup", "deduplicate", Nothing(), {}) as work:
        pq.write_table(pa.table({"benchmark": pa.array([], pa.string()), "test": []}), work / "pairs.parquet")
    with output.writing(directory / "model", "finetune", Nothing(), {}) as work:
        native.save(work / output.MODEL, build(tiny_vit(resolution=8, patch_size=4), 2))
    return {name: directory / name for name in ("images", "dedup", "model")} | {"backbone": directory / "model"}


def config(sweep: SweepConfig = SWEEP) -> EvaluateConfig:
    mini = load("mini").evaluate
    train = dataclasses.replace(mini.train, steps=40, warmup_steps=4, batch_size=8)
    return dataclasses.replace(mini, resolution=8, train=train, sweep=sweep)


def scored(directory: Path, wrong: str = "") -> dict[str, Any]:
    out = evaluate(config(), **inputs(directory, wrong), out=directory / "out")
    return json.loads((out / "scores.json").read_text())["tasks"]["light"]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITFLOW_WORKERS", "0")
        return scored(tmp_path_factory.mktemp("usual"))


def test_what_learns_is_chosen_and_retrained_with_every_seed(usual: dict[str, Any]) -> None:
    chosen = usual["chosen"]["pretrained"]
    assert chosen["learning_rate"] == 0.02 and chosen["dev"][0]["top1"] == 0.5
    assert chosen["seeds"].keys() == {"0", "5"}
    tops = list(chosen["seeds"].values())
    assert usual["top1"] == pytest.approx(np.mean(tops)) and usual["top1_std"] == pytest.approx(np.std(tops))
    assert usual["top1"] > 0.9


def test_poisoned_test_labels_change_no_choice(usual: dict[str, Any], tmp_path: Path) -> None:
    poisoned = scored(tmp_path, "test")
    for network in ("pretrained", "random_init"):
        same = ("learning_rate", "steps", "dev")
        assert {key: poisoned["chosen"][network][key] for key in same} == {
            key: usual["chosen"][network][key] for key in same
        }
    assert poisoned["top1"] == pytest.approx(1 - usual["top1"]), "it is those labels that are scored"


def test_poisoned_dev_labels_do(tmp_path: Path) -> None:
    assert scored(tmp_path, "val200")["chosen"]["pretrained"]["learning_rate"] == 0.0


def test_without_a_sweep_nothing_but_the_transfers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Piece] = []
    real = transfers.score
    monkeypatch.setattr(
        transfers, "score", lambda subject, piece, memory: (ran.append(piece), real(subject, piece, memory))[1]
    )
    plain = config(SweepConfig(learning_rates=(), steps=(), seeds=(), rungs=()))
    out = evaluate(plain, **inputs(tmp_path), out=tmp_path / "out")
    assert [piece.name for piece in ran] == ["frozen/light", "vtab/light", "vtab_random_init/light"]
    assert not (out / output.RUNS).exists()


def test_every_run_is_listed_and_a_restart_repeats_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = transfers.score, 5

    def dies(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        ran.append(arguments[1].name)
        return real(*arguments)

    ran: list[str] = []
    monkeypatch.setattr(transfers, "score", dies)
    given = inputs(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), **given, out=tmp_path / "out")
    left = 99
    out = evaluate(config(), **given, out=tmp_path / "out")
    dev = [f"{kind}/light/dev-lr-{rate}-steps-40" for kind in ("vtab", "vtab_random_init") for rate in ("0", "0.02")]
    full = [f"{kind}/light/seed-{seed}" for kind in ("vtab", "vtab_random_init") for seed in (0, 5)]
    assert sorted(ran) == sorted([*dev, *full, "frozen/light"]), "each once"
    rows = json.loads((out / output.RUNS).read_text())
    assert [row["name"] for row in rows] == full
    assert rows[0]["params"] == {"learning_rate": 0.02, "seed": 0, "steps": 40} and rows[0]["metrics"]["top1"] > 0.9
