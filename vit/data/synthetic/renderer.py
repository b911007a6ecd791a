"""Polygons to pixels: unit outlines, their placement, and supersampled drawing with Pillow.

Coordinates are in pixels, x to the right and y down, with (0, 0) at the top left corner of the image.
"""

import functools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from vit.data.synthetic.draw import cos_sin
from vit.typing import Floats, Pixels

SUPERSAMPLING = 4  # samples per pixel and axis
Colour: TypeAlias = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)


def paint(size: int, background: Colour, faces: Sequence[tuple[Floats, Colour]]) -> Pixels:
    """Fill polygons (float [V, 2]) one over the other; uint8 [size, size, 3]."""
    canvas = Image.new("RGB", (size * SUPERSAMPLING, size * SUPERSAMPLING), background)
    draw = ImageDraw.Draw(canvas)
    for polygon, colour in faces:
        draw.polygon(_samples(polygon), fill=colour)
    return np.asarray(canvas.reduce(SUPERSAMPLING))


def stencil(size: int, faces: Sequence[tuple[Floats, float]]) -> tuple[Pixels, Pixels]:
    """Coverage and coverage x shade of polygons with shades in [0, 1]; both uint8 [size, size], shade 0 erases."""
    canvas = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING), 0)
    draw = ImageDraw.Draw(canvas)
    for polygon, shade in faces:
        draw.polygon(_samples(polygon), fill=round(255 * shade))
    shaded = np.asarray(canvas.reduce(SUPERSAMPLING))
    if all(shade in (0.0, 1.0) for _, shade in faces):
        return shaded, shaded
    return np.asarray(canvas.point(_FULL_IF_DRAWN).reduce(SUPERSAMPLING)), shaded


def place(outline: Floats, *, x: float, y: float, radius: float, angle: float = 0.0) -> Floats:
    """Scale, turn (radians) and move a unit outline [V, 2]."""
    return outline @ turning(np.array([angle]), np.array([radius]))[0] + np.array([x, y])


def turning(angles: Floats, scales: Floats) -> Floats:
    """Row-vector matrices [N, 2, 2] that turn by `angles` (radians) and scale, both [N]."""
    cos, sin = cos_sin(angles) * scales
    return np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)


def stroke(points: Sequence[tuple[float, float]], width: float) -> list[Floats]:
    """A line through `points` as one rectangle [4, 2] per segment, long enough that corners close."""
    line: Floats = np.array(points)
    along: Floats = np.diff(line, axis=0)
    along *= width / 2 / np.sqrt((along**2).sum(axis=1, keepdims=True))
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    starts, ends = line[:-1] - along, line[1:] + along
    return list(np.stack([starts - across, starts + across, ends + across, ends - across], axis=1))


@functools.cache
def regular(corners: int, phase: float = 0.0) -> Floats:
    """A regular polygon [corners, 2] in the unit circle; `phase` in turns from the top."""
    cos, sin = cos_sin(2 * np.pi * (np.arange(corners) / corners + phase))
    return np.stack([sin, -cos], axis=1)


@functools.cache
def star(points: int = 5, inner: float = 0.42) -> Floats:
    """A star [2 * points, 2] in the unit circle, one point up."""
    outline = regular(2 * points).copy()
    outline[1::2] *= inner
    return outline


@functools.cache
def heart() -> Floats:
    """A heart [40, 2] in the unit circle, tip down."""
    turn = 2 * np.pi * np.arange(40) / 40
    cos, sin = cos_sin(turn)
    height = 13 * cos - 5 * cos_sin(2 * turn)[0] - 2 * cos_sin(3 * turn)[0] - cos_sin(4 * turn)[0]
    return np.stack([16 * sin**3, -height - 2.5], axis=1) / 17


@functools.cache
def cross(arm: float = 0.34) -> Floats:
    """A plus sign [12, 2] in the unit circle, with arms `arm` half-wide."""
    corner = np.array([[-arm, -0.94], [arm, -0.94], [arm, -arm]])
    quarter_turns = [np.array([[1, 0], [0, 1]]), np.array([[0, 1], [-1, 0]])]
    half = np.concatenate([corner @ turn for turn in quarter_turns])
    return np.concatenate([half, -half])


def _samples(polygon: Floats) -> list[float]:
    """Corners on the whole samples of the fine grid, so that the last bits of a coordinate change nothing."""
    return np.round(polygon * SUPERSAMPLING - 0.5).ravel().tolist()


_FULL_IF_DRAWN = [0] + [255] * 255
