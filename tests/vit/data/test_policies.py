"""RandAugment's operations against plain re-derivations of what big_vision/pp/autoaugment.py describes."""

import math

import numpy as np
import pytest
from skimage import data as photos

from vit.data.order import uniform64
from vit.data.policies import DRAWS_PER_LAYER, OPERATION_NAMES, OPERATIONS, RandAugmentConfig, rand_augment
from vit.typing import Floats, Pixels

PHOTO: Pixels = np.ascontiguousarray(photos.astronaut()[100:324, 60:256])  # 196 x 224
LEVELS = [0.0, 0.3, 0.5, 1.0, 1.5, 2.0]
PLUS, MINUS = np.array([0.9, 0.0]), np.array([0.1, 0.0])


def blended(degenerate: Floats, image: Pixels, level: float) -> Floats:
    factor = np.float32(level * 1.8 + 0.1)
    return np.clip(degenerate + factor * (image.astype(np.float32) - degenerate), 0, 255)


def grey(image: Pixels) -> Floats:
    luma = image.astype(np.float32) / 255 @ np.array([0.2989, 0.587, 0.114], np.float32)
    return np.repeat((luma * 255.5).astype(np.uint8)[..., None], 3, axis=2).astype(np.float32)


def smoothed(image: Pixels) -> Floats:
    padded, result = image.astype(np.float32), image.astype(np.float32)
    total = 4 * padded[1:-1, 1:-1]
    for down in range(3):
        for across in range(3):
            total += padded[down : down + image.shape[0] - 2, across : across + image.shape[1] - 2]
    result[1:-1, 1:-1] = np.floor(total / 13 + 1e-4)
    return result


def moved(image: Pixels, matrix: list[list[float]]) -> Pixels:
    """For each pixel of the result the one that `matrix` names, grey outside."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    (a, b, c), (d, e, f) = matrix
    from_x, from_y = np.round(a * x + b * y + c).astype(int), np.round(d * x + e * y + f).astype(int)
    inside = (from_x >= 0) & (from_x < image.shape[1]) & (from_y >= 0) & (from_y < image.shape[0])
    result = np.full_like(image, 128)
    result[inside] = image[from_y[inside], from_x[inside]]
    return result


def rotation(degrees: float) -> list[list[float]]:
    """About the centre of the picture."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = (PHOTO.shape[1] - 1) / 2, (PHOTO.shape[0] - 1) / 2
    return [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]]


