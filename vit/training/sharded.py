"""Parameters, gradients and optimiser spread over the ranks (FSDP2), and checkpoints of which each rank has a part.

The parts are safetensors files written by torch.distributed.checkpoint, beside our manifest. They are put together
again for any number of ranks, spread or not; a checkpoint of one piece can be spread likewise.
"""

import os
import shutil
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_parts  # pyright: ignore[reportUnknownVariableType]
from torch.distributed.checkpoint.state_dict_saver import save as save_parts  # pyright: ignore[reportUnknownVariableType]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vit.models.masked import MaskedPatchPrediction
from vit.models.vit import ViT
from vit.training import checkpoint
from vit.training.checkpoint import STATE, Checkpoints, State
from vit.training.distributed import barrier, device, from_rank_0, rank, world_size


def shard(model: nn.Module) -> None:
    """Spread a network over the ranks in place: block by block, so that only one is whole at a time."""
    mesh = init_device_mesh(device().type, (world_size(),))
    body = model.vit if isinstance(model, MaskedPatchPrediction) else model
    if isinstance(body, ViT):
        for block in body.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def save(checkpoints: Checkpoints, state: State) -> None:
    """Write a checkpoint, every rank its part; call it on all of them. Raises OSError on every rank if one cannot."""
    work = checkpoints.directory / f".{checkpoint.name(state.step)}.writing-{from_rank_0(os.getpid())}"
    if rank() == 0:
        for leftover in checkpoints.directory.glob(".step-*.writing-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    barrier()
    failure = None
    try:
        writer = HuggingFaceStorageWriter(str(work), save_distributed=True)
        save_parts(dict(state.tensors), storage_writer=writer)
        if rank() == 0:
            checkpoint.finish(checkpoints, state.step, state.numbers, work)
    except Exception as error:  # dcp has its own for what happens on another rank
        failure = str(error)
        shutil.rmtree(work, ignore_errors=True)
    failures: list[str | None] = [None] * world_size()
    dist.all_gather_object(failures, failure)
    failed = next((text for text in failures if text is not None), None)
    if failed is not None:
        raise OSError(failed)


def load(checkpoints: Checkpoints, step: int, model: nn.Module) -> State:
    """The state after `step`, each tensor spread as the parameter of `model` that it belongs to.

    Raises BadCheckpoint if it is damaged.
    """
    path = checkpoints.directory / checkpoint.name(step)
    manifest = checkpoint.verified(path, fingerprint=checkpoints.fingerprint)
    like = dict(model.state_dict())
    if STATE in manifest.files:
        tensors = {name: _spread(tensor, like.get(_owner(name))) for name, tensor in load_file(path / STATE).items()}
        return State(step=manifest.step, tensors=tensors, numbers=manifest.numbers)
    tensors: dict[str, Tensor] = {}
    for name in _names(path):
        own = name.startswith("optimizer.step.")  # a number, not of the parameter's shape
        tensors[name] = torch.zeros(()) if own else torch.zeros_like(like[_owner(name)])
    load_parts(dict(tensors), storage_reader=HuggingFaceStorageReader(str(path)), no_dist=world_size() == 1)
    return State(step=manifest.step, tensors=tensors, numbers=manifest.numbers)


def _names(path: Path) -> set[str]:
    """Of all tensors of which there is a part."""
    names: set[str] = set()
    for file in path.glob("*.safetensors"):
        with cast(Any, safe_open(file, "pt")) as part:
            names.update(part.keys())
    return names


def _owner(name: str) -> str:
    """The parameter or buffer that a tensor of a state belongs to."""
    part, _, rest = name.partition(".")
    return rest.partition(".")[2] if part == "optimizer" else rest


def _spread(tensor: Tensor, like: Tensor | None) -> Tensor:
    if not isinstance(like, DTensor) or tensor.ndim != like.ndim:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
