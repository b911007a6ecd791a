"""How hard to look: the numbers of the two tiers that need no weights.

They were fixed once, on one half of the pictures of `make bench-dedup` and one seed of its edits, and are judged there on
the other half and other seeds. Change them only with that benchmark.
"""

import dataclasses

from vit.dedup.views import FLIPS, FULL, IDENTITY, MIRROR, Flip, Window, centre, grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tier:
    """What is compared, how near codes must be to be looked at, and how alike pictures must be to count."""

    name: str
    radius: int  # bits of 256 within which every pair of codes is looked at
    reach: int  # bits within which those pairs are that the look-ups come across anyway
    train_windows: tuple[Window, ...]  # of training images, compared with whole test images in all eight flips
    test_windows: tuple[Window, ...]  # of test images, compared with whole training images
    train_flips: tuple[Flip, ...]  # of whole training images, for that
    min_score: float  # correlation of aligned local contrast
    min_refined: float  # the same, after the alignment has been searched for
    refine_from: float  # correlation below which that is hopeless
    max_shift: float  # bounds of that search: fraction of the frame
    max_scale: float  # logarithm of the scale of either side
    max_turn: float  # degrees


_WINDOWS = (
    FULL,
    *(centre(percent) for percent in range(95, 45, -5)),
    *grid(90, 3),
    *(centre(percent, square=True) for percent in (100, 95, 87.5)),
)
_PARTS = (centre(83), *(centre(percent) for percent in (90, 75, 67, 50)), *grid(90, 3), centre(100, square=True))

FAST = Tier(
    name="fast",
    radius=31,
    reach=60,
    train_windows=_WINDOWS,
    test_windows=_PARTS,
    train_flips=(IDENTITY, MIRROR),
    min_score=0.82,
    min_refined=0.86,
    refine_from=0.5,
    max_shift=0.04,
    max_scale=0.04,
    max_turn=0.0,
)
THOROUGH = Tier(
    name="thorough",
    radius=75,
    reach=75,
    train_windows=(*_WINDOWS, *(centre(92, turn=turn) for turn in (-6, -3, 3, 6))),
    test_windows=(*_PARTS, *(centre(92, turn=turn) for turn in (-6, -3, 3, 6))),
    train_flips=FLIPS,
    min_score=0.82,
    min_refined=0.86,
    refine_from=0.4,
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
