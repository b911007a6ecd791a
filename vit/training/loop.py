"""The training loop: plain PyTorch, the same alone, under torchrun and under Ray; knows no file and no tracker."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import nn

from vit.data.order import hash64
from vit.training import preemption
from vit.training.averaging import Average
from vit.training.checkpoint import State, capture, restore
from vit.training.config import TrainConfig
from vit.training.distributed import device, rank, unwrap, world_size
from vit.training.flops import peak_flops, training_flops
from vit.training.meter import Diverged, Meter
from vit.training.objective import Batch, make_objective
from vit.training.optimizer import make_optimizer, set_rate
from vit.training.placement import micro_batch
from vit.training.schedule import learning_rate
from vit.training.update import update

__all__ = ["Diverged", "TrainConfig", "train"]

Batches: TypeAlias = Callable[[int], Iterator[Batch | None]]
Log: TypeAlias = Callable[[int, dict[str, float]], None]


def train(  # noqa: PLR0913  what goes in and what comes out, each by itself, is the point of it
    model: nn.Module,
    batches: Batches,
    config: TrainConfig,
    *,
    state: State | None,
    log: Log,
    save: Callable[[State], None],
    validate: Callable[[], float] | None = None,
) -> None:
    """Run `config.steps` updates in place, going on after `state` if given; averages, if any, end as the weights.

    `batches(step)` yields this rank's batches from update `step` on, None for one to leave out. `log` gets the numbers
    of the last interval over all ranks, `save` the whole state, `validate` scores the model that would be the result.
    Every rank calls all three at the same steps. Raises Diverged or, once its state is saved, Preempted.
    """
    if config.validate_every and validate is None:
        raise ValueError(f"validate_every {config.validate_every}, but there is nothing to validate on: set it to 0")
    plain = unwrap(model)
    optimizer, average, objective = (
        make_optimizer(plain, config),
        Average(plain, config.average),
        make_objective(plain, config),
    )
    remembered = state.numbers if state else {}
    numbers = {name: remembered[name] for name in ("best", "best_step") if name in remembered}  # of the validations
    if state:
        restore(plain, optimizer, average, state)
    done, size = state.step if state else 0, micro_batch(config.batch_size, world_size())
    flops, peak = training_flops(plain), peak_flops(device(), config.precision)
    meter = Meter(config, flops=flops, peak=peak, remembered=remembered)
    stream = batches(done)
    model.train()
    for step in range(done, config.steps):
        torch.manual_seed(int(hash64(config.seed, step, rank()) >> 1))  # dropout: from (seed, step), not from history
        rate, batch = learning_rate(step, config), next(stream)
        if batch is not None:
            set_rate(optimizer, rate)
            meter.add(step, update(model, optimizer, objective, batch, config, size))
            average.update()
        logging = due(step, config.log_every, config.steps)
        if logging:
            log(step + 1, meter.read() | {"train/learning_rate": rate})
        if validate and config.validate_every and due(step, config.validate_every, config.steps):
            with average.applied():
                score = validate()
            model.train()
            numbers |= {"best": score, "best_step": step + 1} if score > numbers.get("best", float("-inf")) else {}
        stopping = preemption.is_requested(at_log=logging)
        if due(step, config.save_every, config.steps) or stopping or numbers.get("best_step") == step + 1:
            meter.check()
            save(capture(plain, optimizer, average, step + 1, numbers | meter.memory()))
        if stopping and step + 1 < config.steps:
            raise preemption.Preempted(f"training was asked to end; its state after step {step + 1} is saved")
        if config.patience and step + 1 >= numbers.get("best_step", step + 1) + config.patience * config.validate_every:
            break
    average.apply()


def due(step: int, every: int, last: int) -> bool:
    """True every `every` updates and after the last one; `step` is 0-based."""
    return (step + 1) % every == 0 or step + 1 == last
