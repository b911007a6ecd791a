"""Local contrast of a picture seen through a map, and how alike two of them are.

Local contrast normalisation (Jarrett et al., What is the best multi-stage architecture for object recognition?, ICCV
2009, §2): a band of detail, divided by its local standard deviation. All sums are of integers that float64 holds
exactly, divisions and roots are IEEE's, so results are the same on every machine.
"""

import functools

import numpy as np

from vit.dedup.compiled import compiled
from vit.dedup.warp import bilinear
from vit.typing import Floats, Ints, Pixels

SIDE = 32
FINE, COARSE = 1.0, 2.0  # sigmas in pixels of 32: detail finer than FINE is lost to JPEG and resizing
FAINT = 0.15  # root mean square local contrast; an image below it is flat, and its score shrinks towards 0
STRUCTURE, BUSY_SHARE = 0.3, 0.4  # local contrast of a pixel, and share of pixels with it in what is no plain shape
BLOCK = 8  # pixels; the picture is 4 x 4 blocks
NEAREST, FARTHEST = 4, 16  # pixels by which a picture is moved to be compared with itself
MAY_DIFFER = 0.4  # share of the blocks: text and logos are laid over
UNIT = 16  # of a gray level in a patch; all that follows are integers
WEIGHT = 256  # of a blur: weights sum to it
CONTRAST = 1024  # local contrast of 1


@functools.cache
def blurs_of(side: int) -> Floats:
    """Gaussian blurs FINE and COARSE along one side as matrices [2, side, side] of integers; rows sum to WEIGHT."""
    distance = np.arange(side)[:, None] - np.arange(side)
    result: list[Floats] = []
    for sigma in (FINE, COARSE):
        weights = np.exp(-0.5 * (distance / sigma) ** 2)
        whole = np.rint(WEIGHT * weights / weights.sum(axis=1, keepdims=True))
        whole[np.arange(side), np.arange(side)] += WEIGHT - whole.sum(axis=1)
        result.append(whole)
    return np.stack(result)


@compiled
def halved(image: Pixels) -> Ints:
    """Sums of 2 x 2 pixels over four, int64 [64, 64]."""
    side = image.shape[0] // 2
    result = np.empty((side, side), dtype=np.int64)
    for y in range(side):
        for x in range(side):
            total = np.int64(image[2 * y, 2 * x]) + image[2 * y, 2 * x + 1]
            result[y, x] = (total + image[2 * y + 1, 2 * x] + image[2 * y + 1, 2 * x + 1] + 2) >> 2
    return result


@compiled
def seen_through(image: Ints, affine: Floats, result: Floats) -> None:
    """Gray levels times UNIT, integers, of an image seen through a map: the mean of 2 x 2 samples a pixel."""
    side = len(result)
    for y in range(side):
        for x in range(side):
            total = np.int64(0)
            for sample in range(4):
                u = (x + 0.25 + 0.5 * (sample & 1)) / side
                v = (y + 0.25 + 0.5 * (sample >> 1)) / side
                across = affine[0, 0] * u + affine[0, 1] * v + affine[0, 2]
                down = affine[1, 0] * u + affine[1, 1] * v + affine[1, 2]
                total += bilinear(image, across, down)
            result[y, x] = total >> 14  # four samples, each times 2**16


@compiled
def normalise(patch: Floats, blurs: Floats, least: float) -> None:
    """Replace a patch by its local contrast times CONTRAST, integers."""
    side = len(patch)
    band, smooth, coarse = np.empty_like(patch), np.empty_like(patch), np.empty_like(patch)
    _blur(patch, blurs[0], 3, band, smooth)
    _blur(patch, blurs[1], 6, band, coarse)
    for y in range(side):
        for x in range(side):
            band[y, x] = np.rint((smooth[y, x] - coarse[y, x]) / WEIGHT)
            patch[y, x] = band[y, x] * band[y, x]
    _blur(patch, blurs[1], 6, smooth, coarse)
    floor = (least * UNIT * WEIGHT * WEIGHT) ** 2
    for y in range(side):
        for x in range(side):
            patch[y, x] = np.rint(CONTRAST * WEIGHT * band[y, x] / np.sqrt(coarse[y, x] + floor))


