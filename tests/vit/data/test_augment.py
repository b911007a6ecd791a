"""Crops as TensorFlow draws them, resizing as tf.image.resize does it, a view a function of (seed, epoch, position)."""

import dataclasses
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photos

from tests.recipes import augmentation
from vit.data.augment import draws, inception_crop, training_view
from vit.data.shards import encode_png
from vit.data.views import evaluation_view
from vit.typing import Floats, Pixels

PHOTO: Pixels = np.ascontiguousarray(photos.astronaut()[:300:2, ::2])  # 256 x 150
PLAIN = augmentation()
CROP_DRAWS, FLIP = 400, 400


def no_draws(value: float = 0.0) -> Floats:
    return np.full(FLIP + 1, value)


def sampled(pixels: Pixels, rows: Floats, columns: Floats) -> Floats:
    """Bilinear samples at places measured between pixel centres, the border repeated: tf.image.resize in float."""
    places = [np.clip(at, 0, size - 1) for at, size in ((rows, pixels.shape[0]), (columns, pixels.shape[1]))]
    (top, left), values = (np.floor(at).astype(int) for at in places), pixels.astype(np.float64)
    bottom, right = np.minimum(top + 1, pixels.shape[0] - 1), np.minimum(left + 1, pixels.shape[1] - 1)
    down, across = (places[0] - top)[:, None, None], (places[1] - left)[None, :, None]
    upper = values[top][:, left] * (1 - across) + values[top][:, right] * across
    lower = values[bottom][:, left] * (1 - across) + values[bottom][:, right] * across
    return upper * (1 - down) + lower * down


def resized(pixels: Pixels, height: int, width: int) -> Floats:
    """tf.image.resize(pixels, [height, width], antialias=False): half-pixel centres."""
    rows, columns = (
        (np.arange(n) + 0.5) * size / n - 0.5 for n, size in zip((height, width), pixels.shape, strict=False)
    )
    return sampled(pixels, rows, columns)


def box_filtered(pixels: Pixels, height: int, width: int) -> Floats:
    """tf.image.resize(method="area"): each new pixel is the mean of what it covers."""

    def weights(old: int, new: int) -> Floats:
        edges = np.arange(new + 1) * old / new
        covered = np.minimum(edges[1:, None], np.arange(1, old + 1)) - np.maximum(edges[:-1, None], np.arange(old))
        return np.clip(covered, 0, None) * new / old

    rows = np.einsum("yh,hwc->ywc", weights(pixels.shape[0], height), pixels)
    return np.einsum("xw,ywc->yxc", weights(pixels.shape[1], width), rows)


@given(
    width=st.integers(1, 60), height=st.integers(1, 60), area=st.sampled_from([0.05, 0.4, 0.9]), seed=st.integers(0, 99)
)
def test_crops_lie_inside_and_keep_the_area(width: int, height: int, area: float, seed: int) -> None:
    uniform = np.random.default_rng(seed).random(CROP_DRAWS)
    left, top, w, h = inception_crop(width, height, area, uniform)
    assert left >= 0 and left + w <= width and top >= 0 and top + h <= height
    assert w * h >= area * width * height


def test_crop_sizes_spread_over_the_whole_range() -> None:
    uniform = np.random.default_rng(0).random((2000, CROP_DRAWS))
    crops = np.array([inception_crop(100, 100, 0.05, row) for row in uniform])
    area = crops[:, 2] * crops[:, 3] / 100**2
    ratio = crops[:, 2] / crops[:, 3]
    assert area.min() < 0.06 and area.max() > 0.85
    assert 0.73 < ratio.min() < 0.77 and 1.28 < ratio.max() < 1.36
    # Height, not area, is uniform: more small crops than a uniform area would give (mean 0.525).
    assert 0.35 < area.mean() < 0.47
    # TensorFlow leaves out the last row and column.
    assert (crops[:, 0] + crops[:, 2])[crops[:, 2] < 100].max() == 99


@pytest.mark.parametrize("resolution", [64, 100, 224])
@pytest.mark.parametrize("seed", range(6))
def test_training_views_are_tensorflows_bilinear_crops(seed: int, resolution: int) -> None:
    config = dataclasses.replace(PLAIN, crop="inception", crop_area=0.05, flip=True)
    uniform = np.random.default_rng(seed).random(FLIP + 1)
    left, top, width, height = inception_crop(256, 150, 0.05, uniform)
    expected = resized(PHOTO[top : top + height, left : left + width], resolution, resolution)
    if uniform[FLIP] < 0.5:
        expected = expected[:, ::-1]
    view = training_view(encode_png(PHOTO), resolution, uniform, config)
    assert view.dtype == np.uint8
    difference = np.abs(view - expected)
    # OpenCV rounds to whole numbers (0.5) and counts places in 1/2048 of a pixel.
    assert difference.max() < 1 and difference.mean() < 0.27


