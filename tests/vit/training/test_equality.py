"""The same training alone, under torchrun, spread, and on Ray: the same losses and weights to 1e-5."""

from collections.abc import Callable

import pytest
import torch

from tests.vit.training.conftest import ALONE, TORCHRUN, Sitting

pytestmark = pytest.mark.slow
Make = Callable[[str], Sitting]
WAYS = {
    "torchrun": (TORCHRUN, {}),
    "torchrun, two passes": (TORCHRUN, {"VITFLOW_MICRO_BATCH": "2"}),
    "FSDP": (TORCHRUN, {"VITFLOW_SHARD": "1"}),
    "FSDP, two passes": (TORCHRUN, {"VITFLOW_SHARD": "1", "VITFLOW_MICRO_BATCH": "2"}),
    "one Ray worker": (ALONE, {"VITFLOW_WORKERS": "1"}),
    "two Ray workers": (ALONE, {"VITFLOW_WORKERS": "2"}),
}


def assert_same(found: Sitting, expected: Sitting, *, exact: bool = False) -> None:
    losses, weights = expected.losses(), expected.weights()
    assert found.losses() == (losses if exact else pytest.approx(losses, abs=1e-5))
    assert found.weights().keys() == weights.keys()
    for name, tensor in found.weights().items():
        tolerance = 0.0 if exact else 1e-5
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_losses(way: str, alone: Sitting, sitting: Make) -> None:
    command, env = WAYS[way]
    found = sitting("found")
    found.run(command, env=env)
    assert_same(found, alone)


def test_a_checkpoint_in_parts_is_resumed_by_any_number_of_workers_and_the_other_way_round(
    alone: Sitting, sitting: Make
) -> None:
    """Steps 1 to 4 alone, to 12 spread over two, to 16 alone, to 20 on two replicas; killed at each turn."""
    found = sitting("found")
    ways = [(ALONE, {}), (TORCHRUN, {"VITFLOW_SHARD": "1"}), (ALONE, {}), (TORCHRUN, {})]
    for (command, env), last in zip(ways, (4, 12, 16, 20), strict=True):
        found.run(command, env=env)
        for name in found.checkpoints():
            if int(name.removeprefix("step-")) > last:
                newer = found.directory / "checkpoints" / name
                newer.rename(found.directory / f"{name}-{len(list(found.directory.iterdir()))}")
        if last < 20 and not found.checkpoints():
            raise AssertionError(f"no checkpoint is left at step {last}")
    assert_same(found, alone)
