"""Polyak averaging at transfer: what finetune saves and evaluate scores is the direct sum over all updates."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flows.stages import output
from flows.stages.evaluate import evaluate
from flows.stages.finetune import finetune
from tests.stages import test_evaluate_sweep, test_finetune_sweep
from vit.data.shards import Shards
from vit.evaluation import vtab
from vit.models import load
from vit.training import averaging
from vit.training.config import TrainConfig
from vit.training.scoring import score
from vit.training.sweep import SweepConfig

DECAY, ONCE = 0.9, SweepConfig(learning_rates=(), steps=(), seeds=(), rungs=())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """The weights before the first and after each update of a training, float64; a list is begun by each training."""
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    found: list[list[Tensor]] = []
    begin, update = averaging.Average.__init__, averaging.Average.update

    def keep(average: averaging.Average) -> None:
        found.append([weight.double().clone() for weight in average.weights])

    def first(average: averaging.Average, model: nn.Module, decay: float) -> None:
        begin(average, model, decay)
        found.clear()
        keep(average)

    def next_one(average: averaging.Average) -> None:
        keep(average)
        update(average)

    monkeypatch.setattr(averaging.Average, "__init__", first)
    monkeypatch.setattr(averaging.Average, "update", next_one)
    return found


def direct(seen: list[list[Tensor]]) -> list[Tensor]:
    """DECAY^n of the first weights and (1 - DECAY) DECAY^(n - i) of those after update i."""
    last = len(seen) - 1
    shares = [DECAY**last, *((1 - DECAY) * DECAY ** (last - i) for i in range(1, last + 1))]
    return [
        sum((share * part for share, part in zip(shares, parts, strict=True)), torch.zeros(()))
        for parts in zip(*seen, strict=True)
    ]


def averaged(train: TrainConfig) -> TrainConfig:
    return dataclasses.replace(train, steps=12, average=DECAY)


def test_finetune_saves_and_scores_the_average(seen: list[list[Tensor]], tmp_path: Path) -> None:
    asked = test_finetune_sweep.config(sweep=ONCE)
    asked = dataclasses.replace(asked, train=averaged(asked.train))
    given = test_finetune_sweep.inputs(tmp_path)
    out = finetune(asked, **given, out=tmp_path / "out")
    model = load(out / output.MODEL)
    assert len(seen) == 13
    for found, expected in zip(model.parameters(), direct(seen), strict=True):
        torch.testing.assert_close(found.detach().double(), expected, rtol=0, atol=1e-6)
    moved = max(float((a - b).abs().max()) for a, b in zip(direct(seen), seen[-1], strict=True))
    assert moved > 1e-3, "the last weights are others"
    val = Shards(given["images"] / "corpus", splits=("val",))
    top1 = json.loads((out / "metrics.json").read_text())["val/top1"]
    assert top1 == score(model, val, resolution=8, view="square")["top1"]


def test_evaluate_scores_the_average(seen: list[list[Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., object] = vtab.answers
    scored: list[list[Tensor]] = []

    def answers(model: nn.Module, *arguments: object, **more: object) -> object:
        scored.append([parameter.detach().double() for parameter in model.parameters()])
        for found, expected in zip(scored[-1], direct(seen), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        return real(model, *arguments, **more)

    monkeypatch.setattr(vtab, "answers", answers)
    asked = test_evaluate_sweep.config(ONCE)
    evaluate(
        dataclasses.replace(asked, train=averaged(asked.train)),
        **test_evaluate_sweep.inputs(tmp_path),
        out=tmp_path / "out",
    )
    assert len(scored) == 2 and len(seen) == 13, "from the model and from random weights"
