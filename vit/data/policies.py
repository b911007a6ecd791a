"""RandAugment with the 16 operations of TensorFlow's code, which AugReg and big_vision train with.

Source: big_vision/pp/autoaugment.py at 538b8a8 (from tensorflow/tpu's EfficientNet), `distort_image_with_randaugment`;
described here in our own words and tested against a plain re-derivation. What is particular about it is kept, since
published results have it:

- every layer applies one of 16 operations, drawn alike; there is no "identity" and no probability of skipping;
- Contrast blends with a constant grey of (pixels / 256), at most 255, instead of the mean grey: 196 at 224 px;
- Posterize and Solarize become weaker as the magnitude grows, and the threshold of Solarize is taken modulo 256:
  magnitude 10 inverts everything (big_vision issue 110);
- translations (100 px at magnitude 10) and Cutout (80 x 80 px) do not scale with the resolution;
- what moves in from outside, and what Cutout removes, is grey (128).

Differences: where TensorFlow truncates a blend to whole numbers, a value within 1e-4 of a whole number may come out
one lower or higher; nearest-neighbour ties of rotations and shears fall as OpenCV rounds; posterizing to 0 bits, which
TensorFlow leaves undefined, keeps 1 bit, and to more than 8 keeps 8.
"""

import dataclasses
import math
from collections.abc import Callable

import cv2
import numpy as np

from vit.typing import Floats, Ints, Pixels

MAX_LEVEL = 10.0  # the magnitude that the ranges are given for
DRAWS_PER_LAYER = 3
GREY = (128, 128, 128)
CUTOUT, TRANSLATE = 40, 100  # pixels at MAX_LEVEL: half the side of the square, and the way
_LUMA = np.array([0.2989, 0.587, 0.114], np.float32) * np.float32(255.5 / 255)  # tf.image.rgb_to_grayscale on uint8
_TRUNCATE = -0.4999  # added before rounding: rounds down


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugmentConfig:
    """How many operations an image goes through, and how strong they are."""

    layers: int  # operations per image; 0 is no RandAugment, 2 is usual
    magnitude: int  # 10 is medium; AugReg goes up to 20

    def __post_init__(self) -> None:
        if self.layers < 0:
            raise ValueError(f"layers {self.layers} must be at least 0")
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"magnitude {self.magnitude} must be between 0 and 30")


Operation = Callable[[Pixels, float, Floats], Pixels]  # (image [H, W, 3], level 0 to 3, two draws) -> image


def rand_augment(image: Pixels, uniform: Floats, config: RandAugmentConfig) -> Pixels:
    """`config.layers` operations one after the other; uint8 [H, W, 3], `uniform` [layers * DRAWS_PER_LAYER]."""
    level = config.magnitude / MAX_LEVEL
    for layer in range(config.layers):
        choice, *rest = uniform[layer * DRAWS_PER_LAYER : (layer + 1) * DRAWS_PER_LAYER]
        image = OPERATIONS[OPERATION_NAMES[int(choice * len(OPERATION_NAMES))]](image, level, np.array(rest))
    return image


def autocontrast(image: Pixels, level: float, uniform: Floats) -> Pixels:
    """Stretch each channel to 0 … 255."""
    channels = cv2.split(image)
    low, high = (np.array([f(channel) for channel in channels], np.float32) for f in (np.min, np.max))
    scale = np.where(high > low, 255 / np.maximum(high - low, 1), 1).astype(np.float32)
    offset = np.where(high > low, -low * scale, 0).astype(np.float32)
    values = np.arange(256, dtype=np.float32)[:, None] * scale + offset
    return _look_up(image, np.clip(values, 0, 255))


def equalize(image: Pixels, level: float, uniform: Floats) -> Pixels:
    """Flatten the histogram of each channel."""
    counts = [cv2.calcHist([image], [channel], None, [256], [0, 256]) for channel in range(3)]
    return _look_up(image, np.stack([_equalizing(count.ravel().astype(np.int64)) for count in counts], axis=1))


