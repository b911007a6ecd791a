"""The sample order: a pure function of (seed, epoch, position), the same for any number of workers.

An epoch is a permutation of all examples. It is cut into global batches first and each batch into ranks
second, so the ids of step s are the same for 1, 2, 4 or 8 workers and after any stop and resume. The
permutation sorts a 64-bit hash of the position (splitmix64), so it does not change with NumPy's version.
"""

import functools

import numpy as np

from vit.typing import Ints

GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's increment, Steele et al. 2014


def hash64(*values: int | Ints) -> Ints:
    """Mix integers and integer arrays (broadcast together) into uint64 hashes."""
    with np.errstate(over="ignore"):
        mixed = np.uint64(0)
        for value in values:
            mixed = _splitmix64(mixed ^ np.asarray(value).astype(np.uint64))
    return np.asarray(mixed, dtype=np.uint64)


def permutation(seed: int, epoch: int, size: int) -> Ints:
    """All of 0 … size-1 in the order of this epoch, int64 [size]."""
    return np.argsort(hash64(seed, epoch, np.arange(size)), kind="stable")


def batch_ids(
    step: int, *, seed: int, size: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> tuple[Ints, Ints]:
    """Ids of this rank's examples at `step` (0-based), and their epochs; both int64 [batch_size / world_size].

    Batches run on across the end of an epoch, so every example is seen equally often and none is dropped.
    Raises ValueError if the workers cannot share the batch equally.
    """
    if batch_size % world_size:
        raise ValueError(
            f"a global batch of {batch_size} cannot be split over {world_size} workers; nearest batch sizes are "
            f"{batch_size // world_size * world_size} and {(batch_size // world_size + 1) * world_size}"
        )
    share = batch_size // world_size
    positions = step * batch_size + rank * share + np.arange(share)
    epochs = positions // size
    ids = np.empty(share, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        ids[here] = _permutation(seed, int(epoch), size)[positions[here] % size]
    return ids, epochs


# Two epochs: a batch may straddle the boundary.
_permutation = functools.lru_cache(maxsize=2)(permutation)


def _splitmix64(x: Ints) -> Ints:
    x = x + np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
