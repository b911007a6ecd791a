"""Crops of the public-domain and CC0 pictures inside the scikit-image wheel; train, val and test share no pixel.

Only pictures whose licence statement allows it (reference/datasets.md 5.1) and which are part of the wheel are used.
"""

import functools

import numpy as np
from skimage import color, data

from vit.data.synthetic.draw import bits
from vit.typing import Floats, Ints, Pixels

STRIPS = {"train800": (0.0, 0.6), "val200": (0.62, 0.78), "test": (0.8, 1.0)}  # of the columns
MIN_STD = 2  # grey levels; flatter crops show nothing to tell (most of the clock is a plain wall)
STAIN = "immunohistochemistry"
STAIN_SIZE = 32  # pixels


def crops(task: str, split: str, count: int, *, names: tuple[str, ...], size: int) -> tuple[Ints, Pixels]:
    """`count` different crops from the split's strips; labels int64 [count], uint8 [count, size, size, 3]."""
    labels = np.arange(count) % len(names)
    pixels = np.empty((count, size, size, 3), dtype=np.uint8)
    for label, name in enumerate(names):
        _cut(name, _positions(f"{task}/{split}", split, name, size), pixels, labels == label)
    return labels, pixels


def stain(task: str, split: str, count: int) -> tuple[Ints, Pixels]:
    """Tissue crops, half of them with label 1: more DAB stain in the middle than the median training crop (as PCam)."""
    margin, side = STAIN_SIZE // 4, STAIN_SIZE // 2
    amount = _box_sum(_stained(), side)[margin:, margin:]  # of the central half of the crop at each position
    training = _positions(f"{task}/train800", "train800", STAIN, STAIN_SIZE)[:800]
    threshold = np.median(amount[tuple(training.T)])
    positions = _positions(f"{task}/{split}", split, STAIN, STAIN_SIZE)
    much = amount[tuple(positions.T)] > threshold
    labels = np.arange(count) % 2
    pixels = np.empty((count, STAIN_SIZE, STAIN_SIZE, 3), dtype=np.uint8)
    for label in (0, 1):
        _cut(STAIN, positions[much == label], pixels, labels == label)
    return labels, pixels


@functools.cache
def picture(name: str) -> Pixels:
    """A picture of the wheel as uint8 [H, W, 3]."""
    image: Pixels = getattr(data, name)()
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _cut(name: str, positions: Ints, pixels: Pixels, wanted: Ints) -> None:
    """Fill the `wanted` rows (bool [N]) of `pixels` with the first crops."""
    rows, size = np.flatnonzero(wanted), pixels.shape[1]
    for row, (y, x) in zip(rows, positions[: len(rows)].tolist(), strict=True):
        pixels[row] = picture(name)[y : y + size, x : x + size]


def _positions(stream: str, split: str, name: str, size: int) -> Ints:
    """Top left corners (y, x) of all crops inside the split's strip that are not flat, shuffled; int64 [N, 2]."""
    height, width = map(int, picture(name).shape[:2])
    first, last = (round(share * width) for share in STRIPS[split])
    columns = last - first - size + 1
    order = np.argsort(bits(f"{stream}/{name}", np.arange((height - size + 1) * columns)), kind="stable")
    y, x = np.divmod(order, columns)
    keep = _textured(name, size)[y, x + first]
    return np.stack([y, x + first], axis=1)[keep]


@functools.cache
def _textured(name: str, size: int) -> Ints:
    """Whether the crop at each position varies by MIN_STD, bool [H - size + 1, W - size + 1]; exact in integers."""
    grey = picture(name).astype(np.int64).sum(axis=2)
    total, squares, number = _box_sum(grey, size), _box_sum(grey**2, size), size * size
    return number * squares - total**2 >= (3 * MIN_STD * number) ** 2


def _box_sum(values: Ints, size: int) -> Ints:
    summed = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return summed[size:, size:] - summed[:-size, size:] - summed[size:, :-size] + summed[:-size, :-size]


@functools.cache
def _stained() -> Ints:
    """Pixels whose DAB density (Ruifrok and Johnston's colour deconvolution) is above the picture's 70th percentile."""
    density: Floats = color.rgb2hed(picture(STAIN))[..., 2].round(6)
    return (density > np.percentile(density, 70)).astype(np.int64)