def _equalizing(counts: Ints) -> Ints:
    """The table that flattens a histogram [256]."""
    last = int(counts[np.flatnonzero(counts)[-1]])
    step = (int(counts.sum()) - last) // 255
    if step == 0:
        return np.arange(256)
    table = (np.cumsum(counts) + step // 2) // step
    return np.clip(np.concatenate([[0], table[:-1]]), 0, 255)


def invert(image: Pixels, level: float, uniform: Floats) -> Pixels:
    return cv2.bitwise_not(image).astype(np.uint8, copy=False)


def posterize(image: Pixels, level: float, uniform: Floats) -> Pixels:
    """Keep the highest bits."""
    shift = min(max(8 - int(level * 4), 0), 7)
    return image >> np.uint8(shift) << np.uint8(shift)


def solarize(image: Pixels, level: float, uniform: Floats) -> Pixels:
    """Invert what is not below a threshold."""
    values = np.arange(256)
    return _look_up(image, np.where(values < int(level * 256) % 256, values, 255 - values))


def solarize_add(image: Pixels, level: float, uniform: Floats) -> Pixels:
    """Brighten what is below 128."""
    values = np.arange(256)
    return _look_up(image, np.where(values < 128, np.minimum(values + int(level * 110), 255), values))


def color(image: Pixels, level: float, uniform: Floats) -> Pixels:
    grey = (image.astype(np.float32) @ _LUMA).astype(np.uint8)
    return _blend(cv2.merge([grey, grey, grey]).astype(np.uint8, copy=False), image, _strength(level))


def contrast(image: Pixels, level: float, uniform: Floats) -> Pixels:
    """As published, with a grey that depends on the size of the image alone."""
    grey = np.float32(int(min(image.shape[0] * image.shape[1] / 256, 255)))
    return _look_up(image, _blended(np.full(256, grey), _strength(level)))


def brightness(image: Pixels, level: float, uniform: Floats) -> Pixels:
    return _look_up(image, _blended(np.zeros(256, np.float32), _strength(level)))


def sharpness(image: Pixels, level: float, uniform: Floats) -> Pixels:
    """Blend with a smoothed image, but for its border."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel, delta=_TRUNCATE)[1:-1, 1:-1]
    return _blend(smooth, image, _strength(level))


def rotate(image: Pixels, level: float, uniform: Floats) -> Pixels:
    angle = math.radians(_signed(level * 30, uniform))
    cos, sin = math.cos(angle), math.sin(angle)
    right, bottom = image.shape[1] - 1, image.shape[0] - 1
    across = (right - (cos * right - sin * bottom)) / 2
    down = (bottom - (sin * right + cos * bottom)) / 2
    return _warp(image, [[cos, -sin, across], [sin, cos, down]])


def shear_x(image: Pixels, level: float, uniform: Floats) -> Pixels:
    return _warp(image, [[1, _signed(level * 0.3, uniform), 0], [0, 1, 0]])


def shear_y(image: Pixels, level: float, uniform: Floats) -> Pixels:
    return _warp(image, [[1, 0, 0], [_signed(level * 0.3, uniform), 1, 0]])


def translate_x(image: Pixels, level: float, uniform: Floats) -> Pixels:
    return _warp(image, [[1, 0, _signed(level * TRANSLATE, uniform)], [0, 1, 0]])


def translate_y(image: Pixels, level: float, uniform: Floats) -> Pixels:
    return _warp(image, [[1, 0, 0], [0, 1, _signed(level * TRANSLATE, uniform)]])


def cutout(image: Pixels, level: float, uniform: Floats) -> Pixels:
    """Grey out a square around a random place; it may reach over the border."""
    half = int(level * CUTOUT)
    y, x = int(uniform[0] * image.shape[0]), int(uniform[1] * image.shape[1])
    cut = image.copy()
    cut[max(0, y - half) : y + half, max(0, x - half) : x + half] = 128
    return cut


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Cutout": cutout,
    "SolarizeAdd": solarize_add,
}
OPERATION_NAMES = tuple(OPERATIONS)


def _strength(level: float) -> float:
    """Of a blend with a degenerate image: 0 is that image, 1 the original, more exaggerates."""
    return level * 1.8 + 0.1


def _signed(value: float, uniform: Floats) -> float:
    return value if uniform[0] >= 0.5 else -value


def _blend(degenerate: Pixels, image: Pixels, strength: float) -> Pixels:
    return cv2.addWeighted(image, strength, degenerate, 1 - strength, _TRUNCATE).astype(np.uint8, copy=False)


def _blended(degenerate: Floats, strength: float) -> Floats:
    """What a blend makes of each of the 256 values."""
    return np.clip(degenerate + np.float32(strength) * (np.arange(256, dtype=np.float32) - degenerate), 0, 255)


def _look_up(image: Pixels, table: Ints | Floats) -> Pixels:
    """Replace values by `table` [256] or, per channel, [256, 3], truncated to whole numbers."""
    values = table.astype(np.uint8)
    return cv2.LUT(image, values if values.ndim == 1 else values[None]).astype(np.uint8, copy=False)


def _warp(image: Pixels, matrix: list[list[float]]) -> Pixels:
    """Nearest neighbours; `matrix` leads from places in the result to places in the image."""
    size, flags = (image.shape[1], image.shape[0]), cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(
        image, np.array(matrix), size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=GREY
    )
    return warped.astype(np.uint8, copy=False)