def test_plain_view_is_the_picture() -> None:
    square = PHOTO[:96, :96]
    assert np.array_equal(training_view(encode_png(square), 96, no_draws(), PLAIN), square)


def test_flip_mirrors_half_of_the_images() -> None:
    square, config = PHOTO[:64, :64], dataclasses.replace(PLAIN, flip=True)
    assert np.array_equal(training_view(encode_png(square), 64, no_draws(0.4), config), square[:, ::-1])
    assert np.array_equal(training_view(encode_png(square), 64, no_draws(0.6), config), square)


@pytest.mark.parametrize(("resolution", "area", "side"), [(48, 0.735, 56), (128, 0.64, 160), (384, 0.735, 448)])
def test_bit_crop_is_resize_then_random_crop(resolution: int, area: float, side: int) -> None:
    config = dataclasses.replace(PLAIN, crop="square", crop_area=area)
    uniform = no_draws()
    uniform[:2] = 0.999, 0.5
    expected = resized(PHOTO, side, side)
    left, top = side - resolution, (side - resolution + 1) // 2
    view = training_view(encode_png(PHOTO), resolution, uniform, config)
    assert np.abs(view - expected[top : top + resolution, left : left + resolution]).max() < 1


def test_evaluation_squashes_as_the_served_classifier_does() -> None:
    expected = Image.fromarray(PHOTO).resize((48, 48), Image.Resampling.BILINEAR)
    assert np.array_equal(evaluation_view(encode_png(PHOTO), 48, "square"), np.asarray(expected))


@pytest.mark.parametrize("resolution", [64, 112, 224])  # smaller and larger than the picture
def test_evaluation_centre_is_area_resize_then_central_crop(resolution: int) -> None:
    small = round(resolution * 8 / 7)
    width = round(256 * small / 150)
    expected = box_filtered(PHOTO, small, width)
    top, left = (small - resolution) // 2, (width - resolution) // 2
    view = evaluation_view(encode_png(PHOTO), resolution, "centre")
    assert view.shape == (resolution, resolution, 3)
    assert np.abs(view - expected[top : top + resolution, left : left + resolution]).max() < 1


def test_paper_sizes_of_the_centre_view() -> None:
    assert [round(resolution * 256 / 224) for resolution in (224, 384)] == [256, 439]


def test_shrinking_changes_little() -> None:
    large = np.repeat(np.repeat(PHOTO, 4, axis=0), 4, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, "JPEG", quality=95)
    config = dataclasses.replace(PLAIN, crop="inception", crop_area=0.5)
    uniform = np.random.default_rng(1).random(FLIP + 1)
    exact, shrunk = (
        training_view(buffer.getvalue(), 96, uniform, dataclasses.replace(config, shrink=shrink))
        for shrink in (False, True)
    )
    assert not np.array_equal(exact, shrunk)
    assert np.abs(exact.astype(int) - shrunk).mean() < 10


def test_draws_depend_on_seed_epoch_and_position_only() -> None:
    a = draws(1, np.array([0, 0, 1]), np.array([5, 6, 5]), PLAIN)
    b = draws(1, np.array([1, 0]), np.array([5, 6]), PLAIN)
    assert np.array_equal(a[2], b[0]) and np.array_equal(a[1], b[1]) and not np.array_equal(a[0], a[2])
    assert a.min() >= 0 and a.max() < 1 and abs(a.mean() - 0.5) < 0.05
    more = draws(1, np.array([0]), np.array([5]), augmentation(layers=2, magnitude=10))
    assert np.array_equal(more[0, : a.shape[1]], a[0]) and more.shape[1] == a.shape[1] + 6


def test_randaugment_comes_last() -> None:
    config = augmentation(layers=1, magnitude=10)
    uniform = np.concatenate([no_draws(), [2.5 / 16, 0, 0]])  # the third operation: Invert
    square = PHOTO[:64, :64]
    assert np.array_equal(training_view(encode_png(square), 64, uniform, config), 255 - square)


@pytest.mark.parametrize("area", [0.0, 1.5, math.nan])
def test_bad_area_is_refused(area: float) -> None:
    with pytest.raises(ValueError, match="crop_area"):
        dataclasses.replace(PLAIN, crop_area=area)
