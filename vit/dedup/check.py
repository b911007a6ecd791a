"""Is a candidate pair one picture? Correlation of the local contrast of the aligned pair, then a look at colours.

The hash of a mask or a template (a fundus photograph, a white sprite on black) says what the mask looks like, so
unrelated images collide. Keeping a band of detail and dividing it by the local standard deviation removes what
they share; the correlation of what is left tells copies from look-alikes (Jarrett et al., What is the best multi-stage
architecture, ICCV 2009, §2, calls it local contrast normalisation). Where two windows lie between those that were
hashed, the alignment is searched for, within bounds. Plain shapes have no detail to tell apart, so colours must agree
as well: a copy may lose colour, never gain it.

Sums are of integers held exactly by float64 or int64, so scores are the same on every machine.
"""

import functools
from typing import NamedTuple

import numpy as np

from vit.dedup.compiled import compiled
from vit.dedup.tiers import Tier
from vit.dedup.views import View, resolve
from vit.dedup.warp import bilinear, rotation
from vit.typing import Floats, Ints, Pixels

SIDE = 32
FINE, COARSE = 1.0, 2.0  # sigmas in pixels of 32: detail finer than FINE is lost to JPEG and resizing
FLOOR = 2.0  # gray levels; local contrast below it is noise and is not blown up,
FAINT_FLOOR = 0.5  # except in plain shapes and masks, which can only be told apart by what little is in them
FAINT = 0.15  # root mean square local contrast; an image below it is flat, and its score shrinks towards 0
COLOURED = 8.0  # chroma levels from which a cell of 16 x 16 has a colour (less comes from JPEG)
GAINED = 0.3  # share of its colour that a cell may have beyond the other side's
DISAGREEING = 0.4  # share of the coloured cells
SATURATION = 1.5  # a copy may be up to this much more colourful
STRUCTURE, BUSY_SHARE = 0.3, 0.4  # local contrast of a pixel, and share of pixels with it in what is no plain shape
BLOCK = 8  # pixels; the picture is 4 x 4 blocks
MAY_DIFFER = 0.4  # share of the blocks: text and logos are laid over
DIGITS = 4  # of a score
_UNIT = 16  # of a gray level in a patch; all that follows are integers
_WEIGHT = 256  # of a blur: weights sum to it
_CONTRAST = 1024  # local contrast of 1
_STEPS = (0.02, 0.02, 0.03, 0.03, 3.0)  # first steps of the search: shifts, log scales, degrees
_HALVINGS, _TRIES = 3, 120


class Pairs(NamedTuple):
    """P candidate pairs: thumbnails and where to look in each to see the same."""

    train: Pixels  # uint8 [P, 128, 128]
    test: Pixels
    train_maps: Floats  # [P, 2, 3], from the common unit square to the frame
    test_maps: Floats
    shapes: Floats  # [P], width over height of what is seen


class Scores(NamedTuple):
    """How alike pairs are in the best alignment that was tried."""

    first: Floats  # [P], correlation in the alignment of the windows
    correlation: Floats  # [P], of local contrast, -1 … 1; near 0 where a side is flat
    crossed: Floats  # [P], the same without what whole rows or columns share: courses of bricks, lines of text
    detail: Floats  # [P], the same with faint detail blown up, where there is little structure; 0 elsewhere
    agreement: Floats  # [P], correlation that most blocks with any structure reach; a stray text or logo does not count
    busy: Floats  # [P], share of the picture that has structure, the smaller of both sides'
    is_refined: Ints  # bool [P], whether the alignment was searched for
    maps: Floats  # [P, 2, 3], the test side's map of the best alignment


def where(view: View, width: int, height: int) -> Floats:
    """The map [2, 3] from the unit square to the frame of an image of this size seen through a view."""
    window, flip = view
    seen = resolve(window, width, height)
    into = np.diag([seen.right - seen.left, seen.bottom - seen.top, 1.0])
    into[:2, 2] = seen.left, seen.top
    undone = np.eye(3)
    if flip.mirror:
        undone = np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]]) @ undone
    if flip.flip:
        undone = np.array([[1.0, 0, 0], [0, -1, 1], [0, 0, 1]]) @ undone
    if flip.transpose:
        undone = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]) @ undone
    affine = into @ undone
    return rotation(seen.turn, width, height) @ affine if seen.turn else affine[:2]


