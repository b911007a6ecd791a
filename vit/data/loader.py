"""Batches for the training loop: decoded and augmented by threads ahead of time, in our own sample order."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from vit.data.augment import AugmentConfig, augment, draws, resize
from vit.data.order import batch_ids
from vit.data.shards import Shards
from vit.training.distributed import device, rank, world_size
from vit.typing import Pixels

AHEAD = 3  # batches being prepared while one is trained on


def training_batches(
    shards: Shards, *, resolution: int, config: AugmentConfig, batch_size: int, seed: int, first_step: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of every batch from `first_step` on, without end: images B 3 R R in [-1, 1], labels B.

    Depends on (seed, step) only: the global batch is the same for any number of ranks.
    Raises UnreadableImage or BadShard naming the image or shard.
    """
    ranks = {"rank": rank(), "world_size": world_size()}

    def batch(step: int) -> tuple[Pixels, Tensor]:
        ids, epochs = batch_ids(step, seed=seed, size=len(shards), batch_size=batch_size, **ranks)
        uniform = draws(seed, epochs, ids)
        views = [augment(shards.image(int(i)), resolution, row, config) for i, row in zip(ids, uniform, strict=True)]
        return np.stack(views), torch.from_numpy(shards.labels[ids])

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as pool:
        steps = itertools.count(first_step)
        waiting = [pool.submit(batch, step) for step in itertools.islice(steps, AHEAD)]
        try:
            while True:
                images, labels = waiting.pop(0).result()
                waiting.append(pool.submit(batch, next(steps)))
                yield to_input(images), labels.to(device())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def evaluation_batches(
    shards: Shards, rows: range, *, resolution: int, batch_size: int = 256
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images of the given rows in order, whole pictures squashed to a square: images B 3 R R in [-1, 1], labels B."""
    for start in range(0, len(rows), batch_size):
        ids = rows[start : start + batch_size]
        images = np.stack([resize(shards.image(i), resolution) for i in ids])
        yield to_input(images), torch.from_numpy(shards.labels[list(ids)]).to(device())


def to_input(images: Pixels) -> Tensor:
    """uint8 pixels [B, R, R, 3] to the network's float32 [B, 3, R, R] in [-1, 1], on this rank's device."""
    return torch.from_numpy(images).to(device()).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()
