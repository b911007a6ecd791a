"""The mini corpus: 64 classes of objects, shape x texture x palette, at any place, size, angle and light.

The shapes span what the tasks need: outlines, corners, pen strokes and solids in three dimensions.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vit.data import shards
from vit.data.split import train_or_val
from vit.data.synthetic import planted
from vit.data.synthetic.draw import cos_sin, shuffled, uniform
from vit.data.synthetic.renderer import regular, star, stencil, stroke, turning
from vit.data.synthetic.solids import NORMALS, box, brightness, rotation, visible
from vit.typing import Floats, Ints, Pixels

SIZE = 48  # pixels
BATCH = 32  # images whose pixels are computed together: small enough for the processor's cache

Faces: TypeAlias = list[tuple[Floats, float]]  # unit polygons with shades in [0, 1]; shade 0 cuts a hole

# The ten digits as pen strokes inside the unit circle.
DIGITS = (
    ((-0.5, -0.8), (0.5, -0.8), (0.5, 0.8), (-0.5, 0.8), (-0.5, -0.8)),
    ((-0.4, -0.4), (0.1, -0.85), (0.1, 0.9)),
    ((-0.5, -0.8), (0.5, -0.8), (0.5, 0.0), (-0.5, 0.0), (-0.5, 0.8), (0.5, 0.8)),
    ((-0.5, -0.8), (0.5, -0.8), (-0.05, -0.1), (0.5, 0.2), (0.4, 0.8), (-0.5, 0.8)),
    ((0.15, 0.85), (0.15, -0.8), (-0.6, 0.3), (0.7, 0.3)),
    ((0.5, -0.8), (-0.5, -0.8), (-0.5, 0.0), (0.5, 0.0), (0.5, 0.8), (-0.5, 0.8)),
    ((0.4, -0.85), (-0.5, 0.0), (-0.5, 0.8), (0.5, 0.8), (0.5, 0.05), (-0.4, 0.05)),
    ((-0.55, -0.8), (0.55, -0.8), (-0.1, 0.85)),
    ((0.5, 0.0), (0.5, -0.8), (-0.5, -0.8), (-0.5, 0.0), (0.5, 0.0), (0.5, 0.8), (-0.5, 0.8), (-0.5, 0.0)),
    ((0.5, -0.1), (-0.5, -0.1), (-0.5, -0.8), (0.5, -0.8), (0.5, 0.0), (-0.1, 0.85)),
)


def _ellipse(vary: Floats) -> Faces:
    return [(regular(32) * np.array([1.0, 0.7 + 0.3 * vary[0]]), 1.0)]


def _star(vary: Floats) -> Faces:
    return [(star(4 + int(3 * vary[0]), inner=0.36), 1.0)]


def _digit(vary: Floats) -> Faces:
    return _strokes(int(len(DIGITS) * vary[0]))


@functools.cache
def _strokes(digit: int) -> Faces:
    return [(segment, 1.0) for segment in stroke(DIGITS[digit], 0.36)]


def _cube(vary: Floats) -> Faces:
    turn = rotation(2 * np.pi * vary[0], np.deg2rad(15 + 40 * vary[1]))
    half = np.array([0.62, 0.62 - 0.2 * vary[2], 0.62])
    shades = brightness(NORMALS @ turn, np.array([-0.6, 1.0, -0.5]), 0.35)
    return [(outline, shades[face]) for face, outline in visible(box(-half, half) @ turn, lambda p: p[:, :2] * [1, -1])]


# Each makes its polygons from three numbers in [0, 1).
SHAPES: dict[str, Callable[[Floats], Faces]] = {"ellipse": _ellipse, "star": _star, "digit": _digit, "cube": _cube}
TEXTURES = ("plain", "striped", "checked", "dotted")
PALETTES = {"orange": (-0.04, 0.14), "green": (0.22, 0.42), "blue": (0.52, 0.68), "pink": (0.76, 0.92)}  # hues, turns
CLASS_NAMES = [f"{palette} {texture} {shape}" for shape in SHAPES for texture in TEXTURES for palette in PALETTES]


def write(
    directory: Path,
    tests: dict[str, list[shards.Example]],
    *,
    seed: int,
    num_images: int,
    val_fraction: float,
    planted_fraction: float,
) -> list[planted.Copy]:
    """Write shards with splits train and val into `directory`; returns which images are edited copies of `tests`.

    The copies replace `planted_fraction` of the images, all in train, under labels of the corpus. Raises ValueError
    if there are fewer than two images per class.
    """
    if num_images < 2 * len(CLASS_NAMES):
        raise ValueError(f"num_images is {num_images}, but {len(CLASS_NAMES)} classes need at least two images each")
    stream = f"corpus/{seed}"
    labels = shuffled(f"{stream}/label", num_images) % len(CLASS_NAMES)
    keys = [f"image-{row:07d}" for row in range(num_images)]
    splits = train_or_val(keys, labels, val_fraction=val_fraction, salt=stream)
    order: list[int] = shuffled(f"{stream}/planted", num_images).tolist()
    hosts = [keys[row] for row in order if splits[row] == "train"]
    copies = planted.choose(hosts[: round(planted_fraction * num_images)], tests, seed=seed)
    by_key = {copy.key: copy for copy in copies}

    def examples() -> Iterator[shards.Example]:
        for start in range(0, num_images, BATCH):
            rows = np.arange(start, min(start + BATCH, num_images))
            for row, pixels in zip(rows.tolist(), render(seed, rows, labels[rows]), strict=True):
                example = shards.png_example(keys[row], splits[row], int(labels[row]), pixels)
                copy = by_key.get(example.key)
                yield planted.replaced(example, copy) if copy else example

    shards.write(directory, examples(), name="corpus", class_names=CLASS_NAMES)
    return copies


def render(seed: int, rows: Ints, labels: Ints) -> Pixels:
    """Images of the given rows of the corpus, uint8 [len(rows), 48, 48, 3]; a row's image depends on no other row."""
    batches = [slice(start, start + BATCH) for start in range(0, len(rows), BATCH)]
    return np.concatenate([_render_batch(f"corpus/{seed}", rows[batch], labels[batch]) for batch in batches])


