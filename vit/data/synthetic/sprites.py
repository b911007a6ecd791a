"""mini_loc and mini_ori: the latents, labels and splits of VTAB's dSprites tasks, drawn with our own pixels.

Order and ranges of the latents are deepmind/dsprites-dataset's, the labels are google-research/task_adaptation's
(data/dsprites.py) and the splits are exactly the records of VTAB's (MD5 order of latent indices).
"""

import functools

import numpy as np

from vit.data.split import rank_order
from vit.data.synthetic.renderer import WHITE, heart, paint, place, regular
from vit.typing import Ints, Pixels

NUM_LATENTS = 3 * 6 * 40 * 32 * 32  # shape, scale, orientation, x, y; the last varies fastest
SIZE = 32  # pixels; the original has 64
# Positions in TFDS's one split "train", in MD5 order.
SPLITS = {"train800": slice(0, 800), "val200": slice(589_824, 590_024), "test": slice(663_552, 737_280)}
OUTLINES = (regular(4, 0.125), regular(32) * np.array([1.0, 0.5]), heart())


def split_keys(split: str) -> Ints:
    """Latent indices of VTAB's `train800`, `val200` or `test` (73,728) in their order, int64."""
    return _tfds_order()[SPLITS[split]]


def location(keys: Ints) -> Ints:
    """Labels of dsprites_loc: 16 bins of two horizontal positions."""
    return keys // 32 % 32 // 2


def orientation(keys: Ints) -> Ints:
    """Labels of dsprites_ori: 16 bins of two or three orientations."""
    return keys // 1024 % 40 * 2 // 5


def pixels(keys: Ints) -> Pixels:
    """White shapes on black, uint8 [len(keys), 32, 32, 3]; orientations 0 and 39 are the same, as in the original."""
    return np.stack([_sprite(key) for key in keys.tolist()])


def _sprite(key: int) -> Pixels:
    shape, scale = key // (6 * 40 * 1024), key // (40 * 1024) % 6
    angle = 2 * np.pi / 39 * (key // 1024 % 40)
    x, y = (7.5 + 17 * step / 31 for step in (key // 32 % 32, key % 32))
    outline = place(OUTLINES[shape], x=x, y=y, radius=7 * (0.5 + 0.1 * scale), angle=angle)
    return paint(SIZE, (0, 0, 0), [(outline, WHITE)])


@functools.cache
def _tfds_order() -> Ints:
    return rank_order("train", range(NUM_LATENTS))
