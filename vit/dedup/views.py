"""The windows and flips through which two images are compared.

One side of a pair is always seen whole: the corpus image's full frame is compared with every view of a test image
(the corpus image is a crop or a mirror image), and centred windows of the corpus image with the test image's full
frame (the test image is a crop, or had a border removed).
"""

from typing import NamedTuple, TypeAlias


class Window(NamedTuple):
    """A part of the frame; left, top, right and bottom are fractions of its width and height."""

    name: str
    left: float
    top: float
    right: float
    bottom: float


class Flip(NamedTuple):
    """One of the eight symmetries of a square: transpose first, then mirror left-right, then flip top-bottom."""

    name: str
    transpose: bool
    mirror: bool
    flip: bool


View: TypeAlias = tuple[Window, Flip]


def centre(percent: int) -> Window:
    """The centred window with this part of both sides."""
    edge = (100 - percent) / 200
    return Window(f"centre{percent}", edge, edge, 1 - edge, 1 - edge)


def grid(percent: int, steps: int) -> list[Window]:
    """Windows with this part of both sides at steps x steps evenly spaced offsets, edges and corners included."""
    side = percent / 100
    offsets = [(1 - side) * step / (steps - 1) for step in range(steps)]
    return [
        Window(f"crop{percent}-{row}-{column}", x, y, x + side, y + side)
        for row, y in enumerate(offsets)
        for column, x in enumerate(offsets)
    ]


def shifted(window: Window, right: float, down: float) -> Window:
    """The window moved by fractions of the frame; it may stick out (the edge is repeated)."""
    return window._replace(
        left=window.left + right, right=window.right + right, top=window.top + down, bottom=window.bottom + down
    )


FULL = Window("full", 0.0, 0.0, 1.0, 1.0)
IDENTITY = Flip("identity", False, False, False)
MIRROR = Flip("mirror", False, True, False)
FLIPS = (
    IDENTITY,
    MIRROR,
    Flip("flip", False, False, True),
    Flip("rotate180", False, True, True),
    Flip("transpose", True, False, False),
    Flip("rotate270", True, True, False),
    Flip("rotate90", True, False, True),
    Flip("transverse", True, True, True),
)
WHOLE: tuple[View, ...] = tuple((FULL, flip) for flip in FLIPS)
# A crop that is also turned is rare, and codes cost time in proportion: crops get two flips, not eight.
TEST_VIEWS: tuple[View, ...] = (
    *WHOLE,
    *((window, flip) for window in (centre(83), *grid(90, 4)) for flip in (IDENTITY, MIRROR)),
)
TRAIN_VIEWS: tuple[View, ...] = tuple((window, IDENTITY) for window in (FULL, centre(85), centre(70)))