def scores(pairs: Pairs, tier: Tier) -> Scores:
    """Compare all pairs; those between hopeless and clear are aligned better first."""
    number = len(pairs.train)
    result = Scores(*np.zeros((6, number)), np.zeros(number, dtype=bool), pairs.test_maps.copy())
    bounds = np.array([tier.max_shift, tier.max_shift, tier.max_scale, tier.max_scale, tier.max_turn])
    _score(*pairs, bounds, np.array([tier.refine_from, tier.refine_to]), _blurs(SIDE), *result)
    return Scores(*(np.round(column, DIGITS) for column in result[:6]), *result[6:])


def is_copy(scored: Scores, distance: Ints, tier: Tier) -> Ints:
    """Whether each pair is one picture, bool [P]; far codes and a searched alignment must show more."""
    both = np.minimum(scored.correlation, scored.crossed)
    asked = np.interp(distance, (tier.near, tier.far), (tier.min_near, tier.min_far))
    alike = (both >= tier.min_far) | (scored.first >= asked)
    has_detail = (scored.busy >= BUSY_SHARE) | (both >= tier.min_plain) | (scored.detail >= tier.min_detail)
    return alike & has_detail & (scored.agreement >= tier.min_agreement)


def has_other_colours(train: Pixels, test: Pixels, train_map: Floats, test_map: Floats, *, is_busy: bool) -> bool:
    """Whether the training image has colours [16, 16, 2] that no change of saturation makes from the test image's.

    In a busy picture the test image may have none at all (a gray copy); a plain shape is told from others by its colour.
    """
    ours, theirs = _chroma(train, train_map), _chroma(test, test_map)
    if is_busy and _levels(theirs).mean() < COLOURED:
        return False
    gain = (ours * theirs).sum() / max(float((theirs**2).sum()), 1e-9)
    gained = _levels(ours - min(max(gain, 0.0), SATURATION) * theirs)
    coloured = np.maximum(_levels(ours), _levels(theirs)) > COLOURED
    disagreeing = coloured & (gained > np.maximum(COLOURED, GAINED * _levels(ours)))
    return bool(disagreeing.sum() > DISAGREEING * coloured.sum())


def _levels(chroma: Floats) -> Floats:
    """Distance from gray, [16, 16]."""
    return np.sqrt((chroma**2).sum(axis=0))


def _chroma(colours: Pixels, affine: Floats) -> Floats:
    """Cb and Cr around 0, [2, 16, 16], seen through a map."""
    result = np.empty((2, *colours.shape[:2]))
    for channel in (0, 1):
        _patch(np.ascontiguousarray(colours[..., channel]).astype(np.int64), affine, result[channel])
    return result / _UNIT - 128


@functools.cache
def _blurs(side: int) -> Floats:
    """Gaussian blurs FINE and COARSE along one side as matrices [2, side, side] of integers; rows sum to _WEIGHT."""
    distance = np.arange(side)[:, None] - np.arange(side)
    result: list[Floats] = []
    for sigma in (FINE, COARSE):
        weights = np.exp(-0.5 * (distance / sigma) ** 2)
        whole = np.rint(_WEIGHT * weights / weights.sum(axis=1, keepdims=True))
        whole[np.arange(side), np.arange(side)] += _WEIGHT - whole.sum(axis=1)
        result.append(whole)
    return np.stack(result)


