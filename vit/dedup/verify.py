"""Is a candidate pair one picture? Correlation of the local contrast of the aligned pair, then a look at colours.

The hash of a mask or a template (a fundus photograph, a white sprite on black) says what the mask looks like, so
unrelated images collide. Keeping a band of detail and dividing it by the local standard deviation removes what
they share; the correlation of what is left tells copies from look-alikes (reference/dedup.md 4.4, the retina trap).
Plain shapes have no detail to tell apart, so colours must agree as well: a copy may lose colour, never gain it.
"""

import functools
from typing import NamedTuple

import numpy as np

from vit.dedup.hashes import COLOUR_SIDE, sampling
from vit.dedup.views import View, shifted
from vit.typing import Floats, Ints, Pixels

SIDE = 32
FINE, COARSE = 1.0, 2.0  # sigmas in pixels of 32: detail finer than FINE is lost to JPEG and resizing
FLOOR = 1.0  # gray levels; local contrast below it is noise and is not blown up
FAINT = 0.15  # root mean square local contrast; an image below it is flat, and its score shrinks towards 0
SHIFTS = (-0.0125, 0.0, 0.0125)  # of the frame: the rest of an off-centre crop that lies between two windows
HOPELESS = 0.4  # below the wanted score: a shift does not gain that much
GAINED = 6.0, 0.2  # chroma levels, or share of the colour there is: root mean square that a copy may gain (JPEG)
SATURATION = 1.5  # a copy may be up to this much more colourful
DIGITS = 4  # of a score; hides the last bits of the floating-point sums


class Pairs(NamedTuple):
    """P aligned candidate pairs: thumbnails and the view through which each is seen."""

    train: Pixels  # uint8 [P, 64, 64]
    test: Pixels
    train_colours: Pixels  # uint8 [P, 16, 16, 2]
    test_colours: Pixels
    train_view: Ints  # [P], index into the train views
    test_view: Ints

    def at(self, places: Ints) -> "Pairs":
        """Some of the pairs."""
        return Pairs(*(column[places] for column in self))


def scores(pairs: Pairs, train_views: tuple[View, ...], test_views: tuple[View, ...], wanted: float) -> Floats:
    """Correlations in -1 … 1, float64 [P]; near 0 where a side is flat, at most 0 where colours were gained.

    A pair that does not reach `wanted` but is not hopeless is tried again with small shifts; the best one counts.
    """
    train = contrast(pairs.train, train_views, pairs.train_view)
    result = _correlation(train, contrast(pairs.test, test_views, pairs.test_view))
    again = np.flatnonzero((result < wanted) & (result > wanted - HOPELESS))
    for down, right in ((down, right) for down in SHIFTS for right in SHIFTS if down or right):
        views = tuple((shifted(window, right, down), flip) for window, flip in test_views)
        test = contrast(pairs.test[again], views, pairs.test_view[again])
        result[again] = np.maximum(result[again], _correlation(train[again], test))
    alike = np.flatnonzero(result >= wanted)
    coloured = alike[_gained_colour(pairs.at(alike), train_views, test_views)]
    result[coloured] = np.minimum(result[coloured], 0)
    return result


def contrast(thumbnails: Pixels, views: tuple[View, ...], view: Ints) -> Floats:
    """Local contrast of (about) unit norm, float64 [P, 32, 32], of thumbnails [P, 64, 64] through views[view[p]]."""
    result = _seen(thumbnails, views, view, SIDE)
    fine, coarse = _blur(FINE), _blur(COARSE)
    result = fine @ result @ fine.T
    result -= coarse @ result @ coarse.T
    result /= np.sqrt(coarse @ result**2 @ coarse.T + FLOOR**2)
    result -= result.mean(axis=(1, 2), keepdims=True)
    norm = np.sqrt((result**2).sum(axis=(1, 2), keepdims=True))
    return result / np.maximum(norm, FAINT * SIDE)


def _gained_colour(pairs: Pairs, train_views: tuple[View, ...], test_views: tuple[View, ...]) -> Ints:
    """Whether the corpus image has colours that no change of saturation makes from the test image's; bool [P]."""
    ours = _chroma(pairs.train_colours, train_views, pairs.train_view)
    theirs = _chroma(pairs.test_colours, test_views, pairs.test_view)
    gain = (ours * theirs).sum(axis=(1, 2, 3)) / np.maximum((theirs**2).sum(axis=(1, 2, 3)), 1e-9)
    gained = ours - np.clip(gain, 0, SATURATION)[:, None, None, None] * theirs
    levels, share = GAINED
    return _rms(gained) > np.maximum(levels, share * _rms(ours))


def _chroma(colours: Pixels, views: tuple[View, ...], view: Ints) -> Floats:
    """Cb and Cr around 0, float64 [P, 2, 16, 16], seen through views[view[p]]."""
    return np.stack([_seen(colours[..., channel], views, view, COLOUR_SIDE) - 128 for channel in (0, 1)], axis=1)


def _seen(images: Pixels, views: tuple[View, ...], view: Ints, size: int) -> Floats:
    """Images [P, S, S] cut to the window of views[view[p]], shrunk to [P, size, size] and flipped."""
    result = np.empty((len(images), size, size))
    numbers: list[int] = np.unique(view).tolist()
    for number in numbers:
        here, (window, flip) = view == number, views[number]
        rows = sampling(window.top, window.bottom, size, images.shape[-1])
        columns = sampling(window.left, window.right, size, images.shape[-1])
        seen: Floats = rows @ images[here].astype(np.float64) @ columns.T
        seen = seen.transpose(0, 2, 1) if flip.transpose else seen
        seen = seen[:, :, ::-1] if flip.mirror else seen
        result[here] = seen[:, ::-1] if flip.flip else seen
    return result


def _correlation(ours: Floats, theirs: Floats) -> Floats:
    correlation: Floats = (ours * theirs).sum(axis=(1, 2))
    return np.round(correlation, DIGITS)


def _rms(chroma: Floats) -> Floats:
    return np.sqrt((chroma**2).mean(axis=(1, 2, 3)))


@functools.cache
def _blur(sigma: float) -> Floats:
    """Gaussian blur along one side as a matrix [32, 32]; weights are renormalised at the edges."""
    distance = np.arange(SIDE)[:, None] - np.arange(SIDE)
    weights: Floats = np.exp(-0.5 * (distance / sigma) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)
