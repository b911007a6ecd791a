"""What an image looks like to a network when nothing is random: at validation, in tests, and once it is served.

The served classifier (flows/adapters/classifier.py) shows images by this same module, so it must import no torch; of
`square` it has a copy, Pillow alone, which a test holds against this one.
"""

from typing import Literal

import numpy as np
from PIL import Image

from vit.data.decode import decode
from vit.typing import Pixels

View = Literal["square", "centre", "inner"]
CENTRE = 256 / 224  # of the resolution: the shorter side, or both, before the centre is cut out


def evaluation_view(data: bytes | Pixels, resolution: int, view: View) -> Pixels:
    """An image, encoded or decoded, shown: uint8 [resolution, resolution, 3]. Raises UnreadableImage."""
    return shown(decode(data), resolution, view)


def shown(pixels: Pixels, resolution: int, view: View) -> Pixels:
    """`square`: squashed, antialiased. `centre`: the shorter side to 8/7 of the resolution, then its centre. `inner`:
    squashed to 8/7 of the resolution, then its centre (few-shot probes: big_vision, configs/common_fewshot.py).

    uint8 [H, W, 3] to uint8 [resolution, resolution, 3]. Sizes are computed in float32, as big_vision's
    `resize_small` does, and areas averaged (pp/ops_image.py at 4a12790).
    """
    if view == "square":
        size = (resolution, resolution)
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    if view == "inner":
        side = round(resolution * CENTRE)
        start = (side - resolution) // 2
        return shown(pixels, side, "square")[start : start + resolution, start : start + resolution]
    import cv2

    height, width = pixels.shape[:2]
    factor = np.float32(round(resolution * CENTRE)) / np.float32(min(width, height))
    size = (round(float(np.float32(width) * factor)), round(float(np.float32(height) * factor)))
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    return np.asarray(resized[top : top + resolution, left : left + resolution], np.uint8)
