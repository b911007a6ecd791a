"""Crops as TensorFlow draws them, views as the recipe wants them, both a function of (seed, epoch, id) only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vit.data.augment import DRAWS, AugmentConfig, augment, draws, inception_crop, resize

PLAIN = AugmentConfig(crop="none", crop_area=1.0, flip=False)


def picture(width: int, height: int) -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).astype(np.uint8)
    return Image.fromarray(ramp.reshape(height, width, 3))


@given(
    width=st.integers(1, 60), height=st.integers(1, 60), area=st.sampled_from([0.05, 0.4, 0.9]), seed=st.integers(0, 99)
)
def test_crops_lie_inside_and_keep_the_area(width: int, height: int, area: float, seed: int) -> None:
    uniform = np.random.default_rng(seed).random(DRAWS)
    left, top, w, h = inception_crop(width, height, area, uniform)
    assert left >= 0 and left + w <= width and top >= 0 and top + h <= height
    assert w * h >= area * width * height


def test_crop_sizes_spread_over_the_whole_range() -> None:
    uniform = np.random.default_rng(0).random((2000, DRAWS))
    crops = np.array([inception_crop(100, 100, 0.05, row) for row in uniform])
    area = crops[:, 2] * crops[:, 3] / 100**2
    ratio = crops[:, 2] / crops[:, 3]
    assert area.min() < 0.06 and area.max() > 0.85
    assert 0.73 < ratio.min() < 0.77 and 1.28 < ratio.max() < 1.36
    # Height, not area, is uniform: more small crops than a uniform area would give (mean 0.525).
    assert 0.35 < area.mean() < 0.47


def test_plain_view_is_the_picture() -> None:
    image = picture(8, 8)
    assert np.array_equal(augment(image, 8, np.zeros(DRAWS), PLAIN), np.asarray(image))


def test_flip_mirrors_half_of_the_images() -> None:
    image, config = picture(8, 8), AugmentConfig(crop="none", crop_area=1.0, flip=True)
    low, high = np.zeros(DRAWS), np.full(DRAWS, 0.9)
    assert np.array_equal(augment(image, 8, low, config), np.asarray(image)[:, ::-1])
    assert np.array_equal(augment(image, 8, high, config), np.asarray(image))


def test_square_crop_keeps_the_given_area_and_shape() -> None:
    white = np.zeros((56, 56, 3), dtype=np.uint8)
    white[4:52, 4:52] = 255  # the centre 48 of 56, BiT's 448 -> 384
    config = AugmentConfig(crop="square", crop_area=(48 / 56) ** 2, flip=False)
    view = augment(Image.fromarray(white), 48, np.full(DRAWS, 0.5), config)
    assert view.min() == 255


def test_draws_depend_on_seed_epoch_and_id_only() -> None:
    a = draws(1, np.array([0, 0, 1]), np.array([5, 6, 5]))
    b = draws(1, np.array([1, 0]), np.array([5, 6]))
    assert np.array_equal(a[2], b[0]) and np.array_equal(a[1], b[1]) and not np.array_equal(a[0], a[2])
    assert a.min() >= 0 and a.max() < 1 and abs(a.mean() - 0.5) < 0.05


def test_evaluation_view_squashes_to_a_square() -> None:
    assert resize(picture(30, 20), 16).shape == (16, 16, 3)


@pytest.mark.parametrize("area", [0.0, 1.5])
def test_bad_area_is_refused(area: float) -> None:
    with pytest.raises(ValueError, match="crop_area"):
        AugmentConfig(crop="square", crop_area=area, flip=False)
