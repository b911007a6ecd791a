"""What the loop can do beside plain steps: validate and stop, average, skip blocks, hide patches, go back."""

import dataclasses
import json
import math
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.networks import tiny_vit
from tests.recipes import augmentation, training
from vit.data.shards import Shards, png_example, write
from vit.models.masked import MaskedPatchPrediction, MaskingConfig
from vit.models.vit import ViT
from vit.training import divergence
from vit.training.checkpoint import Checkpoints, State
from vit.training.fit import FitConfig, fit
from vit.training.loop import Diverged, train
from vit.training.placement import micro_batch, place
from vit.training.preemption import Preempted

TINY = tiny_vit(resolution=8, patch_size=4, width=16, depth=2, mlp_dim=32)
IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 4


def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
    step = first
    while True:
        ids = torch.arange(step * 8, step * 8 + 8) % 64
        yield IMAGES[ids], LABELS[ids]
        step += 1


def network() -> ViT:
    torch.manual_seed(0)
    return ViT(TINY, 4)


def sit(model: nn.Module | None = None, scores: list[float] | None = None, **changes: Any) -> dict[str, Any]:
    """One training: the model, the losses and norms, and the states it saved."""
    model, logged, saved = model or network(), list[dict[str, float]](), list[State]()
    waiting = iter(scores or [])
    train(
        model,
        batches,
        training(**changes),
        state=None,
        log=lambda _, metrics: logged.append(metrics),
        save=saved.append,
        validate=(lambda: next(waiting)) if scores else None,
    )
    return {"model": model, "logged": logged, "saved": saved, "losses": [m["train/loss"] for m in logged]}


def test_watches_loss_accuracy_rate_gradient_speed_and_memory() -> None:
    (metrics,) = sit(log_every=8, save_every=8)["logged"]
    assert set(metrics) == {
        "train/loss",
        "train/top1",
        "train/grad_norm",
        "train/learning_rate",
        "images_per_second",
        "images_per_second_per_device",
        "memory_gb",
        "mfu",  # of a product measured here: nobody publishes a CPU's peak
    }
    assert 0 < metrics["mfu"] < 1
    assert 0 <= metrics["train/top1"] <= 1 and metrics["train/grad_norm"] > 0 and 0.05 < metrics["memory_gb"] < 50


@pytest.mark.parametrize("limit", [0.0, 0.01])
def test_gradient_norm_is_that_before_clipping(limit: float) -> None:
    model = network()
    nn.functional.cross_entropy(model(IMAGES[:8]), LABELS[:8]).backward()
    norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters() if p.grad is not None))
    assert sit(grad_clip_norm=limit)["logged"][0]["train/grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_clipping_scales_the_whole_gradient() -> None:
    """With SGD the first update is rate x gradient, so its length is rate x limit."""
    before, model = network(), network()
    sit(model, optimizer="sgd", warmup_steps=0, learning_rate=1.0, grad_clip_norm=0.01, steps=1)
    pairs = zip(before.parameters(), model.parameters(), strict=True)
    assert math.sqrt(sum(float(((a - b).detach().double() ** 2).sum()) for a, b in pairs)) == pytest.approx(
        0.01, rel=1e-4
    )


def test_stops_when_validation_no_longer_improves() -> None:
    found = sit(scores=[0.2, 0.5, 0.4, 0.5, 0.9], validate_every=1, patience=2, save_every=8)
    assert len(found["losses"]) == 4  # 0.5 at step 2, not beaten at 3 and 4
    best = [state for state in found["saved"] if state.numbers["best_step"] == state.step]
    assert [state.step for state in best] == [1, 2] and best[-1].numbers["best"] == 0.5


def test_patience_is_remembered_by_a_resumed_run() -> None:
    scores = iter([0.4, 0.5])
    saved = sit(scores=[0.2, 0.5, 0.4, 0.5], validate_every=1, patience=2, save_every=3)["saved"]
    state, steps = next(state for state in saved if state.step == 3), list[int]()
    train(
        network(),
        batches,
        training(validate_every=1, patience=2),
        state=state,
        log=lambda step, _: steps.append(step),
        save=lambda _: None,
        validate=lambda: next(scores),
    )
    assert steps == [4]


def test_nothing_to_validate_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="validate_every 2, but there is nothing to validate on"):
        sit(validate_every=2)


def test_averages_become_the_result_and_leave_the_training_alone() -> None:
    plain, averaged = sit(), sit(average=0.5)
    assert plain["losses"] == averaged["losses"]
    names = [name for name, _ in plain["model"].named_parameters()]
    last = averaged["saved"][-1].tensors
    for name in names:
        assert torch.equal(averaged["model"].state_dict()[name], last[f"average.{name}"])
    assert any(not torch.equal(last[f"average.{name}"], plain["model"].state_dict()[name]) for name in names)


