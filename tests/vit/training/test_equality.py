"""The same training alone, under torchrun, spread, and on Ray: the same losses and weights to 1e-5."""

import shutil
from collections.abc import Callable
from pathlib import Path

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


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor compiles with g++, which is not installed")
@pytest.mark.parametrize(
    ("command", "shard"), [(ALONE, "0"), (TORCHRUN, "0"), (TORCHRUN, "1")], ids=["alone", "torchrun", "spread"]
)
def test_compiled_is_eager(command: list[str], shard: str, tmp_path: Path, sitting: Make) -> None:
    """From shards to checkpoints and the result, with validation between; other kernels, so to 1e-4."""
    eager, found, cache = sitting("eager"), sitting("found"), tmp_path / "inductor"
    for run in (eager, found):
        run.write("val", 9)
    eager.run(ALONE, validate_every=10)
    env = {"VITFLOW_COMPILE": "1", "VITFLOW_SHARD": shard, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    found.run(command, env=env, validate_every=10)
    assert list(cache.rglob("*.cpp")), "kernels were written"
    assert len(found.losses()) == 20 and found.losses() == pytest.approx(eager.losses(), abs=1e-4)
    assert found.weights().keys() == eager.weights().keys() and found.checkpoints() == eager.checkpoints()
    assert found.best() == pytest.approx(eager.best())


def test_a_dying_run_goes_on_with_another_number_of_workers(alone: Sitting, sitting: Make) -> None:
    """Two workers, then one, then two with a part of everything each, then one: every kind of checkpoint is resumed."""
    found = sitting("found")
    found.run(TORCHRUN, dies=6)
    found.run(ALONE, dies=11)
    found.run(TORCHRUN, env={"VITFLOW_SHARD": "1"}, dies=15)
    assert len(list((found.directory / "checkpoints" / found.checkpoints()[-1]).glob("shard-*"))) == 2
    found.run(ALONE)
    assert_same(found, alone)
