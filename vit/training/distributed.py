"""Rank, world size and means over ranks; alone in a process all of them are trivial."""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    return dist.get_rank() if _is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if _is_distributed() else 1


def device() -> torch.device:
    """This rank's device: its GPU if there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def wrap(model: nn.Module) -> nn.Module:
    """The model as data-parallel replicas if there are several ranks."""
    return DistributedDataParallel(model, gradient_as_bucket_view=True) if world_size() > 1 else model


def unwrap(model: nn.Module) -> nn.Module:
    """The network itself, inside replicas."""
    return cast("nn.Module", model.module) if isinstance(model, DistributedDataParallel) else model


def is_spread(model: nn.Module) -> bool:
    """Whether each rank has but a part of every parameter (vit.training.sharded, whose import costs a second)."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be spread over the ranks, in one piece on each."""
    return cast(Any, tensor).full_tensor() if hasattr(tensor, "full_tensor") else tensor


def mean_over_ranks(value: Tensor) -> Tensor:
    return sum_over_ranks(value) / world_size()


def sum_over_ranks(value: Tensor) -> Tensor:
    value = value.clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def from_rank_0(value: Any) -> Any:
    """What rank 0 passed, on every rank."""
    box = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
