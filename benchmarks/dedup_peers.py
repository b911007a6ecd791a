"""What others offer for the same question, at their own defaults: pdqhash, imagehash, imagededup.

imagededup's PHash is asked for its own encodings; its search is over hashes of one directory and cannot be told which
side is which, so the distances are counted here, by the same loop as the others'.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import imagehash
import numpy as np
import pdqhash
from imagededup.methods import PHash
from PIL import Image

from vit.typing import Ints, Pixels


class Peer(NamedTuple):
    """A hash, the distance up to which its authors call two images alike, and how to make it."""

    name: str
    radius: int
    encode: Callable[[Image.Image], list[Pixels]]  # packed bits; several where the method hashes flips as well


def _pdq(image: Image.Image) -> list[Pixels]:
    return [np.packbits(pdqhash.compute(np.asarray(image))[0])]


def _pdq_dihedral(image: Image.Image) -> list[Pixels]:
    return [np.packbits(bits) for bits in pdqhash.compute_dihedral(np.asarray(image))[0]]


def _of(kind: Callable[..., Any], size: int) -> Callable[[Image.Image], list[Pixels]]:
    return lambda image: [np.packbits(kind(image, hash_size=size).hash)]


_PHASH = PHash(verbose=False)


def _imagededup(image: Image.Image) -> list[Pixels]:
    encoded = str(_PHASH.encode_image(image_array=np.asarray(image)))
    return [np.frombuffer(bytes.fromhex(encoded), np.uint8)]


PEERS = (
    Peer("pdqhash <=31", 31, _pdq),
    Peer("pdqhash, 8 dihedral <=31", 31, _pdq_dihedral),
    Peer("imagehash phash-64 equal", 0, _of(imagehash.phash, 8)),
    Peer("imagehash phash-64 <=10", 10, _of(imagehash.phash, 8)),
    Peer("imagehash dhash-64 <=4", 4, _of(imagehash.dhash, 8)),
    Peer("imagededup PHash <=10", 10, _imagededup),
)


def pairs(peer: Peer, train: Sequence[bytes], test: Sequence[bytes]) -> Ints:
    """(train, test) of all pairs within the peer's radius, int64 [P, 2]; flips are hashed on the training side."""
    ours, theirs = (
        [peer.encode(Image.open(io.BytesIO(data)).convert("RGB")) for data in side] for side in (train, test)
    )
    first = np.stack([codes[0] for codes in theirs])
    found = [
        (i, int(j))
        for i, codes in enumerate(ours)
        for j in np.flatnonzero(
            np.min([np.bitwise_count(first ^ code).sum(axis=1) for code in codes], axis=0) <= peer.radius
        )
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 2)
