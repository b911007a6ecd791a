"""Is a candidate pair one picture? Correlation of the local contrast of the aligned pair, then a look at colours.

The hash of a mask or a template (a fundus photograph, a white sprite on black) says what the mask looks like, so
unrelated images collide. Keeping a band of detail and dividing it by the local standard deviation removes what
they share; the correlation of what is left tells copies from look-alikes (Jarrett et al., What is the best multi-stage
architecture, ICCV 2009, §2, calls it local contrast normalisation). Where two windows lie between those that were
hashed, the alignment is searched for, within bounds. Plain shapes have no detail to tell apart, so colours must agree
as well: a copy may lose colour, never gain it.

Sums are of integers held exactly by float64 or int64, so scores are the same on every machine.
"""

from typing import NamedTuple

import numpy as np

from vit.dedup.compiled import compiled
from vit.dedup.contrast import (
    BUSY_SHARE,
    SIDE,
    UNIT,
    agreement_of,
    blurs_of,
    busy_share,
    correlation_of,
    halved,
    likeness_to_itself,
    normalise,
    seen_through,
    uncross,
)
from vit.dedup.tiers import Tier
from vit.dedup.views import View, resolve
from vit.dedup.warp import rotation
from vit.typing import Floats, Ints, Pixels

FLOOR = 2.0  # gray levels; local contrast below it is noise and is not blown up,
FAINT_FLOOR = 0.5  # except in plain shapes and masks, which can only be told apart by what little is in them
COLOURED = 8.0  # chroma levels from which a cell of 16 x 16 has a colour (less comes from JPEG)
GAINED = 0.3  # share of its colour that a cell may have beyond the other side's
DISAGREEING = 0.4  # share of the coloured cells
SATURATION = 1.5  # a copy may be up to this much more colourful
DIGITS = 4  # of a score
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
    numbers = [np.zeros(number) for _ in range(6)]
    result = Scores(*numbers, is_refined=np.zeros(number, dtype=bool), maps=pairs.test_maps.copy())
    bounds = np.array([tier.max_shift, tier.max_shift, tier.max_scale, tier.max_scale, tier.max_turn])
    _score(pairs, bounds, (tier.refine_from, tier.refine_to), blurs_of(SIDE), result)
    return Scores(*(np.round(column, DIGITS) for column in numbers), is_refined=result.is_refined, maps=result.maps)


def is_copy(scored: Scores, distance: Ints, tier: Tier) -> Ints:
    """Whether each pair is one picture, bool [P]; far codes and a searched alignment must show more."""
    both = np.minimum(scored.correlation, scored.crossed)
    asked = np.interp(distance, (tier.near, tier.far), (tier.min_near, tier.min_far))
    alike = (both >= tier.min_far) | (scored.first >= asked)
    has_detail = (scored.busy >= BUSY_SHARE) | (both >= tier.min_plain) | (scored.detail >= tier.min_detail)
    return alike & has_detail & (scored.agreement >= tier.min_agreement)


def is_repetition(pairs: Pairs, scored: Scores, place: int, tier: Tier) -> bool:
    """Whether a pair agrees no better than a repetitive picture does with itself, moved: another part of a wall.

    An alignment that was searched for can be one such part laid over another, and must agree better still.
    """
    itself = 0.0
    for image, affine in (
        (pairs.train[place], pairs.train_maps[place]),
        (pairs.test[place], scored.maps[place]),
    ):
        patch = np.empty((SIDE, SIDE))
        seen_through(halved(image), affine, patch)
        normalise(patch, blurs_of(SIDE), FLOOR)
        itself = max(itself, likeness_to_itself(patch))
    is_sought = bool(scored.is_refined[place]) and itself >= tier.repetitive
    asked = itself + (tier.min_beyond_refined if is_sought else tier.min_beyond) * (1 - itself)
    return bool(scored.correlation[place] < asked)


def has_other_colours(train: Pixels, test: Pixels, train_map: Floats, test_map: Floats, *, is_busy: bool) -> bool:
    """Whether the training image has colours [16, 16, 2] that no change of saturation makes from the test image's.

    The test image of a busy picture may have none at all (a gray copy); plain shapes are told apart by their colours.
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
        seen_through(np.ascontiguousarray(colours[..., channel]).astype(np.int64), affine, result[channel])
    return result / UNIT - 128


@compiled
def _score(pairs: Pairs, bounds: Floats, limits: tuple[float, float], blurs: Floats, result: Scores) -> None:
    ours, theirs = np.empty((SIDE, SIDE)), np.empty((SIDE, SIDE))
    for pair in range(len(pairs.train)):
        large, small, affine = halved(pairs.train[pair]), halved(pairs.test[pair]), result.maps[pair]
        seen_through(large, pairs.train_maps[pair], ours)
        normalise(ours, blurs, FLOOR)
        result.first[pair] = _seen(small, affine, (ours, theirs), blurs)
        if limits[0] <= result.first[pair] < limits[1]:
            aligned = _align(small, affine, (pairs.shapes[pair], bounds), (ours, theirs), blurs)
            result.is_refined[pair] = aligned > result.first[pair]
        result.correlation[pair] = _seen(small, affine, (ours, theirs), blurs)
        result.busy[pair] = min(busy_share(ours), busy_share(theirs))
        result.agreement[pair] = agreement_of(ours, theirs)
        uncross(ours)
        uncross(theirs)
        result.crossed[pair] = correlation_of(ours, theirs)
        if result.busy[pair] < BUSY_SHARE:
            seen_through(large, pairs.train_maps[pair], ours)
            normalise(ours, blurs, FAINT_FLOOR)
            seen_through(small, affine, theirs)
            normalise(theirs, blurs, FAINT_FLOOR)
            result.detail[pair] = correlation_of(ours, theirs)


@compiled
def _align(
    test: Ints, affine: Floats, search: tuple[float, Floats], patches: tuple[Floats, Floats], blurs: Floats
) -> float:
    """Improve the map by steps of shift, scale and turn, smaller and smaller, while they help; the best correlation."""
    shape, bounds = search
    steps, at, trial = np.array(_STEPS), np.zeros(5), np.zeros(5)
    start, moved = affine.copy(), np.empty((2, 3))
    score, halvings, tries = _seen(test, affine, patches, blurs), 0, 0
    while halvings <= _HALVINGS and tries < _TRIES:
        is_better = False
        for move in range(10):
            number, sign = move >> 1, 1 - 2 * (move & 1)
            _copy(at, trial)
            trial[number] += sign * steps[number]
            if abs(trial[number]) > bounds[number] + 1e-9:
                continue
            _move(start, trial, shape, moved)
            found = _seen(test, moved, patches, blurs)
            tries += 1
            if found > score:
                score, is_better = found, True
                _copy(trial, at)
                _copy(moved.reshape(-1), affine.reshape(-1))
        if not is_better:
            for number in range(len(steps)):
                steps[number] /= 2
            halvings += 1
    return score


@compiled
def _copy(source: Floats, target: Floats) -> None:
    """As `target[:] = source`, which takes seconds to compile: it may raise an error with a text."""
    for place in range(len(source)):
        target[place] = source[place]


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
def _seen(test: Ints, affine: Floats, patches: tuple[Floats, Floats], blurs: Floats) -> float:
    """Correlation of the first patch, normalised already, with a test image seen through a map (the second patch)."""
    seen_through(test, affine, patches[1])
    normalise(patches[1], blurs, FLOOR)
    return correlation_of(patches[0], patches[1])
