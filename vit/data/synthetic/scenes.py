"""Rendered tasks of mini-VTAB: how many objects, how near the nearest, which way it faces (CLEVR, smallNORB)."""

import itertools

import numpy as np

from vit.data.synthetic.draw import integers, uniform
from vit.data.synthetic.renderer import Colour, cross, heart, paint, place, regular, star
from vit.data.synthetic.solids import NORMALS, SIDES, box, brightness, rotation, visible
from vit.typing import Floats, Ints, Pixels

SIZE = 32  # pixels
OUTLINES = (regular(24), regular(4, 0.125), regular(3), star(), cross(), heart())
DISTANCE_EDGES = (7.0, 8.0, 8.5, 9.0, 9.5, 10.0, 11.0)  # CLEVR's thresholds between the nearest and farthest depth
AZIMUTH_STEP = 20.0  # degrees

# Bright, saturated colours for objects; backgrounds stay dark and grey.
COLOURS: tuple[Colour, ...] = (
    (235, 60, 50),
    (250, 160, 30),
    (245, 230, 70),
    (90, 205, 70),
    (60, 200, 220),
    (80, 130, 250),
    (190, 100, 240),
    (245, 245, 245),
)


def count(stream: str, keys: Ints) -> tuple[Ints, Pixels]:
    """Three to ten shapes that do not touch; label = number - 3, as clevr_count in TA:data/clevr.py."""
    labels = integers(f"{stream}/label", keys, count=8)
    pixels = [_count_scene(f"{stream}/{key}", int(label) + 3) for key, label in zip(keys.tolist(), labels, strict=True)]
    return labels, np.stack(pixels)


def distance(stream: str, keys: Ints) -> tuple[Ints, Pixels]:
    """Spheres and cubes on a floor; label = bin of the nearest depth, thresholds as clevr_dist in TA:data/clevr.py."""
    nearest = uniform(f"{stream}/bin", keys, high=6)  # bins are equally likely, depths within one too
    depths = np.interp(nearest, np.arange(7), DISTANCE_EDGES)
    labels = np.searchsorted(DISTANCE_EDGES[1:-1], depths, side="left")
    scenes = zip(keys.tolist(), depths.tolist(), strict=True)
    return labels, np.stack([_distance_scene(f"{stream}/{key}", depth) for key, depth in scenes])


def azimuth(stream: str, keys: Ints) -> tuple[Ints, Pixels]:
    """A car-like solid seen from all around, the elevation and the light vary; label = azimuth / 20 degrees."""
    labels = integers(f"{stream}/label", keys, count=18)
    angles = np.deg2rad(AZIMUTH_STEP * labels + uniform(f"{stream}/jitter", keys, low=-4, high=4))
    scenes = zip(keys.tolist(), angles.tolist(), strict=True)
    return labels, np.stack([_azimuth_scene(f"{stream}/{key}", angle) for key, angle in scenes])


def _count_scene(stream: str, number: int) -> Pixels:
    vary = uniform(stream, np.arange(4)[:, None], np.arange(number))
    radii = 2.6 + 0.9 * vary[0]
    centres = next(found for trial in itertools.count() if len(found := _apart(f"{stream}/{trial}", radii)) == number)
    outlines: list[int] = (vary[1] * len(OUTLINES)).astype(np.int64).tolist()
    colours: list[int] = (vary[2] * len(COLOURS)).astype(np.int64).tolist()
    angles = 2 * np.pi * vary[3]
    faces: list[tuple[Floats, Colour]] = []
    for row, (x, y) in enumerate(centres):
        outline = place(OUTLINES[outlines[row]], x=x, y=y, radius=radii[row], angle=angles[row])
        faces.append((outline, COLOURS[colours[row]]))
    return paint(SIZE, _grey(stream, 20, 75), faces)


def _apart(stream: str, radii: Floats) -> list[list[float]]:
    """Centres of discs that do not touch, greedily from random places; fewer than `radii` if there is no room left."""
    places = uniform(f"{stream}/centre", np.arange(200)[:, None], np.arange(2), low=3.7, high=SIZE - 3.7).tolist()
    sizes: list[float] = radii.tolist()
    placed: list[list[float]] = []
    for x, y in places:
        size = sizes[len(placed)] + 0.6
        if all((x - u) ** 2 + (y - v) ** 2 > (size + r) ** 2 for (u, v), r in zip(placed, sizes, strict=False)):
            placed.append([x, y])
        if len(placed) == len(sizes):
            break
    return placed


