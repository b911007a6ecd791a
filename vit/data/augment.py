"""Pictures to network input: Inception crop and flip for training, square resize for evaluation.

Randomness comes in as numbers in [0, 1), so an image's crop follows from (seed, epoch, id) alone.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from PIL import Image

from vit.data.order import hash64
from vit.typing import Floats, Ints, Pixels

ASPECT_RATIOS = (3 / 4, 4 / 3)  # width / height
CROP_TRIES = 100  # then the whole image; both as tf.image.sample_distorted_bounding_box
DRAWS = 4 * CROP_TRIES + 1
_AUGMENT_STREAM = 0xA06  # keeps these draws apart from those of the sample order


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to a training image (paper App. B.1, authors' input_pipeline.py; BiT §3.3 for "square")."""

    # inception: at least crop_area of the picture, aspect 3/4 to 4/3; square: same aspect, exactly crop_area
    crop: Literal["inception", "square", "none"]
    crop_area: float  # fraction of the picture: 0.05 for inception; 0.735 is BiT's 448 -> 384
    flip: bool  # left-right, half of the images

    def __post_init__(self) -> None:
        if not 0 < self.crop_area <= 1:
            raise ValueError(f"crop_area {self.crop_area} must be above 0 and at most 1")


def draws(seed: int, epochs: Ints, ids: Ints) -> Floats:
    """Uniform numbers in [0, 1) for each image: float64 [B, DRAWS]."""
    hashes = hash64(_AUGMENT_STREAM, seed, epochs[:, None], ids[:, None], np.arange(DRAWS))
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def augment(image: Image.Image, resolution: int, uniform: Floats, config: AugmentConfig) -> Pixels:
    """One training view: crop, bilinear resize without antialiasing, flip; uint8 [resolution, resolution, 3]."""
    left, top, width, height = _crop_box(image.size, uniform, config)
    box = (left, top, left + width, top + height)
    if config.flip and uniform[-1] < 0.5:
        box = (left + width, top, left, top + height)
    # EXTENT samples the source at pixel centres, as tf.image.resize with antialias=False does.
    view = image.transform((resolution, resolution), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    return np.asarray(view)


def _crop_box(size: tuple[int, int], uniform: Floats, config: AugmentConfig) -> tuple[float, float, float, float]:
    """(left, top, width, height), in pixels."""
    width, height = size
    if config.crop == "inception":
        return inception_crop(width, height, config.crop_area, uniform)
    if config.crop == "square":
        kept = math.sqrt(config.crop_area)
        x, y = float(uniform[0]), float(uniform[1])
        return x * (1 - kept) * width, y * (1 - kept) * height, kept * width, kept * height
    return 0, 0, width, height


def inception_crop(width: int, height: int, min_area: float, uniform: Floats) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random crop, drawn as tf.image.sample_distorted_bounding_box draws it.

    The aspect ratio is uniform (not log-uniform) and then the crop's height is, within the area limits;
    a crop that does not fit is drawn again.
    """
    for attempt in range(CROP_TRIES):
        ratio, size, x, y = uniform[4 * attempt : 4 * attempt + 4]
        crop = _crop_size(width, height, min_area, (float(ratio), float(size)))
        if crop:
            return int(x * (width - crop[0] + 1)), int(y * (height - crop[1] + 1)), *crop
    return 0, 0, width, height


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
    fits = 0 < crop_width <= width and 0 < crop_height <= height
    return (crop_width, crop_height) if fits and smallest <= crop_width * crop_height <= largest else None


def resize(image: Image.Image, resolution: int) -> Pixels:
    """The evaluation view: the whole picture squashed to a square, bilinear; uint8 [resolution, resolution, 3]."""
    return np.asarray(image.resize((resolution, resolution), Image.Resampling.BILINEAR))
