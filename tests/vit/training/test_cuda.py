"""What only a GPU shows; skipped elsewhere. On a machine with torch, NumPy and little more:
`python -m pytest --noconftest -o addopts=--import-mode=importlib tests/vit/training/test_cuda.py`."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.utils import counters

from tests.networks import tiny_vit
from tests.recipes import augmentation, training
from vit.data import loader
from vit.data.mixing import MixConfig
from vit.data.shards import Shards, png_example, write
from vit.models.vit import ViT
from vit.training import distributed, fit, loop
from vit.training.checkpoint import Checkpoints
from vit.training.placement import compiles, place

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

NET = tiny_vit(resolution=16, patch_size=4, width=64, depth=12, mlp_dim=128)
CONFIG = fit.FitConfig(
    resolution=16,
    augment=augmentation(crop_area=0.5, flip=True, mix=MixConfig(mixup=0.3, cutmix=0.3, erasing=0.2)),
    train=training(seed=1, steps=12, batch_size=16, warmup_steps=1, log_every=2, save_every=4, learning_rate=1e-3),
)


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (40, 17, 17, 3), dtype=np.uint8)
    examples = [png_example(f"key-{i}", "train", i % 3, noise[i]) for i in range(40)]
    write(tmp_path / "toy", examples, name="toy", class_names=["a", "b", "c"])
    return Shards(tmp_path / "toy")


def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def sit(shards: Shards, directory: Path, **changes: Any) -> tuple[dict[str, Tensor], dict[int, float]]:
    """Weights and losses of a training."""
    torch.manual_seed(0)
    losses: dict[int, float] = {}

    def report(step: int, metrics: dict[str, float]) -> None:
        if "train/loss" in metrics:
            losses[step] = metrics["train/loss"]

    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **changes))
    checkpoints = Checkpoints(directory=directory, fingerprint="f")
    model = fit.fit(ViT(NET, 3), shards, config, checkpoints=checkpoints, report=report)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, losses


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_batches_are_those_of_a_cpu(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    def batches() -> list[tuple[Tensor, Tensor]]:
        stream = loader.training_batches(
            shards, resolution=16, config=CONFIG.augment, batch_size=16, seed=1, first_step=0
        )
        found = [(images, labels) for images, labels in itertools.islice(stream, 40)]
        stream.close()
        return found

    here = batches()
    assert all(images.is_cuda and labels.is_cuda for images, labels in here)
    without_gpu(monkeypatch)
    for (images, labels), (other, others) in zip(here, batches(), strict=True):
        torch.testing.assert_close(images.cpu(), other, rtol=0, atol=1e-5)
        torch.testing.assert_close(labels.cpu(), others, rtol=0, atol=1e-6)


def test_losses_are_those_of_a_cpu(shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = sit(shards, tmp_path / "gpu")
    without_gpu(monkeypatch)
    there = sit(shards, tmp_path / "cpu")
    assert here[1] == pytest.approx(there[1], abs=1e-4)


def test_a_training_goes_on_where_it_was_on_either_device(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = sit(shards, tmp_path / "whole")
    for name in ("gpu", "cpu"):
        sit(shards, tmp_path / name)
        for path in sorted((tmp_path / name).glob("step-*"))[1:]:  # as if it had ended after the first checkpoint
            (path / "manifest.json").unlink()
    again, _ = sit(shards, tmp_path / "gpu")
    assert_close(again, whole, 1e-5)
    without_gpu(monkeypatch)
    elsewhere, _ = sit(shards, tmp_path / "cpu")
    assert_close(elsewhere, whole, 1e-3)


@pytest.mark.parametrize("micro", ["8", "4"])
def test_passes_give_the_same_update(
    micro: str, shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = sit(shards, tmp_path / "whole", steps=4)
    monkeypatch.setenv("VITFLOW_MICRO_BATCH", micro)
    assert_close(sit(shards, tmp_path / "parts", steps=4)[0], whole, 1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("recompute", ["0", "1"])
def test_compiled_and_recomputed_is_eager(
    precision: str, tolerance: float, recompute: str, shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITFLOW_COMPILE", "0")
    eager = sit(shards, tmp_path / "eager")
    monkeypatch.setenv("VITFLOW_COMPILE", "1")
    monkeypatch.setenv("VITFLOW_RECOMPUTE", recompute)
    found = sit(shards, tmp_path / "found", precision=precision)
    assert found[1] == pytest.approx(eager[1], abs=tolerance)


def test_one_compilation_serves_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with stochastic depth, where each has a probability of its own."""
    monkeypatch.setenv("VITFLOW_COMPILE", "1")
    torch._dynamo.reset()
    counters.clear()
    model = place(ViT(NET, 3).cuda(), training(stochastic_depth=0.3)).train()
    model(torch.randn(4, 3, 16, 16, device="cuda")).sum().backward()
    assert counters["stats"]["unique_graphs"] == 1


def test_long_trainings_are_compiled_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITFLOW_COMPILE", raising=False)
    assert compiles(100_000) and not compiles(100)


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}, {"average": 0.9}, {"optimizer": "sgd"}])
@pytest.mark.parametrize("compiled", ["0", "1"])
def test_no_step_waits_for_the_device(changes: dict[str, Any], compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises where the processor would have to wait, once everything has been allocated and compiled."""
    monkeypatch.setenv("VITFLOW_COMPILE", compiled)
    config = training(steps=8, log_every=8, save_every=8, stochastic_depth=0.1, weight_decay=0.0, **changes)
    model = place(ViT(dataclasses.replace(NET, dropout=0.1), 3).cuda(), config)
    data = torch.randn(8, 3, 16, 16, device="cuda"), torch.arange(8, device="cuda") % 3

    def batches(_: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(config.steps):
            torch.cuda.set_sync_debug_mode("error" if 2 <= step < config.steps - 1 else "default")
            yield data

    try:
        loop.train(model, batches, config, state=None, log=lambda step, metrics: None, save=lambda state: None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_two_ranks_on_one_gpu_give_the_same_updates(shards: Shards, tmp_path: Path) -> None:
    """Replicas over Gloo, as NCCL wants a GPU for each."""
    whole, losses = sit(shards, tmp_path / "whole")
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    found = torch.load(tmp_path / "found.pt")
    assert found["losses"] == pytest.approx(losses, abs=1e-5)
    assert_close(found["weights"], whole, 1e-4)


def one_of_two(rank: int, directory: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=2)
    weights, losses = sit(Shards(directory / "toy"), directory / "two")
    if distributed.rank() == 0:
        torch.save({"weights": weights, "losses": losses}, directory / "found.pt")
    dist.destroy_process_group()


def test_patches_are_those_of_the_convolution() -> None:
    embed, images = ViT(NET, 3).patch_embed.cuda().double(), torch.randn(2, 3, 16, 16, device="cuda").double()
    torch.testing.assert_close(embed(images), embed.proj(images).flatten(2).transpose(1, 2), rtol=0, atol=1e-12)


def test_the_optimiser_is_one_kernel() -> None:
    from vit.training.optimizer import make_optimizer

    model: nn.Module = ViT(NET, 3).cuda()
    for name in ("adamw", "adam", "sgd"):
        optimizer = make_optimizer(model, training(optimizer=name, weight_decay=0.0))
        assert all(group["fused"] for group in optimizer.param_groups)
