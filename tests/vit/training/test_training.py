"""The loop: what it computes, and that stopping, resuming and sharing the work change nothing."""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.networks import tiny_vit
from tests.recipes import training
from tests.vit.models.bad_files import plain_pickle
from vit.data.order import batch_ids
from vit.models.vit import ViT
from vit.training import checkpoint
from vit.training.checkpoint import Checkpoints, State
from vit.training.config import TrainConfig
from vit.training.loop import train
from vit.training.loss import classification_loss

TINY = tiny_vit(resolution=8, patch_size=4, width=16, depth=2, mlp_dim=32, representation=True, dropout=0.1)
CONFIG = training(loss="sigmoid")
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


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, list[State]]:
    states = [State(step=step, tensors={"model.w": torch.full((4,), float(step))}) for step in (1, 2, 3)]
    for state in states:
        checkpoint.save(Checkpoints(directory=tmp_path, fingerprint="f"), state)
    return tmp_path, states


def test_checkpoint_keeps_the_newest_and_reads_back(saved: tuple[Path, list[State]]) -> None:
    directory, states = saved
    assert sorted(path.name for path in directory.iterdir()) == ["step-00000002", "step-00000003"]
    newest = checkpoint.load_newest(Checkpoints(directory=directory, fingerprint="f"))
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
    found = checkpoint.load_newest(Checkpoints(directory=directory, fingerprint="f"))
    assert found is not None and checkpoint.is_equal(found, states[1])
    assert len(caplog.records) == 1 and "step-00000003" in caplog.text


def test_a_pickle_whose_manifest_fits_is_not_run(
    saved: tuple[Path, list[State]], caplog: pytest.LogCaptureFixture
) -> None:
    directory, states = saved
    newest = directory / "step-00000003"
    plain_pickle(newest / checkpoint.STATE)
    data, manifest = (newest / checkpoint.STATE).read_bytes(), json.loads((newest / checkpoint.MANIFEST).read_text())
    manifest["files"][checkpoint.STATE] = [len(data), hashlib.sha256(data).hexdigest()]
    (newest / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    found = checkpoint.load_newest(Checkpoints(directory=directory, fingerprint="f"))
    assert found is not None and checkpoint.is_equal(found, states[1])
    assert "state.safetensors holds no tensors" in caplog.text and not (newest / "ran").exists()


def test_only_broken_checkpoints_stop_instead_of_starting_afresh(saved: tuple[Path, list[State]]) -> None:
    directory, _ = saved
    for path in directory.iterdir():
        (path / checkpoint.MANIFEST).unlink()
    with pytest.raises(checkpoint.NoValidCheckpoint, match="all 2 checkpoints"):
        checkpoint.load_newest(Checkpoints(directory=directory, fingerprint="f"))


def test_checkpoint_of_another_run_is_refused(saved: tuple[Path, list[State]]) -> None:
    with pytest.raises(checkpoint.BadCheckpoint, match="belongs to run f, not to g"):
        checkpoint.load(saved[0] / "step-00000003", fingerprint="g")


def test_half_written_checkpoint_is_never_seen(saved: tuple[Path, list[State]]) -> None:
    directory, states = saved
    half = directory / ".step-00000004.writing-1"
    half.mkdir()
    (half / checkpoint.STATE).write_bytes(b"half")
    newest = checkpoint.load_newest(Checkpoints(directory=directory, fingerprint="f"))
    assert newest is not None and newest.step == 3
    checkpoint.save(Checkpoints(directory=directory, fingerprint="f"), dataclasses.replace(states[0], step=5))
    assert not half.exists()


def test_no_checkpoint_is_a_fresh_start(tmp_path: Path) -> None:
    assert checkpoint.load_newest(Checkpoints(directory=tmp_path / "none", fingerprint="f")) is None


def test_optimiser_state_survives_a_checkpoint(tmp_path: Path) -> None:
    *_, states = sit()
    checkpoint.save(Checkpoints(directory=tmp_path, fingerprint="f"), states[-1])
    loaded = checkpoint.load(tmp_path / checkpoint.name(8), fingerprint="f")
    assert checkpoint.is_equal(loaded, states[-1])
    assert any("exp_avg_sq" in name for name in loaded.tensors)
    assert np.isfinite(sum(tensor.double().sum().item() for tensor in loaded.tensors.values()))
