"""Boxes in three dimensions as shaded polygons; x to the right, y up, z away from the camera.

A convex solid needs no depth buffer: its visible faces are those whose outline keeps its turning sense.
"""

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from vit.data.synthetic.draw import cos_sin
from vit.typing import Floats

Projection: TypeAlias = Callable[[Floats], Floats]  # points [V, 3] -> pixels [V, 2]

# Faces in the order -x, +x, -y, +y, -z, +z.
SIDES = ("left", "right", "bottom", "top", "front", "back")
NORMALS = np.array([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]], dtype=np.float64)


def box(low: Floats, high: Floats) -> Floats:
    """The six faces of an axis-aligned box as corners [6, 4, 3], in the order of SIDES."""
    return np.where(_corners() > 0, high, low)


def rotation(yaw: float, pitch: float = 0.0) -> Floats:
    """Row-vector matrix [3, 3]: turn by `yaw` about the vertical, then tip the top towards the camera by `pitch`."""
    cos, sin = cos_sin(np.array([yaw, pitch]))
    turn = np.array([[cos[0], 0, -sin[0]], [0, 1, 0], [sin[0], 0, cos[0]]])
    tip = np.array([[1, 0, 0], [0, cos[1], -sin[1]], [0, sin[1], cos[1]]])
    return turn @ tip


def visible(faces: Floats, project: Projection) -> list[tuple[int, Floats]]:
    """(face, polygon [4, 2]) of those of the six `faces` [6, 4, 3] that the camera sees."""
    outlines = project(faces.reshape(-1, 3)).reshape(6, 4, 2)
    following = np.roll(outlines, -1, axis=1)
    area = (outlines[..., 0] * following[..., 1] - outlines[..., 1] * following[..., 0]).sum(axis=1)
    return [(face, outlines[face]) for face in range(6) if area[face] > 1e-6]


def brightness(normals: Floats, light: Floats, ambient: float) -> Floats:
    """Lambert's law: ambient + (1 - ambient) max(0, normal . light), in [0, 1], for `normals` [F, 3]."""
    towards = light / np.sqrt((light**2).sum())
    return ambient + (1 - ambient) * np.maximum(0.0, normals @ towards)


@functools.cache
def _corners() -> Floats:
    """Faces of the cube from -1 to 1, all turning the same way seen from outside; [6, 4, 3]."""
    faces = np.empty((6, 4, 3))
    for face, normal in enumerate(NORMALS):
        axis = face // 2
        first, second = ((axis + 1) % 3, (axis + 2) % 3)[:: 1 if normal[axis] > 0 else -1]
        faces[face][:, first], faces[face][:, second] = (-1, 1, 1, -1), (-1, -1, 1, 1)
        faces[face][:, axis] = normal[axis]
    return faces
