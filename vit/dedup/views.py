"""The windows and flips through which two images are compared.

One side of a pair is always seen whole: windows of a training image are compared with the whole of a test image (which
may be a crop of it), and windows of a test image with the whole training image. Flips and right angles are applied to
whole test images, and to whole training images where they meet windows of test images.
"""

from typing import NamedTuple, TypeAlias


class Window(NamedTuple):
    """A part of the frame; left, top, right and bottom are fractions of its width and height."""

    name: str
    left: float
    top: float
    right: float
    bottom: float
    square: bool = False  # fractions of the frame's largest centred square, whatever its shape
    turn: float = 0.0  # degrees by which the picture is turned, clockwise about its centre, before it is cut


class Flip(NamedTuple):
    """One of the eight symmetries of a square: transpose first, then mirror left-right, then flip top-bottom."""

    name: str
    transpose: bool
    mirror: bool
    flip: bool


View: TypeAlias = tuple[Window, Flip]


def centre(percent: float, *, square: bool = False, turn: float = 0.0) -> Window:
    """The centred window with this part of both sides."""
    edge = (100 - percent) / 200
    name = f"{'square' if square else 'centre'}{percent:g}" + (f"-turned{turn:+g}" if turn else "")
    return Window(name, edge, edge, 1 - edge, 1 - edge, square, turn)


def grid(percent: int, steps: int) -> tuple[Window, ...]:
    """Windows with this part of both sides at steps x steps evenly spaced offsets, less the centred one."""
    side = percent / 100
    offsets = [(1 - side) * step / (steps - 1) for step in range(steps)]
    return tuple(
        Window(f"crop{percent}-{row}-{column}", x, y, x + side, y + side)
        for row, y in enumerate(offsets)
        for column, x in enumerate(offsets)
        if 2 * row != steps - 1 or 2 * column != steps - 1
    )


def resolve(window: Window, width: int, height: int) -> Window:
    """The window in fractions of the frame of an image of this size."""
    if not window.square:
        return window
    across, down = min(1.0, height / width), min(1.0, width / height)
    return window._replace(
        left=0.5 + (window.left - 0.5) * across,
        right=0.5 + (window.right - 0.5) * across,
        top=0.5 + (window.top - 0.5) * down,
        bottom=0.5 + (window.bottom - 0.5) * down,
        square=False,
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


def inverse(flip: Flip) -> Flip:
    """What undoes a flip: itself, but for the two quarter turns."""
    return (
        flip._replace(mirror=flip.flip, flip=flip.mirror, name=_UNDONE.get(flip.name, flip.name))
        if (flip.transpose)
        else flip
    )


_UNDONE = {"rotate90": "rotate270", "rotate270": "rotate90"}


def flip(name: str) -> Flip:
    """The flip of this name; raises KeyError if there is none."""
    return {flip.name: flip for flip in FLIPS}[name]
