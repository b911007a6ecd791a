"""Which example belongs to which split: TFDS's MD5 order, and a train/val cut of every class by that order.

TFDS sorts each split by a hash of its keys, and the VTAB-1k splits are slices of that order. Computing it
needs the keys only, neither TensorFlow nor the images (tensorflow/datasets: core/hashing.py, core/writer.py).
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from vit.typing import Ints


def rank_key(split: str, key: int | str) -> int:
    """The 128-bit rank of `key`, ascending in TFDS's order of the split named `split`.

    Integers count as their decimal text, backslashes as slashes.
    """
    return int.from_bytes(_digest(split, key), "big")


def rank_order(split: str, keys: Iterable[int | str]) -> Ints:
    """Positions of the N `keys` sorted by `rank_key`, int64 [N]."""
    digests = bytearray()
    for key in keys:
        digests += _digest(split, key)
    ranks = np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    return np.lexsort((ranks[:, 1], ranks[:, 0]))


def train_or_val(keys: Sequence[str], labels: Ints, *, val_fraction: float, salt: str) -> list[str]:
    """`train` or `val` for each key, cutting every class alike.

    The first `num_val` examples of each class in the MD5 order of `salt` are `val`.
    """
    splits = ["train"] * len(keys)
    order = rank_order(salt, keys)
    order = order[np.argsort(labels[order], kind="stable")]
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        for position in order[start : start + num_val(count, val_fraction)].tolist():
            splits[position] = "val"
    return splits


def num_val(count: int, val_fraction: float) -> int:
    """How many of the `count` images of a class are val: at least one if there are two, never all."""
    return min(max(1, round(val_fraction * count)), count - 1)


def _digest(split: str, key: int | str) -> bytes:
    return _md5(f"{split}{key}".replace("\\", "/").encode()).digest()


_md5 = functools.partial(hashlib.md5, usedforsecurity=False)
