"""Fitting on shards: what is reported, and that a second sitting goes on where the first one stopped."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.networks import tiny_vit
from tests.recipes import augmentation, training
from vit.data.mixing import MixConfig
from vit.data.shards import Shards, png_example, write
from vit.models.vit import ViT
from vit.training.checkpoint import Checkpoints
from vit.training.fit import FitConfig, fit
from vit.training.scoring import score

TINY = tiny_vit(resolution=8, patch_size=4, width=16, depth=1, mlp_dim=32)
CONFIG = FitConfig(
    resolution=8,
    augment=augmentation(crop_area=0.5, flip=True, mix=MixConfig(mixup=0.3, cutmix=0.3, erasing=0.2)),
    train=training(seed=1, steps=6, warmup_steps=1, log_every=2, save_every=4),
)


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (10, 9, 9, 3), dtype=np.uint8)
    examples = [png_example(f"key-{i}", "train", i % 3, noise[i]) for i in range(10)]
    write(tmp_path / "toy", examples, name="toy", class_names=["a", "b", "c"])
    return Shards(tmp_path / "toy")


def sit(shards: Shards, config: FitConfig, checkpoints: Path) -> tuple[torch.nn.Module, dict[int, dict[str, float]]]:
    torch.manual_seed(0)
    seen: dict[int, dict[str, float]] = {}
    model = fit(
        ViT(TINY, 3),
        shards,
        config,
        checkpoints=Checkpoints(directory=checkpoints, fingerprint="f"),
        report=lambda step, metrics: seen.setdefault(step, {}).update(metrics),
    )
    return model, seen


def test_reports_the_share_of_time_spent_waiting_for_data(shards: Shards, tmp_path: Path) -> None:
    model, seen = sit(shards, CONFIG, tmp_path / "checkpoints")
    assert list(seen) == [2, 4, 6]
    for metrics in seen.values():
        assert 0 <= metrics["data_wait_fraction"] <= 1
        assert np.isfinite(metrics["train/loss"])
    assert 0 <= score(model, shards, resolution=8, view="centre")["top1"] <= 1


def test_a_second_sitting_goes_on(shards: Shards, tmp_path: Path) -> None:
    whole, _ = sit(shards, CONFIG, tmp_path / "whole")
    # The schedule must be that of six steps, so the first sitting is one that died after its checkpoint.
    _, seen = sit(shards, CONFIG, tmp_path / "parts")
    for newest in sorted((tmp_path / "parts").glob("step-*"))[1:]:
        newest.rename(tmp_path / newest.name)
    resumed, seen = sit(shards, CONFIG, tmp_path / "parts")
    assert list(seen) == [4, 6] and seen[4]["train/resumed_from_step"] == 4.0
    assert seen[4]["train/redone_seconds"] == seen[6]["redone_seconds"] > 0  # steps 5 and 6 were done before
    assert seen[6]["restarts"] == 1 and seen[6]["device_hours"] * 3600 > seen[6]["redone_seconds"]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_the_plain_recipe_has_hard_labels(shards: Shards, tmp_path: Path) -> None:
    _, seen = sit(shards, dataclasses.replace(CONFIG, augment=augmentation()), tmp_path / "checkpoints")
    assert list(seen) == [2, 4, 6]