@compiled
def _score(
    train: Pixels, test: Pixels, train_maps: Floats, test_maps: Floats, shapes: Floats,
    bounds: Floats, limits: Floats, blurs: Floats,
    first: Floats, correlation: Floats, crossed: Floats, detail: Floats, agreement: Floats, busy: Floats, is_refined: Ints, maps: Floats,
) -> None:  # fmt: skip
    ours, theirs = np.empty((SIDE, SIDE)), np.empty((SIDE, SIDE))
    for pair in range(len(train)):
        large, small = _halved(train[pair]), _halved(test[pair])
        _patch(large, train_maps[pair], ours)
        _normalise(ours, blurs, FLOOR)
        first[pair] = _seen(small, test_maps[pair], ours, theirs, blurs)
        if limits[0] <= first[pair] < limits[1]:
            aligned = _align(small, test_maps[pair], shapes[pair], bounds, ours, theirs, blurs, maps[pair])
            is_refined[pair] = aligned > first[pair]
        correlation[pair] = _seen(small, maps[pair], ours, theirs, blurs)
        busy[pair] = min(_share(ours), _share(theirs))
        agreement[pair] = _agreement(ours, theirs)
        _uncross(ours)
        _uncross(theirs)
        crossed[pair], detail[pair] = _correlation(ours, theirs), 0
        if busy[pair] < BUSY_SHARE:
            _patch(large, train_maps[pair], ours)
            _normalise(ours, blurs, FAINT_FLOOR)
            _patch(small, maps[pair], theirs)
            _normalise(theirs, blurs, FAINT_FLOOR)
            detail[pair] = _correlation(ours, theirs)


@compiled
def _share(contrast: Floats) -> float:
    count = 0
    for y in range(SIDE):
        for x in range(SIDE):
            count += abs(contrast[y, x]) > STRUCTURE * _CONTRAST
    return count / (SIDE * SIDE)