@compiled
def _blur(image: Floats, weights: Floats, reach: int, spare: Floats, result: Floats) -> None:
    """Both ways; the result is WEIGHT**2 times larger. Sums stay below 2**53."""
    side = len(image)
    for y in range(side):
        spare[y] = 0
        for k in range(max(0, y - reach), min(side, y + reach + 1)):
            weight = weights[y, k]
            for x in range(side):
                spare[y, x] += weight * image[k, x]
    result[:] = 0
    for x in range(side):
        for k in range(max(0, x - reach), min(side, x + reach + 1)):
            weight = weights[x, k]
            for y in range(side):
                result[y, x] += weight * spare[y, k]


@compiled
def correlation_of(ours: Floats, theirs: Floats) -> float:
    """Pearson's, with norms of at least FAINT."""
    number = ours.size
    a, b, aa, bb, ab = 0.0, 0.0, 0.0, 0.0, 0.0
    for y in range(ours.shape[0]):
        for x in range(ours.shape[1]):
            a += ours[y, x]
            b += theirs[y, x]
            aa += ours[y, x] * ours[y, x]
            bb += theirs[y, x] * theirs[y, x]
            ab += ours[y, x] * theirs[y, x]
    least = (FAINT * CONTRAST * number) ** 2
    return (number * ab - a * b) / np.sqrt(max(number * aa - a * a, least) * max(number * bb - b * b, least))


@compiled
def busy_share(contrast: Floats) -> float:
    count = 0
    for y in range(SIDE):
        for x in range(SIDE):
            count += abs(contrast[y, x]) > STRUCTURE * CONTRAST
    return count / (SIDE * SIDE)


@compiled
def agreement_of(ours: Floats, theirs: Floats) -> float:
    """Correlation of the block that stands at MAY_DIFFER when those with structure on either side are sorted."""
    found, count = np.empty((SIDE // BLOCK) ** 2), 0
    least = (FAINT * CONTRAST * BLOCK * BLOCK) ** 2
    for top in range(0, SIDE, BLOCK):
        for left in range(0, SIDE, BLOCK):
            a, b = ours[top : top + BLOCK, left : left + BLOCK], theirs[top : top + BLOCK, left : left + BLOCK]
            if max(_energy(a), _energy(b)) > least:
                found[count] = correlation_of(a, b)
                count += 1
    for place in range(1, count):  # sorted by insertion
        value, before = found[place], place - 1
        while before >= 0 and found[before] > value:
            found[before + 1] = found[before]
            before -= 1
        found[before + 1] = value
    return found[int(MAY_DIFFER * count)] if count else 0.0


@compiled
def likeness_to_itself(contrast: Floats) -> float:
    """The highest correlation of a picture with itself moved: near 1 for courses of bricks or a smooth edge."""
    highest = -1.0
    for down in range(FARTHEST + 1):
        for across in range(-FARTHEST if down else 0, FARTHEST + 1):
            if down * down + across * across >= NEAREST * NEAREST:
                left, right = max(across, 0), min(across, 0)
                ours, theirs = contrast[down:, left : SIDE + right], contrast[: SIDE - down, -right : SIDE - left]
                highest = max(highest, correlation_of(ours, theirs))
    return highest


@compiled
def _energy(block: Floats) -> float:
    total, squares = 0.0, 0.0
    for y in range(block.shape[0]):
        for x in range(block.shape[1]):
            total += block[y, x]
            squares += block[y, x] * block[y, x]
    return block.size * squares - total * total


@compiled
def uncross(contrast: Floats) -> None:
    """Take the means of rows and columns away; times CONTRAST still, rounded to integers."""
    down, across = np.zeros(SIDE), np.zeros(SIDE)
    for y in range(SIDE):
        for x in range(SIDE):
            down[y] += contrast[y, x]
            across[x] += contrast[y, x]
    for y in range(SIDE):
        for x in range(SIDE):
            contrast[y, x] = np.rint(contrast[y, x] - (down[y] + across[x]) / SIDE)
