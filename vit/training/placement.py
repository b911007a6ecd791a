"""How fast and where a step runs, from the environment: nothing here changes what is computed, but for rounding.

| variable | meaning |
|---|---|
| VITFLOW_MICRO_BATCH | images of one forward and backward pass of one worker; unset: its whole share of the batch |
| VITFLOW_COMPILE | 1: torch.compile, 0: never; unset: long trainings on a GPU. Last bits differ, as between two GPUs |
| VITFLOW_RECOMPUTE | 1: keep only the inputs of blocks and compute the rest again (activation checkpointing) |
| VITFLOW_SHARD | 1: parameters, gradients and optimiser are spread over the workers (FSDP2) |
"""

import logging
import os
import shutil

from torch import nn

from vit.models.build import Model
from vit.models.masked import MaskedPatchPrediction
from vit.models.patch_embed import HybridEmbed
from vit.models.vit import ViT
from vit.training.config import TrainConfig
from vit.training.distributed import device, world_size, wrap

logger = logging.getLogger("vitflow.train")
COMPILE_STEPS = 1000  # fewer are over before the seconds that compiling takes have paid


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
    if compiles(config.steps):
        compile_parts(body)
    if is_on("SHARD") and world_size() > 1:
        from vit.training.sharded import shard

        shard(model)
        return model
    return wrap(model)


def compiles(steps: int) -> bool:
    """Whether a training of so many updates is compiled: VITFLOW_COMPILE, else what is faster here.

    On an H200 it makes ViT-B/16 1.15 times as fast, for seconds (docs/scaling.md). A CPU gains next to nothing.
    """
    if os.environ.get("VITFLOW_COMPILE"):
        return is_on("COMPILE")
    if device().type != "cuda" or steps < COMPILE_STEPS:
        return False
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        logger.warning("not compiled, for want of a C compiler: install gcc to train faster, or set VITFLOW_COMPILE=0")
        return False
    return True


def compile_parts(body: nn.Module) -> None:
    """Compile, in place, what takes the time: a ViT's blocks, which are alike (once compiled serves them all, and they
    can be spread over ranks), a hybrid's ResNet, and other networks as a whole.
    """
    if not isinstance(body, ViT):
        body.compile()
        return
    for block in body.blocks:
        block.compile()
    if isinstance(body.patch_embed, HybridEmbed):
        body.patch_embed.backbone.compile()
