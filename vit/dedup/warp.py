"""Thumbnails resampled in integer arithmetic: shrunk, turned, and seen through any affine map."""

import math
from typing import Any

import numpy as np

from vit.dedup.compiled import compiled
from vit.typing import Floats, Ints, Pixels

SIDE = 128
_ONE = 256  # fixed-point unit of a bilinear weight


@compiled
def shrink(image: Pixels, result: Pixels) -> None:
    """Squash a plane [H, W] to [128, 128]: the average over the area of each pixel, linear where it enlarges."""
    height, width = image.shape
    lines = np.empty((SIDE, width), dtype=np.int64)
    for y in range(SIDE):
        first, last, weights, total = _taps(y, height)
        lines[y] = 0
        for k in range(first, last):
            weight = weights[k - first]
            for x in range(width):
                lines[y, x] += weight * image[k, x]
    down = height if height >= SIDE else 2 * SIDE
    for x in range(SIDE):
        first, last, weights, total = _taps(x, width)
        for y in range(SIDE):
            value = 0
            for k in range(first, last):
                value += weights[k - first] * lines[y, k]
            result[y, x] = (2 * value + total * down) // (2 * total * down)


@compiled
def _taps(place: int, size: int) -> tuple[int, int, Ints, int]:
    """Which of `size` samples make output `place` of 128, their integer weights and the weights' sum."""
    if size >= SIDE:  # overlap of [place * size, (place + 1) * size) with [k * 128, (k + 1) * 128)
        first, last = place * size // SIDE, ((place + 1) * size + SIDE - 1) // SIDE
        weights = np.empty(last - first, dtype=np.int64)
        for k in range(first, last):
            weights[k - first] = min((place + 1) * size, (k + 1) * SIDE) - max(place * size, k * SIDE)
        return first, last, weights, size
    at = min(max((2 * place + 1) * size - SIDE, 0), 2 * SIDE * (size - 1))  # in 1/256 of a sample
    first = min(at // (2 * SIDE), max(size - 2, 0))
    if size == 1:
        return 0, 1, np.full(1, 2 * SIDE, dtype=np.int64), 2 * SIDE
    weights = np.empty(2, dtype=np.int64)
    weights[1] = at - first * 2 * SIDE
    weights[0] = 2 * SIDE - weights[1]
    return first, first + 2, weights, 2 * SIDE


def rotation(turn: float, width: float, height: float) -> Floats:
    """Affine map [2, 3] of the unit square: where to look in a frame of this shape to see it turned clockwise."""
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    a, b = cosine, sine * height / width
    c, d = -sine * width / height, cosine
    return np.array([[a, b, 0.5 - 0.5 * (a + b)], [c, d, 0.5 - 0.5 * (c + d)]])


def turned(thumbnails: Pixels, sizes: Ints, turn: float) -> Pixels:
    """Thumbnails [N, 128, 128] of images of these sizes, turned clockwise by degrees; corners repeat the edge."""
    result = np.empty_like(thumbnails)
    for image, (width, height), out in zip(thumbnails, sizes.tolist(), result, strict=True):
        _resample(image, rotation(turn, width, height), out)
    return result


@compiled
def _resample(image: Pixels, affine: Floats, result: Pixels) -> None:
    for y in range(SIDE):
        for x in range(SIDE):
            u, v = (x + 0.5) / SIDE, (y + 0.5) / SIDE
            across = affine[0, 0] * u + affine[0, 1] * v + affine[0, 2]
            down = affine[1, 0] * u + affine[1, 1] * v + affine[1, 2]
            result[y, x] = (bilinear(image, across, down) + 32768) >> 16


@compiled
def bilinear(image: Ints, across: float, down: float) -> Any:
    """Value times 2**16 of a square image at a place in the unit square; outside, the edge is repeated."""
    size = image.shape[0]
    x = np.int64(np.rint((across * size - 0.5) * _ONE))
    y = np.int64(np.rint((down * size - 0.5) * _ONE))
    x, y = min(max(x, 0), (size - 1) * _ONE), min(max(y, 0), (size - 1) * _ONE)
    left, top = min(x >> 8, size - 2), min(y >> 8, size - 2)
    right, bottom = x - left * _ONE, y - top * _ONE
    upper = np.int64(image[top, left]) * (_ONE - right) + np.int64(image[top, left + 1]) * right
    lower = np.int64(image[top + 1, left]) * (_ONE - right) + np.int64(image[top + 1, left + 1]) * right
    return upper * (_ONE - bottom) + lower * bottom