def test_stochastic_depth_skips_later_blocks_more_often_and_keeps_the_mean() -> None:
    model = ViT(tiny_vit(resolution=8, patch_size=4, width=16, depth=3, mlp_dim=32), 4)
    model.set_stochastic_depth(0.6)
    seen: list[Tensor | None] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[2]))
    model.train().encode(torch.randn(4000, 4, 16))
    for kept, rate in zip(seen, (0.0, 0.3, 0.6), strict=True):
        assert kept is not None and kept.shape == (2, 4000, 1, 1)
        assert kept.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)] if rate else [1.0])
        assert kept.mean(dim=(1, 2, 3)).tolist() == pytest.approx([1.0, 1.0], abs=0.06)
        assert (kept[0] == kept[1]).float().mean().item() == pytest.approx(1 - 2 * rate * (1 - rate), abs=0.03)
    del seen[:]
    model.eval().encode(torch.randn(2, 4, 16))
    assert seen == [None, None, None]


def test_stochastic_depth_multiplies_branches() -> None:
    block = ViT(tiny_vit(resolution=8, patch_size=4, width=16, depth=1, mlp_dim=32), 4).blocks[0]
    x = torch.randn(2, 4, 16)
    kept = torch.tensor([[0.0, 1.0], [0.0, 2.0]]).view(2, 2, 1, 1)
    found = block(x, None, kept)
    assert torch.equal(found[0], x[0])
    middle = x[1:] + block.attn(block.norm1(x[1:]))
    torch.testing.assert_close(found[1:], middle + 2 * block.mlp(block.norm2(middle)))


def test_stochastic_depth_is_reached_from_the_config() -> None:
    model = network()
    place(model, training(stochastic_depth=0.2))
    assert model.stochastic_depth == 0.2
    with pytest.raises(ValueError, match="only a ViT can leave blocks out"):
        place(nn.Linear(1, 1), training(stochastic_depth=0.2))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_passes_of_any_size_give_the_same_updates(micro: int, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sit(precision=precision)
    monkeypatch.setenv("VITFLOW_MICRO_BATCH", str(micro))
    tolerance = 1e-5 if precision == "float32" else 0.02
    assert sit(precision=precision)["losses"] == pytest.approx(whole["losses"], abs=tolerance)


def test_impossible_splits_name_the_nearest_possible_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="batch of 100 cannot be split over 3 workers; nearest batch sizes are 99 and"):
        micro_batch(100, 3)
    monkeypatch.setenv("VITFLOW_MICRO_BATCH", "20")
    with pytest.raises(ValueError, match=r"20 does not divide the 48 images of a worker.*nearest are 16 and 24"):
        micro_batch(96, 2)
    assert micro_batch(16, 1) == 16  # more than there are: all at once
    monkeypatch.setenv("VITFLOW_MICRO_BATCH", "a few")
    with pytest.raises(ValueError, match="'a few', but must be a whole number"):
        micro_batch(96, 2)


def test_recomputing_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sit(place(network(), training()))
    monkeypatch.setenv("VITFLOW_RECOMPUTE", "1")
    model = place(network(), training())
    assert isinstance(model, ViT) and model.grad_checkpointing
    assert sit(model)["losses"] == plain["losses"]


def test_bfloat16_products_keep_float32_weights() -> None:
    plain, half = sit(), sit(precision="bfloat16")
    assert half["losses"] == pytest.approx(plain["losses"], abs=0.05) and half["losses"] != plain["losses"]
    assert {tensor.dtype for tensor in half["model"].parameters()} == {torch.float32}


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (12, 9, 9, 3), dtype=np.uint8)
    noise[7] = 255  # so bright that Broken cannot stand it
    examples = [png_example(f"key-{i}", "train", i % 3, noise[i]) for i in range(12)]
    write(tmp_path / "toy", examples, name="toy", class_names=["a", "b", "c"])
    return Shards(tmp_path / "toy")


class Broken(ViT):
    """Gives NaN for a batch with an image that is brighter than `limit` in [-1, 1]."""

    limit = math.inf

    def forward(self, images: Tensor) -> Tensor:
        bad = images.mean(dim=(1, 2, 3)).max() > self.limit
        return super().forward(images) * torch.where(bad, math.nan, 1.0)


