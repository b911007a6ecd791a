"""The training loop: plain PyTorch, the same alone, under torchrun and under Ray; knows no file and no tracker."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

from vit.data.order import hash64
from vit.training.checkpoint import State, capture, restore
from vit.training.distributed import mean_over_ranks, rank, unwrap
from vit.training.loss import Loss, classification_loss
from vit.training.optimizer import Name, make_optimizer
from vit.training.schedule import Decay, learning_rate

Batches: TypeAlias = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
Log: TypeAlias = Callable[[int, dict[str, float]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to optimise. Batches and rates are global: the number of workers changes neither."""

    seed: int  # of initial weights, sample order, augmentation and dropout
    steps: int  # optimiser updates
    batch_size: int  # images per update over all workers
    optimizer: Name
    loss: Loss
    learning_rate: float  # peak, for the global batch
    decay: Decay
    warmup_steps: int  # updates
    weight_decay: float  # decoupled, on every parameter (paper Table 3)
    grad_clip_norm: float  # global L2 norm; 0 switches clipping off
    log_every: int  # updates
    save_every: int  # updates between checkpoints

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be at least 0 and below steps {self.steps}")
        for name in ("learning_rate", "weight_decay", "grad_clip_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must not be negative")


def train(
    model: nn.Module,
    batches: Batches,
    config: TrainConfig,
    *,
    state: State | None,
    log: Log,
    save: Callable[[State], None],
) -> None:
    """Run `config.steps` updates in place, going on after `state` if given.

    `batches(step)` yields this rank's (images B 3 R R, labels B or targets B C) from update `step` on. `log` gets the
    mean loss of the last interval over all ranks, `save` the whole state; every rank calls both at the same steps.
    Raises FloatingPointError when the loss is not finite.
    """
    optimizer = make_optimizer(model, config.optimizer, weight_decay=config.weight_decay)
    done = restore(unwrap(model), optimizer, state) if state else 0
    model.train()
    losses: list[Tensor] = []
    clock, stream = time.perf_counter(), batches(done)
    for step in range(done, config.steps):
        torch.manual_seed(
            int(hash64(config.seed, step, rank()) >> 1)
        )  # dropout follows from (seed, step), not from history
        rate = learning_rate(
            step, peak=config.learning_rate, decay=config.decay, warmup_steps=config.warmup_steps, steps=config.steps
        )
        losses.append(_update(model, optimizer, next(stream), rate, config))
        if due(step, config.log_every, config.steps):
            loss = mean_over_ranks(torch.stack(losses).mean())
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} at step {step + 1}: lower learning_rate {config.learning_rate}"
                )
            seconds, clock = time.perf_counter() - clock, time.perf_counter()
            images = len(losses) * config.batch_size
            log(
                step + 1,
                {"train/loss": loss.item(), "train/learning_rate": rate, "images_per_second": images / seconds},
            )
            losses.clear()
        if due(step, config.save_every, config.steps):
            save(capture(unwrap(model), optimizer, step + 1))


def due(step: int, every: int, last: int) -> bool:
    """True every `every` updates and after the last one; `step` is 0-based."""
    return (step + 1) % every == 0 or step + 1 == last


def _update(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], rate: float, config: TrainConfig
) -> Tensor:
    images, labels = batch
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = classification_loss(model(images), labels, config.loss)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.grad_clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip_norm)
    optimizer.step()
    return loss.detach()
