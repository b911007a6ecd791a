"""How hard to look: the numbers of the two tiers that need no weights.

They were fixed once, on seeds 0, 1 and 6 of `make bench-dedup`, and are judged there on other seeds: other tiles, other
strengths and places of the edits. Change them only with that benchmark.
"""

import dataclasses

from vit.dedup.views import FLIPS, FULL, IDENTITY, MIRROR, Flip, Window, centre, grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tier:
    """What is compared, how near codes must be to be looked at, and how alike pictures must be to count."""

    name: str
    radius: int  # bits of 256 within which every pair of codes is looked at
    reach: int  # bits within which those pairs are that the look-ups come across anyway
    frame_radius: int  # bits within which every pair of whole, unturned frames is looked at: one cheap code an image
    test_flips: tuple[Flip, ...]  # of whole test images
    train_windows: tuple[Window, ...]  # of training images, compared with whole test images in all their flips
    test_windows: tuple[Window, ...]  # of test images, compared with whole training images
    train_flips: tuple[Flip, ...]  # of whole training images, for that
    train_turned: tuple[Window, ...]  # of training images, compared with windows of test images: both lack corners
    near: int  # bits up to which `min_near` is asked of the correlation, as the windows align the pair;
    far: int  # more from there on, up to `min_far` here
    min_near: float
    min_far: float  # asked of an alignment that was searched for, too; then without what rows and columns share
    min_plain: float  # the same of pictures with little structure (shapes, masks), or else
    min_detail: float  # correlation with faint detail blown up
    min_agreement: float  # correlation that most blocks reach
    repetitive: float  # likeness to itself, moved, from which a picture repeats itself
    min_beyond: float  # part of the way from that likeness to 1 that a correlation must go,
    min_beyond_refined: float  # and where the alignment of a picture that repeats itself was searched for
    refine_from: float  # correlation from which a better alignment is searched for,
    refine_to: float  # and up to which
    max_shift: float  # bounds of that search: fraction of the frame
    max_scale: float  # logarithm of the scale of either side
    max_turn: float  # degrees


_WINDOWS = (
    FULL,
    *(centre(percent) for percent in range(95, 45, -5)),
    *grid(90, 3),
    *(centre(percent, square=True) for percent in (100, 95, 87.5)),
)
_PARTS = (centre(83), *(centre(percent) for percent in (90, 75, 67, 50)), *grid(90, 4), centre(100, square=True))

FAST = Tier(
    name="fast",
    radius=31,
    reach=60,
    frame_radius=75,
    test_flips=FLIPS,
    train_windows=_WINDOWS,
    test_windows=_PARTS,
    train_flips=(IDENTITY, MIRROR),
    train_turned=(),
    near=31,
    far=55,
    min_near=0.82,
    min_far=0.88,
    min_plain=0.94,
    min_detail=0.92,
    min_agreement=0.5,
    repetitive=0.6,
    min_beyond=0.65,
    min_beyond_refined=0.85,
    refine_from=0.3,
    refine_to=0.9,
    max_shift=0.04,
    max_scale=0.04,
    max_turn=0.0,
)
THOROUGH = dataclasses.replace(
    FAST,
    name="thorough",
    radius=75,
    reach=75,
    train_windows=(*_WINDOWS, *grid(95, 3), *grid(85, 3)),
    train_flips=FLIPS,
    train_turned=tuple(centre(83, turn=turn) for turn in (-7, -5, -3, 3, 5, 7)),
    max_shift=0.06,
    max_scale=0.08,
    max_turn=8.0,
)
_TIERS = {tier.name: tier for tier in (FAST, THOROUGH)}


def tier(name: str) -> Tier:
    """The tier of this name; raises ValueError if there is none."""
    if name not in _TIERS:
        raise ValueError(f"there is no tier {name!r}; choose one of {', '.join(_TIERS)}")
    return _TIERS[name]


def window(name: str) -> Window:
    """The window that a match names (`train-` left out); raises KeyError if no tier has it."""
    windows = [FULL]
    for tier in _TIERS.values():
        windows += [*tier.train_windows, *tier.test_windows, *tier.train_turned]
    return {window.name: window for window in windows}[name.removeprefix("train-")]
