"""The sample order: a pure function of (seed, epoch, position), the same for any number of workers.

An epoch is an arrangement of all examples. It is cut into global batches first and each batch into ranks second, so
the ids of step s are the same for 1, 2, 4 or 8 workers and after any stop and resume. All randomness is a 64-bit hash
(splitmix64), so the order does not change with NumPy's version. Three options of the same function:

- `window`: for streaming, shards are permuted and then examples within windows of fixed length, so that only the
  shards of a window or two are needed at a time (instead of all of them, all the time);
- `balance`: rare classes are shown more often, common ones less; an epoch keeps its length;
- `repeats`: every example is shown several times in succession, each time changed in another way (Hoffer et al. 2020).
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from vit.typing import Floats, Ints

GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's increment, Steele et al. 2014
# Keep the draws of different uses of the same seed and epoch apart; the plain permutation has no such word.
_SHARDS, _ROTATION, _CLASSES = 0x5A4D, 0x4074, 0xC1A5


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """How training images are chosen and shuffled."""

    window: int  # examples shuffled together when streaming, several shards' worth; 0 shuffles the whole corpus
    repeats: int  # times an image is shown in succession; 1 is usual, DeiT III has 3
    balance: float  # 0: as often as in the corpus; 1: every class equally often; 0.5: square root in between

    def __post_init__(self) -> None:
        if self.window < 0:
            raise ValueError(f"window {self.window} must be 0 (shuffle everything) or a number of examples")
        if self.repeats < 1:
            raise ValueError(f"repeats {self.repeats} must be at least 1")
        if not 0 <= self.balance <= 1:
            raise ValueError(f"balance {self.balance} must be between 0 (natural) and 1 (every class equally often)")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """What the order of a corpus depends on. One of them serves all epochs; epochs are remembered, not recomputed."""

    seed: int
    config: OrderConfig
    labels: Ints  # int64 [N], one per example; read if config.balance
    shard_sizes: Ints  # int64, examples of each shard in the order of their ids; read if config.window

    def __post_init__(self) -> None:
        if self.config.window and int(np.sum(self.shard_sizes)) != len(self.labels):
            raise ValueError(f"shards of {int(np.sum(self.shard_sizes))} examples do not make {len(self.labels)}")
        if self.config.balance and len(self.labels) and int(self.labels.min()) < 0:
            raise ValueError("balance needs a label for every image, but some have none: set balance to 0")

    @property
    def length(self) -> int:
        """Positions in an epoch."""
        return len(self.labels) * self.config.repeats


class Samples(NamedTuple):
    """Which examples to show; all int64 [B]."""

    ids: Ints
    epochs: Ints
    positions: Ints  # within the epoch


def hash64(*values: int | Ints) -> Ints:
    """Mix integers and integer arrays (broadcast together) into uint64 hashes."""
    with np.errstate(over="ignore"):
        mixed = np.uint64(0)
        for value in values:
            mixed = _splitmix64(mixed ^ np.asarray(value).astype(np.uint64))
    return np.asarray(mixed, dtype=np.uint64)


def uniform64(*values: int | Ints) -> Floats:
    """The same as numbers in [0, 1), float64."""
    return (hash64(*values) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, size: int) -> Ints:
    """All of 0 … size-1 in the order of this epoch, int64 [size]."""
    return np.argsort(hash64(seed, epoch, np.arange(size)), kind="stable")


def two_level(seed: int, epoch: int, shard_sizes: Ints, window: int) -> Ints:
    """All of 0 … N-1, N the sum of `shard_sizes`: shards in random order, then a shuffle within windows; int64 [N].

    An epoch begins at a random place of a shard, which comes again at the end: so every place in the order is equally
    likely for every example, and the edges of windows, which nothing crosses, differ from epoch to epoch.
    """
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    shards = np.argsort(hash64(_SHARDS, seed, epoch, np.arange(len(sizes))), kind="stable")
    starts, lengths = (np.cumsum(sizes) - sizes)[shards], sizes[shards]
    places = np.arange(int(sizes.sum()), dtype=np.int64)
    rows = places + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    rows = np.roll(rows, -(int(hash64(_ROTATION, seed, epoch)) % len(rows)))
    # One sort instead of two: the window's number above 40 bits of the hash.
    keys = (places // window).astype(np.uint64) << np.uint64(40) | hash64(seed, epoch, places) >> np.uint64(24)
    return rows[np.argsort(keys, kind="stable")]


def balanced(seed: int, epoch: int, labels: Ints, balance: float) -> Ints:
    """Ids of an epoch of class-balanced sampling, ascending, some repeated or left out; int64 [N], N as many as labels.

    Class c gets a share proportional to n_c^(1 - balance). Within a class every example is shown equally often over the
    epochs, give or take one.
    """
    counts = np.bincount(labels)
    wanted = np.where(counts > 0, counts.astype(np.float64) ** (1 - balance), 0.0)
    shares = _whole(wanted / wanted.sum() * len(labels), len(labels))
    ranks = np.empty(len(labels), dtype=np.int64)  # of each example within its class, in an order of the seed's
    by_class = np.lexsort((hash64(_CLASSES, seed, np.arange(len(labels))), labels))
    ranks[by_class] = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[by_class]]
    n, share = counts[labels], shares[labels]
    times = share // n + ((ranks - epoch * share) % n < share % n)
    return np.repeat(np.arange(len(labels)), times)


def epoch_ids(order: Order, epoch: int) -> Ints:
    """All ids of an epoch in the order they are shown, before repeats; int64 [N]."""
    size, config = len(order.labels), order.config
    if not config.balance:
        if not config.window:
            return permutation(order.seed, epoch, size)
        return two_level(order.seed, epoch, order.shard_sizes, config.window)
    ids = balanced(order.seed, epoch, order.labels, config.balance)
    if not config.window:
        return ids[permutation(order.seed, epoch, size)]
    edges = np.concatenate([[0], np.cumsum(order.shard_sizes)])
    return ids[two_level(order.seed, epoch, np.diff(np.searchsorted(ids, edges)), config.window)]


def samples_at(order: Order, places: Ints) -> Samples:
    """The examples at these places of the endless sequence: epoch 0, then epoch 1, …"""
    epochs, positions = places // order.length, places % order.length
    ids = np.empty(len(places), dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        ids[here] = _epoch_ids(order, int(epoch))[positions[here] // order.config.repeats]
    return Samples(ids, epochs, positions)


def batch(order: Order, step: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> Samples:
    """This rank's examples of the global batch of `step` (0-based), batch_size / world_size of them.

    Batches run on across the end of an epoch, so every example is seen equally often and none is dropped.
    Raises ValueError if the workers cannot share the batch equally.
    """
    return samples_at(order, share(step, batch_size=batch_size, rank=rank, world_size=world_size))


def batch_ids(
    step: int, *, seed: int, size: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> tuple[Ints, Ints]:
    """Ids of this rank's examples at `step` (0-based) of the plain order, and their epochs; as `batch`."""
    places = share(step, batch_size=batch_size, rank=rank, world_size=world_size)
    epochs = places // size
    ids = np.empty(len(places), dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        ids[here] = _permutation(seed, int(epoch), size)[places[here] % size]
    return ids, epochs


def share(step: int, *, batch_size: int, rank: int, world_size: int) -> Ints:
    """Places in the endless sequence that belong to this rank at `step`; int64 [batch_size / world_size]."""
    if batch_size % world_size:
        raise ValueError(
            f"a global batch of {batch_size} cannot be split over {world_size} workers; nearest batch sizes are "
            f"{batch_size // world_size * world_size} and {(batch_size // world_size + 1) * world_size}"
        )
    count = batch_size // world_size
    return step * batch_size + rank * count + np.arange(count)


# A batch may straddle two epochs, and a reader ahead may be in the next one already.
_permutation = functools.lru_cache(maxsize=2)(permutation)
_epoch_ids = functools.lru_cache(maxsize=3)(epoch_ids)


def _whole(shares: Floats, total: int) -> Ints:
    """Round to whole numbers that add up to `total`: the largest remainders are rounded up."""
    floors = np.floor(shares).astype(np.int64)
    most = np.argsort(floors - shares, kind="stable")[: total - int(floors.sum())]
    floors[most] += 1
    return floors


def _splitmix64(x: Ints) -> Ints:
    x = x + np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
