"""The two pictures of a pair as the search saw them: cut to the window that matched and turned alike, side by side."""

import io
from typing import Any, NamedTuple

from PIL import Image

from vit.dedup import check
from vit.dedup.report import Pair
from vit.dedup.tiers import Tier
from vit.dedup.views import FLIPS, FULL, IDENTITY, Window

SIDE, QUALITY = 176, 80  # longer side of a picture in pixels, JPEG quality


class Shown(NamedTuple):
    """A pair with its two pictures, aligned and encoded as JPEG."""

    pair: Pair
    train: bytes
    test: bytes


def align(pair: Pair, train: Image.Image, test: Image.Image, tier: Tier) -> Shown:
    """Both RGB images as the search saw them: cut to the window that matched and turned alike."""
    window, flip = _window(pair.window, tier), next(flip for flip in FLIPS if flip.name == pair.flip)
    is_train = pair.window.startswith("train-")
    ours = check.where((window if is_train else FULL, IDENTITY), *train.size)
    theirs = check.where((FULL if is_train else window, flip), *test.size)
    part = ours[:, :2]
    width, height = abs(part[0, 0]) * train.width, abs(part[1, 1]) * train.height
    scale = SIDE / max(width, height, 1)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    return Shown(pair, _jpeg(_seen(train, ours, size)), _jpeg(_seen(test, theirs, size)))


def _window(name: str, tier: Tier) -> Window:
    plain = name.removeprefix("train-")
    windows = (FULL, *tier.train_windows, *tier.test_windows)
    return next((window for window in windows if window.name == plain), FULL)


def _seen(image: Image.Image, affine: Any, size: tuple[int, int]) -> Image.Image:
    """The part that a map of the unit square shows, at this size; shrunk first, as a transform takes single pixels."""
    image = image.copy()
    image.thumbnail((4 * SIDE, 4 * SIDE), reducing_gap=2.0)
    (a, b, c), (d, e, f) = affine.tolist()
    width, height = size
    across, down = image.width, image.height
    data = (a * across / width, b * across / height, c * across, d * down / width, e * down / height, f * down)
    return image.transform(size, Image.Transform.AFFINE, data, resample=Image.Resampling.BICUBIC)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