@pytest.mark.parametrize("level", LEVELS)
def test_blends(level: float) -> None:
    area = np.float32(min(196 * 224 // 256, 255))
    for name, degenerate in {
        "Color": grey(PHOTO),
        "Contrast": np.full(PHOTO.shape, area, np.float32),
        "Brightness": np.zeros(PHOTO.shape, np.float32),
        "Sharpness": smoothed(PHOTO),
    }.items():
        difference = OPERATIONS[name](PHOTO, level, PLUS) - np.floor(blended(degenerate, PHOTO, level))
        assert np.abs(difference).max() <= 1, name
        assert np.mean(difference != 0) < 0.01, name  # whole numbers but for the last digits of a float


def test_contrast_ignores_the_picture() -> None:
    """The published code's flaw: at 224 px everything moves away from 196, whatever the picture's mean."""
    dark = np.full((224, 224, 3), 20, np.uint8)
    assert set(OPERATIONS["Contrast"](dark, 0.2, PLUS).ravel().tolist()) == {int(196 + 0.46 * (20 - 196))}


def test_posterize_and_solarize_grow_weaker_with_the_magnitude() -> None:
    kept = {
        magnitude: len(np.unique(OPERATIONS["Posterize"](PHOTO, magnitude / 10, PLUS))) for magnitude in (0, 10, 20)
    }
    assert kept == {0: 2, 10: 16, 20: len(np.unique(PHOTO))}
    assert np.array_equal(OPERATIONS["Solarize"](PHOTO, 0.5, PLUS), np.where(PHOTO < 128, PHOTO, 255 - PHOTO))
    for wrapped in (1.0, 2.0):  # threshold 256 and 512 in 8 bits: everything is inverted
        assert np.array_equal(OPERATIONS["Solarize"](PHOTO, wrapped, PLUS), 255 - PHOTO)
    assert np.array_equal(OPERATIONS["Invert"](PHOTO, 1.0, PLUS), 255 - PHOTO)


def test_solarize_add() -> None:
    added = np.where(PHOTO < 128, np.minimum(PHOTO.astype(int) + 55, 255), PHOTO)
    assert np.array_equal(OPERATIONS["SolarizeAdd"](PHOTO, 0.5, PLUS), added)


def test_autocontrast_stretches_each_channel() -> None:
    flat = np.stack([PHOTO[..., 0] // 2 + 20, PHOTO[..., 1], np.full_like(PHOTO[..., 2], 7)], axis=2)
    found = OPERATIONS["AutoContrast"](flat, 1.0, PLUS)
    channel = flat[..., 0].astype(np.float32)
    scale = np.float32(255) / (channel.max() - channel.min())
    expected = np.clip(channel * scale - channel.min() * scale, 0, 255).astype(np.uint8)
    assert np.array_equal(found[..., 0], expected)
    assert np.array_equal(found[..., 2], flat[..., 2])  # a single value stays


def test_equalize_flattens_each_histogram() -> None:
    found = OPERATIONS["Equalize"](PHOTO, 1.0, PLUS)
    for channel in range(3):
        values, counts = np.unique(PHOTO[..., channel], return_counts=True)
        step, below, table = (counts.sum() - counts[-1]) // 255, 0, {}
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            table[value] = min((below + step // 2) // step, 255) if value else 0
            below += count
        assert np.array_equal(found[..., channel], np.vectorize(table.get)(PHOTO[..., channel]))
    constant = np.full((4, 4, 3), 9, np.uint8)
    assert np.array_equal(OPERATIONS["Equalize"](constant, 1.0, PLUS), constant)


@pytest.mark.parametrize(("sign", "draw"), [(1, PLUS), (-1, MINUS)])
@pytest.mark.parametrize("level", LEVELS)
def test_geometry(level: float, sign: int, draw: Floats) -> None:
    for name, matrix in {
        "Rotate": rotation(sign * level * 30),
        "ShearX": [[1, sign * level * 0.3, 0], [0, 1, 0]],
        "ShearY": [[1, 0, 0], [sign * level * 0.3, 1, 0]],
        "TranslateX": [[1, 0, sign * level * 100], [0, 1, 0]],
        "TranslateY": [[1, 0, 0], [0, 1, sign * level * 100]],
    }.items():
        found, expected = OPERATIONS[name](PHOTO, level, draw), moved(PHOTO, matrix)
        assert np.mean((found != expected).any(axis=2)) < 0.02, name  # ties between two neighbours


def test_cutout_greys_a_square_of_80_pixels_at_magnitude_10() -> None:
    inner = OPERATIONS["Cutout"](PHOTO, 1.0, np.array([0.5, 0.5]))
    assert (inner[112 - 40 : 112 + 40, 98 - 40 : 98 + 40] == 128).all()
    corner = OPERATIONS["Cutout"](PHOTO, 1.0, np.array([0.0, 0.0]))
    assert (corner[:40, :40] == 128).all() and np.array_equal(corner[40:], PHOTO[40:])


def test_layers_follow_from_their_draws() -> None:
    config = RandAugmentConfig(layers=2, magnitude=10)
    uniform = np.array([2.5, 0, 0, 15.5, 0, 0]) / 16  # Invert, then SolarizeAdd
    expected = OPERATIONS["SolarizeAdd"](255 - PHOTO, 1.0, PLUS)
    assert np.array_equal(rand_augment(PHOTO, uniform, config), expected)
    assert rand_augment(PHOTO, uniform[:0], RandAugmentConfig(layers=0, magnitude=10)) is PHOTO
    assert len(OPERATION_NAMES) == 16


@pytest.mark.parametrize("size", [1, 2, 32, 224])
@pytest.mark.parametrize("magnitude", [0, 5, 15, 30])
def test_every_operation_takes_every_image(size: int, magnitude: int) -> None:
    image = np.ascontiguousarray(PHOTO[:size, :size])
    config = RandAugmentConfig(layers=1, magnitude=magnitude)
    for number in range(16):
        before = image.copy()
        uniform = uniform64(magnitude, size, number, np.arange(DRAWS_PER_LAYER))
        uniform[0] = (number + 0.5) / 16
        view = rand_augment(image, uniform, config)
        assert view.shape == image.shape and view.dtype == np.uint8
        assert np.array_equal(image, before)  # what comes in is not touched


@pytest.mark.parametrize(("layers", "magnitude"), [(-1, 0), (1, 31)])
def test_bad_settings_are_refused(layers: int, magnitude: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        RandAugmentConfig(layers=layers, magnitude=magnitude)
