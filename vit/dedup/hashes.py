"""256-bit DCT codes of windows, flips and turns of an image, all from one small gray thumbnail.

The recipe is PDQ's (Facebook ThreatExchange, pdq/README.md): the low-frequency 16x16 block of a 64x64 DCT without
its first row and column, cut at the median. Codes are made from a thumbnail and in exact integer arithmetic, so
they do not depend on batch size, thread count or BLAS; do not mix them with codes of another implementation.
Flips and turns are sign changes and a transpose of the block, so no image is hashed twice.
"""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vit.dedup.views import Flip, View, Window
from vit.typing import Floats, Pixels

BITS, SIDE, BLOCK = 256, 64, 16
COLOUR_SIDE = 16
# What must be the same for two codes to be comparable.
SETTINGS: dict[str, str | int] = {
    "name": "dct256-thumb64",
    "version": 1,
    "bits": BITS,
    "decoder": "Pillow RGB, luma by ITU-R 601",
    "resampler": "Pillow bilinear with antialiasing",
}
# Exact sums: 255 * 64 * 512 < 2**24, so float32 holds the columns' transform, float64 the rest; the shift brings
# coefficients back below 2**24.
_SCALE, _SHIFT = 512, 2.0**-14
_BATCH = 128  # images transformed at a time: they stay in the processor's cache


def thumbnail(image: Image.Image) -> Pixels:
    """Luma of an RGB image squashed to uint8 [64, 64]."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def colours(image: Image.Image) -> Pixels:
    """Chroma (Cb, Cr; 128 is gray) of an RGB image squashed to uint8 [16, 16, 2]."""
    small = image.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small.convert("YCbCr"))[..., 1:]


def codes(thumbnails: Pixels, views: Sequence[View]) -> Pixels:
    """Codes uint8 [N, len(views), 32] of thumbnails [N, 64, 64], each cut to a window and then flipped."""
    result = np.empty((len(thumbnails), len(views), BITS // 8), dtype=np.uint8)
    windows = {window for window, _ in views}
    for start in range(0, len(thumbnails), _BATCH):
        blocks = _coefficients(thumbnails[start : start + _BATCH], windows)
        for place, (window, flip) in enumerate(views):
            result[start : start + _BATCH, place] = _cut(blocks[window], flip)
    return result


@functools.cache
def sampling(low: float, high: float, size: int, side: int = SIDE) -> Floats:
    """The matrix [size, side] that resamples the part low … high of a side; `size` divides `side`.

    Linear interpolation at `side` places, then averages of neighbours. Places outside repeat the edge.
    """
    place = np.clip((low + (np.arange(side) + 0.5) / side * (high - low)) * side - 0.5, 0, side - 1)
    weights = np.maximum(1 - np.abs(place[:, None] - np.arange(side)), 0)
    return weights.reshape(size, side // size, side).mean(axis=1)


def _coefficients(thumbnails: Pixels, windows: set[Window]) -> dict[Window, Floats]:
    """DCT coefficients of rows and columns 1 … 16 for each window: integers in float32 [N, 16, 16]."""
    images = thumbnails.astype(np.float32)
    result: dict[Window, Floats] = {}
    for left, right in sorted({(window.left, window.right) for window in windows}):
        # One small product per image: BLAS would start threads for a big one, which costs more than it gains.
        columns = (images @ _dct(left, right).T).astype(np.float64)  # N y u
        for window in windows:
            if (window.left, window.right) == (left, right):
                block = _dct(window.top, window.bottom).astype(np.float64) @ columns  # N v u
                result[window] = np.rint(block * _SHIFT).astype(np.float32)
    return result


@functools.cache
def _dct(low: float, high: float) -> Floats:
    """Basis functions 1 … 16 of the 64-point DCT-II on a part of the side, as integers in float32 [16, 64]."""
    waves = np.cos(np.pi / SIDE * np.arange(1, BLOCK + 1)[:, None] * (np.arange(SIDE) + 0.5))
    return np.rint(_SCALE * waves @ sampling(low, high, SIDE)).astype(np.float32)


def _cut(block: Floats, flip: Flip) -> Pixels:
    """Flip coefficients [N, 16, 16] and keep one bit of each, whether it is above the median; uint8 [N, 32]."""
    odd = np.where(np.arange(1, BLOCK + 1) % 2, -1, 1).astype(np.float32)
    block = block.transpose(0, 2, 1) if flip.transpose else block
    block = block * odd if flip.mirror else block
    block = block * odd[:, None] if flip.flip else block
    flat = block.reshape(-1, BITS)
    median = np.partition(flat, BITS // 2 - 1, axis=1)[:, BITS // 2 - 1]
    return np.packbits(flat > median[:, None], axis=1)