@compiled
def _agreement(ours: Floats, theirs: Floats) -> float:
    """Correlation of the block that stands at MAY_DIFFER when those with structure on either side are sorted."""
    found, count = np.empty((SIDE // BLOCK) ** 2), 0
    least = (FAINT * _CONTRAST * BLOCK * BLOCK) ** 2
    for top in range(0, SIDE, BLOCK):
        for left in range(0, SIDE, BLOCK):
            a, b = ours[top : top + BLOCK, left : left + BLOCK], theirs[top : top + BLOCK, left : left + BLOCK]
            if max(_energy(a), _energy(b)) > least:
                found[count] = _correlation(a, b)
                count += 1
    return np.sort(found[:count])[int(MAY_DIFFER * count)] if count else 0.0


@compiled
def _energy(block: Floats) -> float:
    total, squares = 0.0, 0.0
    for y in range(block.shape[0]):
        for x in range(block.shape[1]):
            total += block[y, x]
            squares += block[y, x] * block[y, x]
    return block.size * squares - total * total


@compiled
def _uncross(contrast: Floats) -> None:
    """Take the means of rows and columns away; times _CONTRAST still, rounded to integers."""
    down, across = np.zeros(SIDE), np.zeros(SIDE)
    for y in range(SIDE):
        for x in range(SIDE):
            down[y] += contrast[y, x]
            across[x] += contrast[y, x]
    for y in range(SIDE):
        for x in range(SIDE):
            contrast[y, x] = np.rint(contrast[y, x] - (down[y] + across[x]) / SIDE)


@compiled
def _align(
    test: Ints, affine: Floats, shape: float, bounds: Floats, ours: Floats, theirs: Floats, blurs: Floats, best: Floats
) -> float:  # fmt: skip
    """Try steps of shift, scale and turn, smaller and smaller, as long as they help; the best correlation."""
    steps, at, trial = np.array(_STEPS), np.zeros(5), np.zeros(5)
    moved = np.empty((2, 3))
    _move(affine, at, shape, moved)
    score, halvings, tries = _seen(test, moved, ours, theirs, blurs), 0, 0
    best[:] = moved
    while halvings <= _HALVINGS and tries < _TRIES:
        is_better = False
        for move in range(10):
            number, sign = move >> 1, 1 - 2 * (move & 1)
            trial[:] = at
            trial[number] += sign * steps[number]
            if abs(trial[number]) > bounds[number] + 1e-9:
                continue
            _move(affine, trial, shape, moved)
            found = _seen(test, moved, ours, theirs, blurs)
            tries += 1
            if found > score:
                score, is_better = found, True
                at[:] = trial
                best[:] = moved
        if not is_better:
            steps /= 2
            halvings += 1
    return score


@compiled
def _move(affine: Floats, move: Floats, shape: float, result: Floats) -> None:
    """The map after a shift (2), a log scale (2) and a turn about the centre; its polynomial is exact enough."""
    angle = move[4] * 0.017453292519943295
    cosine, sine = 1 - angle * angle / 2 + angle**4 / 24, angle - angle**3 / 6 + angle**5 / 120
    across, down = 1 + move[2] + move[2] * move[2] / 2, 1 + move[3] + move[3] * move[3] / 2
    a, b, c, d = across * cosine, across * sine / shape, -down * sine * shape, down * cosine
    e, f = 0.5 + move[0] - 0.5 * (a + b), 0.5 + move[1] - 0.5 * (c + d)
    for i in range(2):
        result[i, 0] = affine[i, 0] * a + affine[i, 1] * c
        result[i, 1] = affine[i, 0] * b + affine[i, 1] * d
        result[i, 2] = affine[i, 0] * e + affine[i, 1] * f + affine[i, 2]


@compiled
def _seen(test: Ints, affine: Floats, ours: Floats, theirs: Floats, blurs: Floats) -> float:
    _patch(test, affine, theirs)
    _normalise(theirs, blurs, FLOOR)
    return _correlation(ours, theirs)


@compiled
def _halved(image: Pixels) -> Ints:
    """Sums of 2 x 2 pixels over four, int64 [64, 64]."""
    side = image.shape[0] // 2
    result = np.empty((side, side), dtype=np.int64)
    for y in range(side):
        for x in range(side):
            total = np.int64(image[2 * y, 2 * x]) + image[2 * y, 2 * x + 1]
            result[y, x] = (total + image[2 * y + 1, 2 * x] + image[2 * y + 1, 2 * x + 1] + 2) >> 2
    return result


@compiled
def _patch(image: Ints, affine: Floats, result: Floats) -> None:
    """Gray levels times _UNIT, integers, of an image seen through a map: the mean of 2 x 2 samples a pixel."""
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
def _normalise(patch: Floats, blurs: Floats, least: float) -> None:
    """Replace a patch by its local contrast times _CONTRAST, integers."""
    side = len(patch)
    band, smooth, coarse = np.empty_like(patch), np.empty_like(patch), np.empty_like(patch)
    _blur(patch, blurs[0], 3, band, smooth)
    _blur(patch, blurs[1], 6, band, coarse)
    for y in range(side):
        for x in range(side):
            band[y, x] = np.rint((smooth[y, x] - coarse[y, x]) / _WEIGHT)
            patch[y, x] = band[y, x] * band[y, x]
    _blur(patch, blurs[1], 6, smooth, coarse)
    floor = (least * _UNIT * _WEIGHT * _WEIGHT) ** 2
    for y in range(side):
        for x in range(side):
            patch[y, x] = np.rint(_CONTRAST * _WEIGHT * band[y, x] / np.sqrt(coarse[y, x] + floor))


@compiled
def _blur(image: Floats, weights: Floats, reach: int, spare: Floats, result: Floats) -> None:
    """Both ways; the result is _WEIGHT**2 times larger. Sums stay below 2**53."""
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
def _correlation(ours: Floats, theirs: Floats) -> float:
    """Pearson's, with norms of at least FAINT."""
    number = ours.size
    a, b, aa, bb, ab = 0.0, 0.0, 0.0, 0.0, 0.0
    for y in range(len(ours)):
        for x in range(len(ours)):
            a += ours[y, x]
            b += theirs[y, x]
            aa += ours[y, x] * ours[y, x]
            bb += theirs[y, x] * theirs[y, x]
            ab += ours[y, x] * theirs[y, x]
    least = (FAINT * _CONTRAST * number) ** 2
    return (number * ab - a * b) / np.sqrt(max(number * aa - a * a, least) * max(number * bb - b * b, least))
