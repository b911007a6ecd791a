"""One update: this rank's share of the global batch, in as many passes as its memory needs, then the optimiser."""

import contextlib
from collections.abc import Callable, Generator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from vit.training.config import TrainConfig
from vit.training.distributed import whole
from vit.training.objective import Batch, Objective, split


def update(  # noqa: PLR0913  each by itself, as in the loop
    model: nn.Module,
    optimizer: Optimizer,
    objective: Objective,
    batch: Batch,
    config: TrainConfig,
    micro_batch: int,
    mark: Callable[[str], None] = lambda part: None,
) -> dict[str, Tensor]:
    """The objective's means over the batch and `grad_norm` (global, before clipping), scalars left on the device.

    Gradients are means over the batch however it is split: passes of `micro_batch` images weigh as many as they are.
    `mark` is told when a part (forward, backward, optimizer) has been handed to the device.
    """
    share = len(batch[0])
    values: dict[str, Tensor] = {}
    for index, part in enumerate(split(batch, micro_batch)):
        with _alone(model, (index + 1) * micro_batch < share), _autocast(batch[0].device, config):
            found = objective(model, part)
            mark("forward")
            if micro_batch < share:
                found = {name: value * (len(part[0]) / share) for name, value in found.items()}
            found["loss"].backward()
            mark("backward")
        values = {name: value.detach() + values[name] if values else value.detach() for name, value in found.items()}
    values["grad_norm"] = _clip(model, config.grad_clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    mark("optimizer")
    return values


def _clip(model: nn.Module, limit: float) -> Tensor:
    """Scale gradients to a global norm of at most `limit`, if that is not 0; returns the norm before."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if limit:
        norm = nn.utils.clip_grad_norm_(parameters, limit)
    else:
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return whole(norm)


@contextlib.contextmanager
def _alone(model: nn.Module, enabled: bool) -> Generator[None]:
    """Keep gradients to this rank: all but the last pass of an update need not tell the others."""
    if enabled and isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


def _autocast(device: torch.device, config: TrainConfig) -> contextlib.AbstractContextManager[object]:
    if config.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