def fitted(shards: Shards, tmp_path: Path, limit: float, **changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model, reports = Broken(dataclasses.replace(TINY, depth=1), 3), dict[int, dict[str, float]]()
    model.limit = limit
    config = FitConfig(
        resolution=8, augment=augmentation(), train=training(batch_size=3, steps=6, save_every=2, **changes)
    )
    directory = tmp_path / "checkpoints"
    fit(
        model,
        shards,
        config,
        checkpoints=Checkpoints(directory=directory, fingerprint="f"),
        report=lambda step, metrics: reports.setdefault(step, {}).update(metrics),
        val=shards,
    )
    return {"model": model, "reports": reports, "directory": directory}


def test_a_diverging_batch_stops_the_run_and_is_named(shards: Shards, tmp_path: Path) -> None:
    for _ in range(2):  # a second attempt must not step over what ended the first
        with pytest.raises(
            FloatingPointError, match=r"the loss is nan at step \d+: lower learning_rate.*diverged.json"
        ):
            fitted(shards, tmp_path, 0.5, log_every=6)
    (entry,) = json.loads((tmp_path / "checkpoints" / divergence.FILE).read_text())
    assert "key-7" in entry["images"] and len(entry["images"]) == 3


def test_a_diverging_batch_is_left_out_if_the_config_says_so(shards: Shards, tmp_path: Path) -> None:
    found = fitted(shards, tmp_path, 0.5, rewinds=2, log_every=6)
    entries = json.loads((found["directory"] / divergence.FILE).read_text())
    assert entries and all("key-7" in entry["images"] for entry in entries)
    assert all(torch.isfinite(tensor).all() for tensor in found["model"].state_dict().values())
    assert np.isfinite(found["reports"][6]["train/loss"])


def test_a_spike_is_a_divergence() -> None:
    model = network()

    def spiking(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, (images, labels) in enumerate(batches(first), first):
            if step == 5:
                nn.init.constant_(model.head.bias, 0.0)
                with torch.no_grad():
                    model.head.bias[0] = 60.0
            yield images, labels

    with pytest.raises(Diverged, match=r"the loss is .* above 3 x .* at step 6") as caught:
        train(model, spiking, training(spike_factor=3.0), state=None, log=lambda *_: None, save=lambda _: None)
    assert caught.value.step == 5


def test_sigterm_saves_and_ends_and_the_next_sitting_goes_on(shards: Shards, tmp_path: Path) -> None:
    whole = fitted(shards, tmp_path / "whole", math.inf, log_every=2)
    torch.manual_seed(0)
    model = Broken(dataclasses.replace(TINY, depth=1), 3)
    config = FitConfig(
        resolution=8, augment=augmentation(), train=training(batch_size=3, steps=6, save_every=6, log_every=2)
    )
    checkpoints = Checkpoints(directory=tmp_path / "parts", fingerprint="f")

    def interrupt(step: int, _: dict[str, float]) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted, match="after step 4"):
        fit(model, shards, config, checkpoints=checkpoints, report=interrupt)
    assert [path.name for path in checkpoints.directory.glob("step-*")] == ["step-00000004"]
    again = Broken(dataclasses.replace(TINY, depth=1), 3)
    fit(again, shards, config, checkpoints=checkpoints, report=lambda *_: None)
    for name, tensor in whole["model"].state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_stop_between_two_reports_changes_neither(shards: Shards, tmp_path: Path) -> None:
    """The checkpoint remembers what was not reported yet, so the metric log of a resumed run is that of a whole one."""
    whole = fitted(shards, tmp_path / "whole", math.inf, log_every=6)
    directory = tmp_path / "parts" / "checkpoints"
    fitted(shards, tmp_path / "parts", math.inf, log_every=6)
    shutil.rmtree(directory / "step-00000006")
    again = fitted(shards, tmp_path / "parts", math.inf, log_every=6)
    for name in ("train/loss", "train/grad_norm", "train/top1"):
        assert again["reports"][6][name] == whole["reports"][6][name], name


def test_the_best_validated_weights_are_the_result(shards: Shards, tmp_path: Path) -> None:
    found = fitted(shards, tmp_path, math.inf, validate_every=1, learning_rate=0.5, log_every=6)
    states = {path.name for path in found["directory"].glob("step-*")}
    manifests = [json.loads((found["directory"] / name / "manifest.json").read_text()) for name in sorted(states)]
    best = int(manifests[-1]["numbers"]["best_step"])
    from safetensors.torch import load_file

    kept = load_file(found["directory"] / f"step-{best:08d}" / "state.safetensors")
    for name, tensor in found["model"].state_dict().items():
        assert torch.equal(tensor, kept[f"model.{name}"])


def test_masked_patch_prediction_is_another_objective_of_the_same_loop(shards: Shards, tmp_path: Path) -> None:
    torch.manual_seed(0)
    masking = MaskingConfig(target="mean_colour", corrupted=0.5, masked=0.8, replaced=0.1)
    model, reports = MaskedPatchPrediction(ViT(TINY, 0), masking), dict[int, dict[str, float]]()
    config = FitConfig(
        resolution=8,
        augment=augmentation(),
        train=training(batch_size=6, steps=60, log_every=20, validate_every=60, weight_decay=0.0, save_every=60),
    )
    checkpoints = Checkpoints(directory=tmp_path / "checkpoints", fingerprint="f")
    fit(model, shards, config, checkpoints=checkpoints, report=lambda s, m: reports.setdefault(s, m), val=shards)
    assert set(reports) == {20, 40, 60} and "train/top1" not in reports[20]
    assert reports[60]["train/loss"] < reports[20]["train/loss"] < math.log(512)
