"""Encoded images to what a network is shown, as the paper's code does it, and how later recipes change that.

Randomness comes in as numbers in [0, 1), so a view follows from (seed, epoch, position) alone, whoever makes it.
Sources: google-research/vision_transformer vit_jax/input_pipeline.py at 00883dd (the paper's), big_vision
pp/ops_image.py at 4a12790, TensorFlow's sample_distorted_bounding_box_op.cc. `tf.image.resize` samples at half-pixel
centres and, in training, without antialiasing; OpenCV's INTER_LINEAR does the same and rounds to whole numbers.
"""

import dataclasses
import math
from typing import Literal

import cv2
import numpy as np

from vit.data.decode import Window, decode, decode_window, whole
from vit.data.mixing import MixConfig
from vit.data.order import OrderConfig, uniform64
from vit.data.policies import DRAWS_PER_LAYER, RandAugmentConfig, rand_augment
from vit.data.views import View
from vit.typing import Floats, Ints, Pixels

ASPECT_RATIOS = (0.75, 1.33)  # width / height; TensorFlow's default, which the paper's code leaves as it is
CROP_TRIES = 100  # then the whole image
_FLIP = 4 * CROP_TRIES  # which of an image's draws; those of crops before it, those of RandAugment behind
_AUGMENT_STREAM = 0xA06  # keeps these draws apart from those of the sample order

cv2.setNumThreads(1)  # the loader's own threads share out the images


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How images become input: chosen, cut out, changed, mixed; and how those that are only looked at do."""

    # inception: at least crop_area of the picture, aspect 0.75 to 1.33 (App. B.1); none: all of it, squashed to a
    # square; square: crop_area of that square (BiT: 448 -> 384 is 0.735, 160 -> 128 is 0.64)
    crop: Literal["inception", "square", "none"]
    crop_area: float  # fraction of the picture: 0.05 in the paper's inception crop
    flip: bool  # left-right, half of the images
    shrink: bool  # decode large photos at 1/2, 1/4 or 1/8: faster, less aliased, not what the paper's code does
    randaugment: RandAugmentConfig
    mix: MixConfig
    order: OrderConfig
    # For validation and test. square: squashed, antialiased; centre: shorter side to 8/7 of the resolution, then its
    # centre (the paper's pre-training); inner: both sides to it, then the centre (few-shot probes)
    evaluation: View

    def __post_init__(self) -> None:
        if not 0 < self.crop_area <= 1:
            raise ValueError(f"crop_area {self.crop_area} must be above 0 and at most 1")


def draws(seed: int, epochs: Ints, positions: Ints, config: AugmentConfig) -> Floats:
    """All the uniform numbers in [0, 1) that the views of these samples take: float64 [B, number of draws]."""
    count = _FLIP + 1 + config.randaugment.layers * DRAWS_PER_LAYER
    return uniform64(_AUGMENT_STREAM, seed, epochs[:, None], positions[:, None], np.arange(count))


def training_view(data: bytes | Pixels, resolution: int, uniform: Floats, config: AugmentConfig) -> Pixels:
    """One random view of an image, encoded or decoded: crop, resize, flip, RandAugment; uint8 [R, R, 3].

    `uniform` is a row of `draws`. Raises UnreadableImage.
    """
    if config.crop == "square":
        view = _square_crop(decode(data), resolution, config.crop_area, uniform)
    else:
        area = config.crop_area if config.crop == "inception" else None

        def window(width: int, height: int) -> Window:
            return whole(width, height) if area is None else inception_crop(width, height, area, uniform)

        pixels = decode_window(data, window, shrink=resolution if config.shrink else 0)
        view = _bilinear(pixels, resolution)
    if config.flip and uniform[_FLIP] < 0.5:
        view = cv2.flip(view, 1).astype(np.uint8, copy=False)
    return rand_augment(view, uniform[_FLIP + 1 :], config.randaugment)


def inception_crop(width: int, height: int, min_area: float, uniform: Floats) -> Window:
    """A random crop of at least `min_area` (fraction), drawn as tf.image.sample_distorted_bounding_box draws it.

    The aspect ratio is uniform (not log-uniform) and then the crop's height is, within the area limits; a crop that
    does not fit is drawn again, CROP_TRIES times. A crop smaller than the picture never touches its right or bottom
    edge: TensorFlow leaves out the last place.
    """
    for attempt in range(CROP_TRIES):
        ratio, size, x, y = map(float, uniform[4 * attempt : 4 * attempt + 4])
        crop = _crop_size(width, height, min_area, (ratio, size))
        if crop:
            return Window(int(x * (width - crop[0])), int(y * (height - crop[1])), *crop)
    return whole(width, height)


def _crop_size(width: int, height: int, min_area: float, uniform: tuple[float, float]) -> tuple[int, int] | None:
    ratio = ASPECT_RATIOS[0] + uniform[0] * (ASPECT_RATIOS[1] - ASPECT_RATIOS[0])
    smallest, largest = min_area * width * height, float(width * height)
    low, high = round(math.sqrt(smallest / ratio)), round(math.sqrt(largest / ratio))
    if round(high * ratio) > width:
        high = int((width + 0.5 - 1e-7) / ratio)
    high = min(high, height)
    low = min(low, high)
    crop_height = low + int(uniform[1] * (high - low + 1))
    crop_width = round(crop_height * ratio)
    if crop_width * crop_height < smallest:
        crop_height += 1
        crop_width = round(crop_height * ratio)
    if crop_width * crop_height > largest:
        crop_height -= 1
        crop_width = round(crop_height * ratio)
    fits = 0 < crop_width <= width and 0 < crop_height <= height
    return (crop_width, crop_height) if fits and smallest <= crop_width * crop_height <= largest else None


def _square_crop(pixels: Pixels, resolution: int, area: float, uniform: Floats) -> Pixels:
    """BiT's: squash to a larger square, then a random part at whole pixels (BiT paper §3.3; tf.image.random_crop)."""
    side = round(resolution / math.sqrt(area))
    squashed = _bilinear(pixels, side)
    left, top = (int(float(u) * (side - resolution + 1)) for u in uniform[:2])
    return np.ascontiguousarray(squashed[top : top + resolution, left : left + resolution])


def _bilinear(pixels: Pixels, side: int) -> Pixels:
    """Resize to a square without antialiasing, sampling at half-pixel centres."""
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
