"""Find the test images that a training image duplicates: exact digests, then codes within a radius, then a check.

The index holds the test side only; training images stream past in batches. What is found for an image depends on that
image and the index alone, so batch size and thread count change nothing and a second run over what stays finds
nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vit.dedup import check
from vit.dedup.codes import codes, views_of
from vit.dedup.contrast import BUSY_SHARE
from vit.dedup.digests import Digests
from vit.dedup.join import HammingIndex
from vit.dedup.prints import Print, Prints, Size, take_one
from vit.dedup.tiers import Tier
from vit.dedup.views import FULL, IDENTITY, View, inverse
from vit.typing import Floats, Ints, Pixels

TIERS = ("exact-bytes", "exact-pixels", "near")
ALIGNMENTS = 3  # per pair, nearest codes first, that are worth a check
CROWD = 64  # test images that a training image is compared with, nearest codes first
MOST = 128  # views of test images that one view of a training image is near to
BUILD = 1024  # test images hashed at a time, bounds memory
CHECK = 512  # pairs checked at a time: 32 kB of thumbnails each
_BLANK = bytes(32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """Training image `train` shows test image `test`; both are places in the batches that prints were taken of."""

    train: int
    test: int
    tier: str  # of TIERS
    distance: int  # bits of 256; 0 for exact tiers
    score: float  # correlation; 1 for exact tiers
    window: str  # the part of the test image, or `train-…` of the training image, that matched
    flip: str  # what turns the test image into the training image
    refined: bool  # whether the alignment had to be searched for


_SAME = Match(train=0, test=0, tier="", distance=0, score=1.0, window="full", flip="identity", refined=False)


class _Candidates(NamedTuple):
    """Views of training and test images whose codes are near; places in the prints."""

    train: Ints
    test: Ints
    train_view: Ints
    test_view: Ints
    distance: Ints

    def at(self, places: Ints) -> "_Candidates":
        return _Candidates(*(column[places] for column in self))


class TestCodes(NamedTuple):
    """Codes of test images, in the order of the index; worth storing, as they are made once."""

    whole: Pixels  # uint8 [T * flips, 32] of T images that are not flat
    parts: Pixels  # uint8 [T * windows, 32]


class TestIndex:
    """Digests, thumbnails and codes of all test images; about 17 kB each, most of it touched only by candidates."""

    __test__ = False  # not a test class, pytest

    def __init__(self, prints: Prints, tier: Tier, codes: TestCodes | None = None) -> None:
        self.tier = tier
        self._prints = prints
        self._whole_views: list[View] = views_of([FULL], tier.test_flips)
        self._part_views: list[View] = views_of(tier.test_windows, [IDENTITY])
        self._train_views: list[View] = views_of(tier.train_windows, [IDENTITY])
        self._flip_views: list[View] = [
            *views_of([FULL], tier.train_flips),
            *views_of(tier.train_turned, [IDENTITY]),
        ]
        self._bytes, self._pixels, self._luma = (
            Digests(digests) for digests in (prints.byte_digests, prints.pixel_digests, prints.luma_digests)
        )
        self._textured = np.flatnonzero(~prints.is_flat)
        self.codes = codes or TestCodes(
            *(_codes(prints, self._textured, views) for views in (self._whole_views, self._part_views))
        )
        self._whole = HammingIndex(self.codes.whole, radius=tier.radius)
        self._parts = HammingIndex(self.codes.parts, radius=tier.radius)
        self._frames = HammingIndex(self.codes.whole[:: len(self._whole_views)], radius=tier.frame_radius)

    @property
    def sizes(self) -> frozenset[Size]:
        """Sizes at which a JPEG may have the pixels of a test image that is none: prints.take decodes those in full."""
        return frozenset(map(tuple, self._prints.sizes[~self._prints.luma_digests.any(axis=1)].tolist()))

    @property
    def notes(self) -> dict[int, str]:
        """Test images that are not looked for as others are, and why."""
        why = "flat: it has nothing to compare, so only exact copies of it are found"
        return dict.fromkeys(self._prints.rows[self._prints.is_flat].tolist(), why)

    def templates(self) -> dict[int, int]:
        """Test images that look like at least CROWD others, and how many: scans, charts, sprites, fundus photographs.

        A training image like these is compared with the CROWD nearest of them only. Takes as long as a search.
        """
        views = len(self._whole_views)
        counts: dict[int, int] = {}
        for start in range(0, len(self._textured), BUILD):
            own = self.codes.whole[start * views : (start + BUILD) * views : views]
            found = self._whole.met(own, self.tier.radius, most=MOST * views)
            pairs = np.unique(np.stack([found.query, found.row // views], axis=1), axis=0)
            for place, count in enumerate(np.bincount(pairs[:, 0], minlength=len(own)).tolist()):
                if count > CROWD:
                    counts[int(self._prints.rows[self._textured[start + place]])] = count - 1
        return counts

    def find(self, prints: Prints, read: Callable[[int], bytes]) -> list[Match]:
        """All duplicates of a batch of training images, by training and then test image; exact tiers win.

        `read` gives the encoded image at a place in the batch: what looks like a copy is decoded in full.
        """
        sight = _Sight(prints, read)
        found = self._exact(sight)
        candidates = _nearest(self._candidates(prints))
        for start in range(0, len(candidates.train), CHECK):
            part = candidates.at(np.arange(start, min(start + CHECK, len(candidates.train))))
            for pair, match in self._checked(sight, part):
                best = found.get(pair, match)
                found[pair] = max(best, match, key=_strength)
        return [found[pair] for pair in sorted(found)]

    def screen(self, stored: Pixels) -> list[tuple[int, int, int]]:
        """(row, test image, distance) of stored codes uint8 [M, 32] (codes.base) that are near a test image's.

        What `find` would come across with the whole frame of training images alone: candidates, to decode and check.
        """
        near: dict[tuple[int, int], int] = {}
        for index, views, reach in (
            (self._frames, 1, self.tier.frame_radius),
            (self._whole, len(self._whole_views), self.tier.reach),
            (self._parts, len(self._part_views), self.tier.reach),
        ):
            found = index.met(stored, reach, most=MOST)
            tests = self._prints.rows[self._textured[found.row // views]]
            for row, test, distance in zip(found.query.tolist(), tests.tolist(), found.distance.tolist(), strict=True):
                near[row, test] = min(distance, near.get((row, test), distance))
        return [(row, test, distance) for (row, test), distance in sorted(near.items())]

    def _exact(self, sight: "_Sight") -> dict[tuple[int, int], Match]:
        found: dict[tuple[int, int], Match] = {}
        prints = sight.prints
        for train in range(len(prints.rows)):
            luma = self._luma.places(prints.luma_digests[train].tobytes())
            pixels = sight.full(train).pixel_digests if luma else prints.pixel_digests[train].tobytes()
            for test in self._pixels.places(pixels):
                found[train, test] = self._match(sight, train, test, "exact-pixels")
            for test in self._bytes.places(prints.byte_digests[train].tobytes()):
                found[train, test] = self._match(sight, train, test, "exact-bytes")
        return found

    def _match(self, sight: "_Sight", train: int, test: int, tier: str) -> Match:
        ours, theirs = int(sight.prints.rows[train]), int(self._prints.rows[test])
        return dataclasses.replace(_SAME, train=ours, test=theirs, tier=tier)

    def _candidates(self, prints: Prints) -> _Candidates:
        textured = np.flatnonzero(~prints.is_flat)
        parts: list[_Candidates] = []
        for index, ours, theirs, reach in (
            (self._frames, self._train_views[:1], self._whole_views[:1], self.tier.frame_radius),
            (self._whole, self._train_views, self._whole_views, self.tier.reach),
            (self._parts, self._flip_views, self._part_views, self.tier.reach),
        ):
            made = codes(prints.thumbnails[textured], prints.sizes[textured], ours)
            found = index.met(made.reshape(-1, made.shape[-1]), reach, most=MOST)
            train, train_view = np.divmod(found.query, len(ours))
            test, test_view = np.divmod(found.row, len(theirs))
            is_part = index is self._parts
            parts.append(
                _Candidates(
                    textured[train],
                    self._textured[test],
                    train_view + is_part * len(self._train_views),
                    test_view + is_part * len(self._whole_views),
                    found.distance,
                )
            )
        return _Candidates(*np.unique(np.concatenate([np.stack(part, axis=1) for part in parts]), axis=0).T)

    def _checked(self, sight: "_Sight", part: _Candidates) -> list[tuple[tuple[int, int], Match]]:
        ours, theirs = [*self._train_views, *self._flip_views], [*self._whole_views, *self._part_views]
        sizes = sight.prints.sizes[part.train], self._prints.sizes[part.test]
        maps = _maps(ours, part.train_view, sizes[0]), _maps(theirs, part.test_view, sizes[1])
        pairs = check.Pairs(
            train=sight.prints.thumbnails[part.train],
            test=self._prints.thumbnails[part.test],
            train_maps=maps[0],
            test_maps=maps[1],
            shapes=sizes[0][:, 0] / sizes[0][:, 1],
        )
        scored = check.scores(pairs, self.tier)
        matches: list[tuple[tuple[int, int], Match]] = []
        for place in np.flatnonzero(check.is_copy(scored, part.distance, self.tier)).tolist():
            train, test = int(part.train[place]), int(part.test[place])
            colours = sight.full(train).colours, self._prints.colours[test]
            is_busy = bool(scored.busy[place] >= BUSY_SHARE)
            if check.is_repetition(pairs, scored, place, self.tier):
                continue
            if check.has_other_colours(*colours, maps[0][place], scored.maps[place], is_busy=is_busy):
                continue
            matches.append(((train, test), self._near(sight, part, place, scored)))
        return matches

    def _near(self, sight: "_Sight", part: _Candidates, place: int, scored: check.Scores) -> Match:
        ours = [*self._train_views, *self._flip_views][int(part.train_view[place])]
        theirs = [*self._whole_views, *self._part_views][int(part.test_view[place])]
        flip = theirs[1] if ours[1] == IDENTITY else inverse(ours[1])
        return Match(
            train=int(sight.prints.rows[part.train[place]]),
            test=int(self._prints.rows[part.test[place]]),
            tier="near",
            distance=int(part.distance[place]),
            score=float(scored.correlation[place]),
            window=theirs[0].name if ours[0] == FULL else f"train-{ours[0].name}",
            flip=flip.name,
            refined=bool(scored.is_refined[place]),
        )


class _Sight:
    """A batch of training images, some of them looked at again in full."""

    def __init__(self, prints: Prints, read: Callable[[int], bytes]) -> None:
        self.prints = prints
        self._read = read
        self._full: dict[int, Print] = {}

    def full(self, place: int) -> Print:
        """The complete print of an image; raises ValueError if it can no longer be read."""
        if place not in self._full:
            row = int(self.prints.rows[place])
            taken = take_one(self._read(row), complete=True)
            if isinstance(taken, str):
                raise ValueError(f"image {row} of the batch {taken}, but was decoded a moment ago; does it change?")
            self._full[place] = taken
        return self._full[place]


def _codes(prints: Prints, places: Ints, views: list[View]) -> Pixels:
    """Codes uint8 [len(places) * len(views), 32]."""
    made = np.empty((len(places), len(views), 32), dtype=np.uint8)
    for start in range(0, len(places), BUILD):
        some = places[start : start + BUILD]
        made[start : start + BUILD] = codes(np.asarray(prints.thumbnails[some]), prints.sizes[some], views)
    return made.reshape(-1, 32)


def _maps(views: list[View], chosen: Ints, sizes: Ints) -> Floats:
    """Where each candidate looks, [P, 2, 3]."""
    numbers: list[int] = chosen.tolist()
    shapes: list[tuple[int, int]] = sizes.tolist()
    maps = [check.where(views[number], *shape) for number, shape in zip(numbers, shapes, strict=True)]
    return np.array(maps).reshape(-1, 2, 3)


def _nearest(candidates: _Candidates) -> _Candidates:
    """The ALIGNMENTS nearest of each pair, of the CROWD nearest pairs of each training image; earlier views first."""
    columns = candidates.test_view, candidates.train_view, candidates.distance, candidates.test, candidates.train
    ordered = candidates.at(np.lexsort(columns))
    rank = _ranks(ordered.train * (int(ordered.test.max(initial=0)) + 1) + ordered.test)
    ordered = ordered.at(np.flatnonzero(rank < ALIGNMENTS))
    rank = rank[rank < ALIGNMENTS]
    pairs = ordered.at(np.flatnonzero(rank == 0))
    order = np.lexsort((pairs.test, pairs.distance, pairs.train))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = _ranks(pairs.train[order])
    return ordered.at(np.flatnonzero(place[np.cumsum(rank == 0) - 1] < CROWD))


def _ranks(groups: Ints) -> Ints:
    """Place of each row in its run of equal values."""
    place = np.arange(len(groups))
    is_first = np.ones(len(groups), dtype=bool)
    is_first[1:] = np.diff(groups) != 0
    return place - np.maximum.accumulate(np.where(is_first, place, 0))


def _strength(match: Match) -> tuple[bool, float, int]:
    return match.tier != "near", match.score, -match.distance
