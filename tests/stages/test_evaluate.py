"""The stage from directory to directory: each task is scored with and without what the corpus shows of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from flows.stages import output, transfers
from flows.stages.config import load
from flows.stages.evaluate import evaluate, leaked_keys
from tests.networks import tiny_vit
from vit.data import shards
from vit.data.shards import png_example
from vit.evaluation import vtab
from vit.models.build import build
from vit.models.weights import native

LEAKED = {"cup": [0, 9], "photo": [], "all": list(range(10))}


@dataclasses.dataclass(frozen=True)
class Nothing:
    """The config of a stage that has none."""


class UpTo(nn.Module):
    """Answers class 1, which is right, for images whose gray, their number, is below `right`; a feature is the gray."""

    def __init__(self, right: int) -> None:
        super().__init__()
        self.right = right

    def features(self, images: Tensor) -> Tensor:
        return images[:, :2, 0, 0]

    def forward(self, images: Tensor) -> Tensor:
        numbers = ((images[:, 0, 0, 0] + 1) * 127.5).round().long()
        return torch.stack([torch.zeros(len(images)), (numbers < self.right).float() - 0.5], dim=1)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """What earlier stages leave; networks are put in place of trained ones, and are right on 7 of 10 images, or 2."""
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    monkeypatch.setattr(transfers, "under_new_head", lambda *_, **__: UpTo(7))
    monkeypatch.setattr(transfers, "untrained", lambda *_: UpTo(2))
    monkeypatch.setattr(vtab, "train", lambda *_, **__: None)
    with output.writing(tmp_path / "images", "prepare", Nothing(), {}) as work:
        for task in LEAKED:
            pixels = [np.full((6, 6, 3), n, np.uint8) for n in range(10)]
            examples = [png_example(f"test-{n}", "test", 1, own) for n, own in enumerate(pixels)]
            examples.append(png_example("train-0", "train800", 1, pixels[0]))
            shards.write(work / "tasks" / task, examples, name=task, class_names=["no", "yes"])
        tasks = [{"name": task, "group": "natural", "family": "mini", "num_classes": 2} for task in LEAKED]
        output.write_json(work / "tasks" / "tasks.json", {"family": "mini", "tasks": tasks})
        corpus = [png_example(f"val-{n}", "val", n % 2, np.full((32, 32, 3), 9 * n, np.uint8)) for n in range(5)]
        shards.write(work / "corpus", corpus, name="corpus", class_names=["no", "yes"])
    with output.writing(tmp_path / "dedup", "deduplicate", Nothing(), {}) as work:
        found = [{"benchmark": task, "test": f"test-{n}"} for task, own in LEAKED.items() for n in own]
        pairs = [one | {"train": f"corpus-{n}"} for one in found for n in range(2)]  # an image may leak twice
        pq.write_table(pa.Table.from_pylist(pairs), work / "pairs.parquet")
    with output.writing(tmp_path / "model", "finetune", Nothing(), {}) as work:
        native.save(work / output.MODEL, build(tiny_vit(resolution=32, patch_size=8), 2))
    return {name: tmp_path / name for name in ("images", "dedup", "model")} | {"backbone": tmp_path / "model"}


def test_scores_carry_the_clean_numbers_of_each_task(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = dataclasses.replace(load("mini").evaluate, resolution=6)
    out = evaluate(config, **inputs, out=tmp_path / "out")
    tasks: dict[str, dict[str, Any]] = json.loads((out / "scores.json").read_text())["tasks"]
    assert {name: (task["top1"], task["num_test"]) for name, task in tasks.items()} == dict.fromkeys(LEAKED, (0.7, 10))
    assert {task["top1_random_init"] for task in tasks.values()} == {0.2}
    clean = {name: (task["top1_clean"], task["num_clean"]) for name, task in tasks.items()}
    assert clean == {"cup": (6 / 8, 8), "photo": (0.7, 10), "all": (None, 0)}
    assert (out / "scores.png").stat().st_size > 0


def test_frozen_features_are_scored_beside_the_transfers(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The only training image is of class 1, and so is every test image."""
    config = dataclasses.replace(load("mini").evaluate, resolution=6)
    found = json.loads((evaluate(config, **inputs, out=tmp_path / "out") / "scores.json").read_text())
    assert found["tasks"]["cup"]["frozen"] == {
        "few_shot": {str(shots): {"top1": 1.0, "std": 0.0} for shots in (1, 5, 10, 25)},
        "linear": 1.0,
        "nearest": 1.0,
    }
    assert found["frozen_mean_of_tasks"]["few_shot_10"] == 1.0


def test_looks_inside_are_numbers_and_pictures(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = evaluate(dataclasses.replace(load("mini").evaluate, resolution=6), **inputs, out=tmp_path / "out")
    for name in ("filters", "positions", "attention_distance", "rollout"):
        assert pq.read_table(out / f"{name}.parquet").num_rows > 0
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 100
    distances = pq.read_table(out / "attention_distance.parquet").to_pydict()["pixels"]
    assert all(0 < pixels < 32 * 2**0.5 for pixels in distances)


def test_a_task_without_pairs_has_no_leaks(inputs: dict[str, Path]) -> None:
    leaked = leaked_keys(inputs["dedup"])
    assert leaked.keys() == {"cup", "all"} and leaked["cup"] == {"test-0", "test-9"}
