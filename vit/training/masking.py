"""Masked patch prediction in the training loop: batches that say what is hidden, and a score (paper §4.6, B.1.2)."""

from collections.abc import Iterator

import numpy as np
import torch

from vit.data.augment import AugmentConfig
from vit.data.loader import Stream
from vit.data.order import Order, batch
from vit.data.shards import Shards
from vit.data.views import View
from vit.models.masked import Corruption, MaskedPatchPrediction, corruption, draws_from_ids
from vit.training.config import TrainConfig
from vit.training.distributed import device, rank, sum_over_ranks, world_size
from vit.training.objective import Batch
from vit.training.scoring import shared_batches
from vit.typing import Ints

VALIDATION_SEED = 0  # of what is hidden when a model is scored


def masked(
    stream: Stream,
    model: MaskedPatchPrediction,
    shards: Shards,
    train: TrainConfig,
    augment: AugmentConfig,
    first_step: int,
) -> Iterator[Batch]:
    """The images of a stream, with what to hide of each instead of its label; depends on (seed, step) alone."""
    order = Order(seed=train.seed, config=augment.order, labels=shards.labels, shard_sizes=shards.shard_sizes)
    for step, (images, _) in enumerate(stream, first_step):
        mine = batch(order, step, batch_size=train.batch_size, rank=rank(), world_size=world_size())
        yield images, plan(model, mine.ids, mine.epochs, seed=train.seed)


@torch.inference_mode()
def loss(model: MaskedPatchPrediction, shards: Shards, resolution: int, view: View) -> float:
    """Mean loss over all images of the shards, shared out over the ranks; the same patches are hidden every time."""
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device())
    for images, _, rows in shared_batches(shards, resolution=resolution, view=view):
        ids = rows if len(rows) else np.zeros(1, dtype=np.int64)
        total += model(images, plan(model, ids, np.zeros_like(ids), seed=VALIDATION_SEED)).double() * len(rows)
    return (sum_over_ranks(total) / len(shards)).item()


def plan(model: MaskedPatchPrediction, ids: Ints, epochs: Ints, *, seed: int) -> Corruption:
    """What happens to the patches of these images; drawn on the CPU, so that every device hides the same ones."""
    draws = draws_from_ids(ids, epochs, seed=seed, num_patches=model.vit.config.grid**2)
    chosen = corruption(draws, model.config)
    return Corruption(*(tensor.to(device(), non_blocking=True) for tensor in chosen))
