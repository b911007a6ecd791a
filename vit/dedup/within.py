"""Which images of one set may repeat another one, and which have so many look-alikes that they are a template.

Whole frames are compared in all eight flips. Scans, charts, masks and sprites share a frame with thousands of others:
such images are compared exactly only, and said so, instead of being matched with each other.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from vit.dedup.codes import codes, views_of
from vit.dedup.join import HammingIndex
from vit.dedup.prints import Prints
from vit.dedup.tiers import Tier
from vit.dedup.views import FLIPS, FULL
from vit.typing import Ints, Pixels

CROWD = 32  # other images of a set that an image may resemble; with more of them they share a template
QUERIES = 64  # searched at a time: in a template every one of them meets every other
BUILD = 1024  # images hashed at a time
TEMPLATE = f"templated: more than {CROWD} others look alike as whole frames, so only exact copies inside the set count"
FLAT = "flat: too little structure to compare, so only exact copies count"


class Alike(NamedTuple):
    """Of the images of a set, by their rows."""

    near: Ints  # int64, those to compare with the others in full
    exact: list[tuple[int, int]]  # pairs with the same pixels, of those that are not compared in full
    notes: list[tuple[int, str]]  # why they are not


def look(prints: Prints, tier: Tier) -> Alike:
    """What is to be done about duplicates inside a set of complete prints."""
    near, crowded = neighbours(whole_codes(prints), prints.is_flat, tier)
    notes = dict.fromkeys(prints.rows[crowded].tolist(), TEMPLATE)
    notes |= dict.fromkeys(prints.rows[np.flatnonzero(prints.is_flat)].tolist(), FLAT)
    groups = (prints.rows[group].tolist() for group in equal(prints.pixel_digests))
    exact = [(group[0], other) for group in groups for other in group[1:] if other in notes]
    return Alike(prints.rows[near], exact, sorted(notes.items()))


def whole_codes(prints: Prints) -> Pixels:
    """Codes uint8 [N, 8, 32] of whole frames in all flips."""
    views = views_of([FULL], FLIPS)
    made = np.empty((len(prints.rows), len(views), 32), dtype=np.uint8)
    for start in range(0, len(made), BUILD):
        thumbnails = np.ascontiguousarray(prints.thumbnails[start : start + BUILD])
        made[start : start + BUILD] = codes(thumbnails, prints.sizes[start : start + BUILD], views)
    return made


def neighbours(whole: Pixels, is_flat: Ints, tier: Tier) -> tuple[Ints, Ints]:
    """Rows of `whole_codes` that are near a few other rows' in some flip, and near more than CROWD; no flat ones."""
    rows = np.flatnonzero(~is_flat)
    index = HammingIndex(whole[rows].reshape(-1, 32), radius=tier.radius)
    counts = np.zeros(len(is_flat), dtype=np.int64)
    for start in range(0, len(rows), QUERIES):
        some = rows[start : start + QUERIES]
        # So many rows, each image in all its flips, are enough to see that there are more than CROWD others.
        found = index.met(np.ascontiguousarray(whole[some, 0]), tier.reach, most=(CROWD + 2) * whole.shape[1])
        query, other = some[found.query], rows[found.row // whole.shape[1]]
        pairs = np.unique(query[query != other] * len(is_flat) + other[query != other])
        counts += np.bincount(pairs // len(is_flat), minlength=len(is_flat))
    return np.flatnonzero((counts > 0) & (counts <= CROWD)), np.flatnonzero(counts > CROWD)


def equal(digests: Pixels) -> list[list[int]]:
    """Groups of rows of uint8 [N, 32] with the same digest."""
    rows: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        rows[digest.tobytes()].append(row)
    return [group for group in rows.values() if len(group) > 1]
