"""The loop: what it computes, and that stopping, resuming and sharing the work change nothing."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.networks import tiny_vit
from vit.data.order import batch_ids
from vit.models.vit import ViT
from vit.training import checkpoint
from vit.training.checkpoint import State
from vit.training.loop import TrainConfig, train
from vit.training.loss import classification_loss
from vit.training.optimizer import make_optimizer
from vit.training.schedule import learning_rate

TINY = tiny_vit(resolution=8, patch_size=4, width=16, depth=2, mlp_dim=32, representation=True, dropout=0.1)
CONFIG = TrainConfig(
    seed=3,
    steps=8,
    batch_size=8,
    optimizer="adamw",
    loss="sigmoid",
    learning_rate=0.01,
    decay="linear",
    warmup_steps=2,
    weight_decay=0.1,
    grad_clip_norm=1.0,
    log_every=1,
    save_every=3,
)
IMAGES = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 4


def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
    step = first
    while True:
        ids, _ = batch_ids(step, seed=CONFIG.seed, size=20, batch_size=CONFIG.batch_size)
        yield IMAGES[ids], LABELS[ids]
        step += 1


def sit(
    config: TrainConfig = CONFIG, state: State | None = None, *, stop_after: int | None = None
) -> tuple[ViT, list[float], list[State]]:
    """One sitting: the model, its losses, and the states it saved; `stop_after` pulls the plug."""
    torch.manual_seed(0)
    model, losses, saved = ViT(TINY, 4, head_bias=-10.0), [], []

    def save(state: State) -> None:
        saved.append(dataclasses.replace(state, tensors={name: t.clone() for name, t in state.tensors.items()}))

    def log(step: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["train/loss"])
        if step == stop_after:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train(model, batches, config, state=state, log=log, save=save)
    return model, losses, saved


def test_resumed_run_equals_uninterrupted_bit_for_bit() -> None:
    whole, losses, _ = sit()
    _, first, saved = sit(stop_after=5)  # dies at 5, having saved at 3
    assert [state.step for state in saved] == [3]
    resumed, second, _ = sit(state=saved[-1])
    assert first[:3] + second == losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_learns_one_batch_by_heart() -> None:
    config = dataclasses.replace(CONFIG, steps=150, batch_size=20, loss="softmax", weight_decay=0.0, save_every=150)
    _, losses, _ = sit(config)
    assert losses[0] == pytest.approx(math.log(4), rel=1e-3)  # zero head: every class equally likely
    assert losses[-1] < 0.2


def test_first_sigmoid_loss_follows_from_the_head_bias() -> None:
    logits = torch.full((5, 4), -10.0)
    expected = 10 + 4 * math.log1p(math.exp(-10))  # one positive at -10, three negatives, summed over classes
    assert classification_loss(logits, torch.zeros(5, dtype=torch.long), "sigmoid").item() == pytest.approx(expected)


def test_loss_that_is_not_finite_stops_with_a_sentence() -> None:
    def poisoned(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in batches(first):
            yield images * math.nan, labels

    with pytest.raises(FloatingPointError, match="nan at step 1: lower learning_rate"):
        train(ViT(TINY, 4), poisoned, CONFIG, state=None, log=lambda *_: None, save=lambda _: None)


def test_schedules() -> None:
    linear = [learning_rate(s, peak=1.0, decay="linear", warmup_steps=10, steps=110) for s in range(110)]
    assert linear[0] == pytest.approx(0.1) and linear[9] == pytest.approx(1.0)
    assert linear[60] == pytest.approx(0.5, abs=1e-5) and linear[-1] == pytest.approx(0.01, rel=1e-2)
    cosine = [learning_rate(s, peak=2.0, decay="cosine", warmup_steps=0, steps=100) for s in range(101)]
    assert cosine[0] == 2.0 and cosine[50] == pytest.approx(1.0) and cosine[100] == pytest.approx(0.0, abs=1e-12)


def test_decay_is_decoupled_and_touches_every_parameter() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = make_optimizer(model, "adamw", weight_decay=0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(new, old * (1 - 0.5 * 0.1))


def test_sgd_refuses_weight_decay() -> None:
    with pytest.raises(ValueError, match=r"weight_decay 0\.1 with sgd"):
        make_optimizer(torch.nn.Linear(1, 1), "sgd", weight_decay=0.1)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, list[State]]:
    states = [State(step=step, tensors={"model.w": torch.full((4,), float(step))}) for step in (1, 2, 3)]
    for state in states:
        checkpoint.save(tmp_path, state, fingerprint="f", keep=2)
    return tmp_path, states


def test_checkpoint_keeps_the_newest_and_reads_back(saved: tuple[Path, list[State]]) -> None:
    directory, states = saved
    assert sorted(path.name for path in directory.iterdir()) == ["step-00000002", "step-00000003"]
    newest = checkpoint.load_newest(directory, fingerprint="f")
    assert newest is not None and checkpoint.is_equal(newest, states[-1])


@pytest.mark.parametrize("fault", ["flip", "cut", "empty", "no state", "no manifest", "bad manifest"])
def test_broken_checkpoint_falls_back_with_a_warning(
    saved: tuple[Path, list[State]], fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory, states = saved
    newest = directory / "step-00000003"
    data = bytearray((newest / checkpoint.STATE).read_bytes())
    if fault == "flip":
        data[-1] ^= 1
    contents = {"flip": bytes(data), "cut": bytes(data[:-3]), "empty": b""}
    if fault in contents:
        (newest / checkpoint.STATE).write_bytes(contents[fault])
    elif fault == "no state":
        (newest / checkpoint.STATE).unlink()
    elif fault == "no manifest":
        (newest / checkpoint.MANIFEST).unlink()
    else:
        (newest / checkpoint.MANIFEST).write_text("{")
    found = checkpoint.load_newest(directory, fingerprint="f")
    assert found is not None and checkpoint.is_equal(found, states[1])
    assert len(caplog.records) == 1 and "step-00000003" in caplog.text


def test_only_broken_checkpoints_stop_instead_of_starting_afresh(saved: tuple[Path, list[State]]) -> None:
    directory, _ = saved
    for path in directory.iterdir():
        (path / checkpoint.MANIFEST).unlink()
    with pytest.raises(checkpoint.NoValidCheckpoint, match="all 2 checkpoints"):
        checkpoint.load_newest(directory, fingerprint="f")


def test_checkpoint_of_another_run_is_refused(saved: tuple[Path, list[State]]) -> None:
    with pytest.raises(checkpoint.BadCheckpoint, match="belongs to run f, not to g"):
        checkpoint.load(saved[0] / "step-00000003", fingerprint="g")


def test_half_written_checkpoint_is_never_seen(saved: tuple[Path, list[State]]) -> None:
    directory, states = saved
    half = directory / ".step-00000004.writing-1"
    half.mkdir()
    (half / checkpoint.STATE).write_bytes(b"half")
    newest = checkpoint.load_newest(directory, fingerprint="f")
    assert newest is not None and newest.step == 3
    checkpoint.save(directory, dataclasses.replace(states[0], step=5), fingerprint="f")
    assert not half.exists()


def test_no_checkpoint_is_a_fresh_start(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "none", fingerprint="f") is None


def test_optimiser_state_survives_a_checkpoint(tmp_path: Path) -> None:
    *_, states = sit()
    checkpoint.save(tmp_path, states[-1], fingerprint="f")
    loaded = checkpoint.load(tmp_path / checkpoint.name(8), fingerprint="f")
    assert checkpoint.is_equal(loaded, states[-1])
    assert any("exp_avg_sq" in name for name in loaded.tensors)
    assert np.isfinite(sum(tensor.double().sum().item() for tensor in loaded.tensors.values()))
