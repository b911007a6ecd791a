"""Train a network on shards with resume: what every rank of pre-training and fine-tuning runs."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from vit.data.augment import AugmentConfig
from vit.data.loader import Stream, training_batches
from vit.data.shards import Shards
from vit.training import checkpoint
from vit.training.distributed import (
    device,
    from_rank_0,
    mean_over_ranks,
    rank,
    unwrap,
    wrap,
)
from vit.training.loop import TrainConfig, train


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """One training run, as plain data that can be sent to a worker."""

    resolution: int  # pixels
    train: TrainConfig
    augment: AugmentConfig


Report = Callable[[int, dict[str, float]], None]


def fit(
    model: nn.Module, shards: Shards, config: FitConfig, *, checkpoints: Path, fingerprint: str, report: Report
) -> nn.Module:
    """Train in place from the newest valid checkpoint in `checkpoints` on; returns the unwrapped model.

    Call it on every rank with the same arguments. Rank 0 writes checkpoints and calls `report(step, metrics)`, where
    `data_wait_fraction` is the part of the time that the devices, on average, waited for data.
    """
    model = wrap(model.to(device()))
    # Every rank must go on from the same step, so rank 0 chooses and the others follow.
    newest = checkpoint.load_newest(checkpoints, fingerprint=fingerprint) if rank() == 0 else None
    step = from_rank_0(newest.step if newest else 0)
    if step and newest is None:
        newest = checkpoint.load(checkpoints / checkpoint.name(step), fingerprint=fingerprint)
    if step and rank() == 0:
        report(step, {"train/resumed_from_step": float(step)})

    stream = training_batches(
        shards,
        first_step=step,
        seed=config.train.seed,
        resolution=config.resolution,
        config=config.augment,
        batch_size=config.train.batch_size,
    )
    waited = _waited_fraction(stream)

    def log(step: int, metrics: dict[str, float]) -> None:
        fraction = mean_over_ranks(torch.tensor(waited(), device=device())).item()
        if rank() == 0:
            report(step, metrics | {"data_wait_fraction": fraction})

    def save(state: checkpoint.State) -> None:
        if rank() == 0:
            checkpoint.save(checkpoints, state, fingerprint=fingerprint)

    with contextlib.closing(stream):
        train(model, lambda _: stream, config.train, state=newest, log=log, save=save)
    return unwrap(model)


def _waited_fraction(stream: Stream) -> Callable[[], float]:
    """A function that says for which part of the time since its last call the stream had its device wait."""
    clock, before = time.perf_counter(), 0.0

    def fraction() -> float:
        nonlocal clock, before
        now, waited = time.perf_counter(), stream.waited
        share = (waited - before) / (now - clock)
        clock, before = now, waited
        return share

    return fraction


def timed(report: Report, steps: int) -> Report:
    """`report` with the seconds that are left added to each call that carries a speed."""
    start: list[tuple[float, int]] = []

    def with_eta(step: int, metrics: dict[str, float]) -> None:
        start.append((time.perf_counter(), step))
        seconds, done = start[-1][0] - start[0][0], step - start[0][1]
        eta = {"eta_seconds": seconds / done * (steps - step)} if done else {}
        report(step, metrics | eta)

    return with_eta
