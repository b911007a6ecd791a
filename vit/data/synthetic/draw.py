"""Random numbers as pure functions of a stream's name and an index: the order of the draws never matters."""

import hashlib

import numpy as np

from vit.data.order import hash64
from vit.typing import Floats, Ints


def bits(stream: str, *index: int | Ints) -> Ints:
    """uint64 hashes of (stream, index …); index arrays are broadcast together."""
    salt = int.from_bytes(hashlib.md5(stream.encode(), usedforsecurity=False).digest()[:8], "big")
    return hash64(salt, *index)


def uniform(stream: str, *index: int | Ints, low: float = 0.0, high: float = 1.0) -> Floats:
    """float64 in [low, high), with the broadcast shape of the index arrays."""
    return low + (high - low) * ((bits(stream, *index) >> np.uint64(11)) * 2.0**-53)


def integers(stream: str, *index: int | Ints, count: int) -> Ints:
    """int64 in 0 … count-1, with the broadcast shape of the index arrays."""
    return np.floor(uniform(stream, *index) * count).astype(np.int64)


def shuffled(stream: str, size: int) -> Ints:
    """All of 0 … size-1 in an order that the stream fixes, int64 [size]."""
    return np.argsort(bits(stream, np.arange(size)), kind="stable")


def cos_sin(angle: Floats) -> Floats:
    """Cosines and sines of radians [...], as [2, ...], rounded: processors differ in the last bits, pixels must not."""
    return np.round(np.stack([np.cos(angle), np.sin(angle)]), 9)