def _render_batch(stream: str, rows: Ints, labels: Ints) -> Pixels:
    radius = uniform(f"{stream}/radius", rows, low=15, high=21)
    centre = uniform(f"{stream}/centre", rows[:, None], np.arange(2), low=-1, high=1)
    centre = SIZE / 2 + centre * (SIZE / 2 + 1 - radius)[:, None]
    angle = uniform(f"{stream}/angle", rows, low=-0.4, high=0.4)
    vary = uniform(f"{stream}/shape", rows[:, None], np.arange(3))
    numbers: list[int] = (labels // (len(TEXTURES) * len(PALETTES))).tolist()
    shapes = [list(SHAPES.values())[number] for number in numbers]
    covered, shaded = np.empty((2, len(rows), SIZE, SIZE), dtype=np.uint8)
    for i, (shape, matrix) in enumerate(zip(shapes, turning(angle, radius), strict=True)):
        faces = [(polygon @ matrix + centre[i], shade) for polygon, shade in shape(vary[i])]
        covered[i], shaded[i] = stencil(SIZE, faces)
    ink = _texture(stream, rows, labels // len(PALETTES) % len(TEXTURES), centre, angle)[..., None]
    level = uniform(f"{stream}/background", rows, low=0.05, high=0.6)
    colour, second = _colours(stream, rows, labels % len(PALETTES), level)
    surface = (second[:, None, None] + (colour - second)[:, None, None] * ink) * _channel(shaded)
    lit = (surface + _background(stream, rows, level) * (1 - _channel(covered))) * _light(stream, rows)
    return np.clip(lit * 255 + 0.5, 0, 255).astype(np.uint8)


def _channel(mask: Pixels) -> Floats:
    return mask[..., None].astype(np.float32) / np.float32(255)


def _texture(stream: str, rows: Ints, textures: Ints, centre: Floats, angle: Floats) -> Floats:
    """How much of the first colour each pixel has, float32 [N, H, W] in [0, 1]; the pattern turns with the object."""
    u, v = _turned_grid(centre, angle, uniform(f"{stream}/period", rows, low=6.5, high=9))
    u, v = u + uniform(f"{stream}/u", rows)[:, None, None], v + uniform(f"{stream}/v", rows)[:, None, None]
    u, v = (u - np.floor(u)).astype(np.float32), (v - np.floor(v)).astype(np.float32)
    ink = np.ones_like(u)
    across, along = np.clip(8 * np.abs(u - 0.5) - 1.5, 0, 1), np.clip(8 * np.abs(v - 0.5) - 1.5, 0, 1)
    ink[textures == 1] = across[textures == 1]
    ink[textures == 2] = (across + along - 2 * across * along)[textures == 2]
    ink[textures == 3] = np.clip(20 * ((u - 0.5) ** 2 + (v - 0.5) ** 2) - 1.4, 0, 1)[textures == 3]
    return ink


def _turned_grid(centre: Floats, angle: Floats, period: Floats) -> tuple[Floats, Floats]:
    """Pixel positions in the frame of each object, in periods, float64 [N, H, W] each."""
    grid = np.arange(SIZE) + 0.5
    x, y = grid[None, None, :] - centre[:, 0, None, None], grid[None, :, None] - centre[:, 1, None, None]
    cos, sin = (part[:, None, None] / period[:, None, None] for part in cos_sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _colours(stream: str, rows: Ints, palettes: Ints, level: Floats) -> tuple[Floats, Floats]:
    """A saturated colour of the palette and one of the same hue that stands out from the background; float32 [N, 3]."""
    low, high = np.array(list(PALETTES.values())).T
    hue = low[palettes] + (high - low)[palettes] * uniform(f"{stream}/hue", rows)
    pure = np.clip(np.abs((hue[:, None] + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1, 0, 1)
    saturation = uniform(f"{stream}/saturation", rows, low=0.7, high=1)[:, None]
    colour: Floats = (1 - saturation * (1 - pure)) * uniform(f"{stream}/value", rows, low=0.75, high=1)[:, None]
    second = np.where(level[:, None] > 0.35, 0.2 * colour, 0.25 * colour + 0.75)
    return colour.astype(np.float32), second.astype(np.float32)


def _background(stream: str, rows: Ints, level: Floats) -> Floats:
    """A pale or dark, nearly grey colour, float32 [N, 1, 1, 3] in [0, 1]."""
    tint = uniform(f"{stream}/tint", rows[:, None], np.arange(3), low=0.85, high=1.15)
    return (level[:, None] * tint).astype(np.float32)[:, None, None]


def _light(stream: str, rows: Ints) -> Floats:
    """Brightness that changes linearly over the image, float32 [N, H, W, 1], 0.65 … 1.35."""
    slope = uniform(f"{stream}/light", rows[:, None], np.arange(2), low=-0.35, high=0.35).astype(np.float32) / SIZE
    grid = np.arange(SIZE, dtype=np.float32) + np.float32(0.5 - SIZE / 2)
    return 1 + (grid[:, None] * slope[:, 1, None, None] + grid * slope[:, 0, None, None])[..., None]
