"""Where the time of an update goes: each part takes at least as long as we make it take."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tests.recipes import training
from vit.training.objective import Batch
from vit.training.profile import profile

NAP = 0.02  # seconds


class Slow(torch.autograd.Function):
    """Nothing, slowly: one nap forwards, three backwards."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        time.sleep(NAP)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        time.sleep(3 * NAP)
        return gradients[0]


class Sleeper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        return Slow.apply(self.head(images.flatten(1)))


def slowly() -> Iterator[Batch]:
    for _ in itertools.count():
        time.sleep(2 * NAP)
        yield torch.zeros(8, 3, 2, 2), torch.zeros(8, dtype=torch.long)


def test_naps_are_found_where_they_are() -> None:
    found = profile(Sleeper(), slowly(), training(), seconds=0.1)
    assert found.parts["data"] >= 2 * NAP and found.parts["forward"] >= NAP and found.parts["backward"] >= 3 * NAP
    assert found.parts["backward"] > found.parts["forward"] > found.parts["optimizer"]
    assert found.update >= 6 * NAP and found.images_per_second == 8 / found.update
    assert found.communication is None and found.mfu is None


def test_naps_of_several_passes_add_up(monkeypatch: Any) -> None:
    monkeypatch.setenv("VITFLOW_MICRO_BATCH", "4")
    found = profile(Sleeper(), slowly(), training(), seconds=0.1)
    assert found.parts["forward"] >= 2 * NAP and found.parts["backward"] >= 6 * NAP
