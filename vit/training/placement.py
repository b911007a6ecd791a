"""How fast and where a step runs, from the environment: nothing here changes what is computed, but for rounding.

| variable | meaning |
|---|---|
| VITFLOW_MICRO_BATCH | images of one forward and backward pass of one worker; unset: its whole share of the batch |
| VITFLOW_COMPILE | 1: torch.compile. The same formulas in other kernels: last bits differ, as between two GPUs |
| VITFLOW_RECOMPUTE | 1: keep only the inputs of blocks and compute the rest again (activation checkpointing) |
| VITFLOW_SHARD | 1: parameters, gradients and optimiser are spread over the workers (FSDP2) |
"""

import os
from typing import Any

import torch
from torch import nn

from vit.models.build import Model
from vit.models.masked import MaskedPatchPrediction
from vit.models.vit import ViT
from vit.training.config import TrainConfig
from vit.training.distributed import world_size, wrap


def micro_batch(batch_size: int, workers: int) -> int:
    """Images per pass of one worker.

    Raises ValueError naming the nearest possible values if the workers cannot share the batch, or the passes not the
    share.
    """
    if batch_size % workers:
        low = batch_size // workers * workers
        near = " and ".join(str(size) for size in (low, low + workers) if size)
        raise ValueError(
            f"a global batch of {batch_size} cannot be split over {workers} workers; nearest batch sizes are {near}"
        )
    share = batch_size // workers
    text = os.environ.get("VITFLOW_MICRO_BATCH", "")
    if not text:
        return share
    if not text.isdecimal() or not int(text):
        raise ValueError(f"VITFLOW_MICRO_BATCH is {text!r}, but must be a whole number of images, 1 or more")
    wanted = min(int(text), share)
    if share % wanted:
        possible = [size for size in range(1, share + 1) if share % size == 0]
        low, high = max(s for s in possible if s < wanted), min(s for s in possible if s > wanted)
        raise ValueError(
            f"VITFLOW_MICRO_BATCH {wanted} does not divide the {share} images of a worker (batch {batch_size}, "
            f"{workers} workers); nearest are {low} and {high}"
        )
    return wanted


def is_on(switch: str) -> bool:
    """Whether VITFLOW_`switch` is 1. Raises ValueError if it is neither 1, 0 nor unset."""
    text = os.environ.get(f"VITFLOW_{switch}", "0")
    if text not in ("0", "1"):
        raise ValueError(f"VITFLOW_{switch} is {text!r}, but must be 1 (on) or 0 (off)")
    return text == "1"


def place(model: nn.Module, config: TrainConfig) -> nn.Module:
    """The model as this process trains it: with stochastic depth, recomputing, compiled and over the ranks, as asked.

    Raises ValueError if the network cannot do what is asked of it, or the switches exclude each other.
    """
    body = model.vit if isinstance(model, MaskedPatchPrediction) else model
    if config.stochastic_depth and not isinstance(body, ViT):
        raise ValueError(f"stochastic_depth {config.stochastic_depth}: only a ViT can leave blocks out; set it to 0")
    if isinstance(body, ViT):
        body.set_stochastic_depth(config.stochastic_depth)
    if is_on("RECOMPUTE") and isinstance(body, Model):
        body.set_grad_checkpointing(True)
    if is_on("SHARD") and is_on("COMPILE"):
        raise ValueError("VITFLOW_SHARD and VITFLOW_COMPILE together are not supported: switch one of them off")
    if is_on("SHARD") and world_size() > 1:
        from vit.training.sharded import shard

        shard(model)
        return model
    network: Any = torch.compile(model) if is_on("COMPILE") else model
    return wrap(network)