def _distance_scene(stream: str, nearest: float) -> Pixels:
    """Depths 7 … 11 stand for 2 … 4 units in front of a pinhole whose image plane is upright and shifted down."""
    number = 2 + int(integers(f"{stream}/number", 0, count=4))
    vary = uniform(stream, np.arange(5)[:, None], np.arange(number))
    depths = nearest + (DISTANCE_EDGES[-1] + 0.5 - nearest) * vary[0]
    depths[0] = nearest
    columns = 24 * vary[1] - 12  # pixels from the middle
    colours: list[int] = (vary[2] * len(COLOURS)).astype(np.int64).tolist()
    floor = np.array([[0, -1], [SIZE, -1], [SIZE, SIZE], [0, SIZE]], dtype=np.float64)
    faces = [(floor, _grey(f"{stream}/floor", 90, 140))]
    far_to_near: list[int] = np.argsort(-depths, kind="stable").tolist()
    for row in far_to_near:
        z = 2 + (depths[row] - 7) / 2
        centre = np.array([columns[row] * z / 32, 0.25, z])
        colour = COLOURS[colours[row]]
        faces += _cube(centre, np.pi / 2 * vary[4, row], colour) if vary[3, row] < 0.5 else _sphere(centre, colour)
    return paint(SIZE, (0, 0, 0), faces)


def _pinhole(points: Floats) -> Floats:
    """Focal length 32 pixels, eye 2.6 units above the floor, horizon above the upper edge."""
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    return np.stack([SIZE / 2 + 32 * x / z, -13.0 + 32 * (2.6 - y) / z], axis=1)


def _cube(centre: Floats, yaw: float, colour: Colour) -> list[tuple[Floats, Colour]]:
    turn = rotation(yaw)
    half = np.full(3, 0.23)
    shades = brightness(NORMALS @ turn, np.array([-0.5, 1.0, -0.6]), 0.45)
    sides = visible(box(-half, half) @ turn + centre, _pinhole)
    return [(outline, _shaded(colour, shades[face])) for face, outline in sides]


def _sphere(centre: Floats, colour: Colour) -> list[tuple[Floats, Colour]]:
    """Outline drawn as a circle, which it nearly is; a smaller, brighter disc shows where the light comes from."""
    x, y = _pinhole(centre[None])[0]
    radius = 32 * 0.27 / centre[2]
    lit = place(regular(24), x=x - 0.25 * radius, y=y - 0.3 * radius, radius=0.62 * radius)
    return [(place(regular(24), x=x, y=y, radius=radius), _shaded(colour, 0.6)), (lit, colour)]


def _azimuth_scene(stream: str, angle: float) -> Pixels:
    """A low bonnet with bright lamps in front of a high cabin with a dark back: no two azimuths look alike."""
    vary = uniform(stream, np.arange(11))
    turn = rotation(angle, np.deg2rad(20 + 35 * vary[0]))
    scale = 10.5 + 2.0 * vary[1]
    shift = np.array([SIZE / 2 + 3 * vary[2] - 1.5, SIZE / 2 + 2 * vary[3] - 1])
    joint, width, bonnet = 0.05 + 0.2 * vary[4], 0.45 + 0.12 * vary[5], -0.05 + 0.15 * vary[6]
    parts = [
        (box(np.array([joint, -0.45, -width]), np.array([1.0, bonnet, width])), "right", (255, 250, 190)),
        (box(np.array([-0.95, -0.45, -width]), np.array([joint, 0.55, width])), "left", (25, 20, 30)),
    ]
    # The parts meet in a plane: the one on the camera's side of it covers the other.
    camera = turn @ np.array([0.0, 0.0, -1.0])
    if camera[0] > 0:
        parts.reverse()
    light = 1.2 * (vary[7:10] - 0.5) + np.array([0, 1.0, -0.5])
    shades = brightness(NORMALS @ turn, light, 0.4)
    colour = COLOURS[int(vary[10] * 7)]  # not the white of the lamps
    faces: list[tuple[Floats, Colour]] = []
    for solid, marked, mark in parts:
        for face, outline in visible(solid @ turn, lambda points: points[:, :2] * [scale, -scale] + shift):
            faces.append((outline, mark if SIDES[face] == marked else _shaded(colour, shades[face])))
    return paint(SIZE, _grey(stream, 35, 100), faces)


def _shaded(colour: Colour, shade: float) -> Colour:
    red, green, blue = (round(value * float(shade)) for value in colour)
    return red, green, blue


def _grey(stream: str, low: int, high: int) -> Colour:
    level = low + int(integers(f"{stream}/grey", 0, count=high - low))
    return level, level, level + 5
