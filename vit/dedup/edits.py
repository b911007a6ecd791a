"""What happens to a picture on its way through the web: 29 edits in 11 groups, drawn anew for every seed.

They are the positives of the benchmark and of an embedding's calibration. The list follows copy-detection benchmarks
(Douze et al., The 2021 Image Similarity Dataset and Challenge, arXiv 2106.09672, §3; Copydays, INRIA 2009).
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from PIL.Image import Resampling, Transpose

GROUPS = {
    "A": "recompressed, rescaled",
    "B": "tone, gray",
    "C": "blur, noise",
    "D": "text, logo",
    "E": "flips, right angles",
    "F": "centre crops",
    "G": "off-centre crop",
    "H": "centre square to 32 px",
    "I": "border",
    "J": "turned by 5 degrees",
    "K": "repost",
    "-": "JPEG 10",
}
QUALITY = 90  # of what is saved after the edit


class Edit(NamedTuple):
    """One edit; `change` takes an RGB image and a random generator."""

    name: str
    group: str  # of GROUPS
    change: Callable[[Image.Image, np.random.Generator], Image.Image]
    quality: int = QUALITY  # of the JPEG


def apply(edit: Edit, image: Image.Image, draw: np.random.Generator) -> bytes:
    """The edited image as JPEG."""
    buffer = io.BytesIO()
    edit.change(image, draw).save(buffer, "JPEG", quality=edit.quality)
    return buffer.getvalue()


def _near(draw: np.random.Generator, value: float, spread: float = 0.1) -> float:
    """A number within `spread` (a fraction) of the value."""
    return value * float(draw.uniform(1 - spread, 1 + spread))


def _same(image: Image.Image, _draw: np.random.Generator) -> Image.Image:
    return image


def _grayed(image: Image.Image, _draw: np.random.Generator) -> Image.Image:
    return image.convert("L").convert("RGB")


def _resized(width: float, height: float) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    def change(image: Image.Image, draw: np.random.Generator) -> Image.Image:
        factor = _near(draw, 1.0)
        size = max(16, round(image.width * width * factor)), max(16, round(image.height * height * factor))
        return image.resize(size, Resampling.BICUBIC)

    return change


def _to_side(side: int) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    """Longer side to so many pixels, shape kept."""

    def change(image: Image.Image, _draw: np.random.Generator) -> Image.Image:
        factor = side / max(image.size)
        size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
        return image.resize(size, Resampling.BICUBIC)

    return change


def _enhanced(
    kind: Callable[[Image.Image], ImageEnhance.Brightness | ImageEnhance.Contrast | ImageEnhance.Color], factor: float
) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    return lambda image, draw: kind(image).enhance(_near(draw, factor))


def _gamma(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    power = _near(draw, 1.6 if draw.random() < 0.5 else 1 / 1.6)
    return image.point([round(255 * (value / 255) ** power) for value in range(256)] * 3)


def _blurred(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(_near(draw, 0.008 * max(image.size))))


def _noisy(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image).astype(np.float64) + draw.normal(0, _near(draw, 10), (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _lettered(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    """A line of text in white on black across about a ninth of the picture."""
    shown, height = image.copy(), max(6, round(_near(draw, 0.11) * image.height))
    top = round(float(draw.uniform(0.05, 0.85)) * (image.height - height))
    pen = ImageDraw.Draw(shown)
    pen.rectangle((0.1 * image.width, top, 0.9 * image.width, top + height), fill="black")
    pen.text((0.12 * image.width, top), "lorem ipsum dolor", fill="white", font_size=0.8 * height)
    return shown


def _marked(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    """A round logo in a corner, a fifth of the shorter side wide."""
    shown, side = image.copy(), round(_near(draw, 0.2) * min(image.size))
    left, top = (image.width - side - 3) * int(draw.integers(2)), (image.height - side - 3) * int(draw.integers(2))
    pen = ImageDraw.Draw(shown)
    pen.ellipse((left, top, left + side, top + side), fill=(200, 30, 40), outline="white", width=max(1, side // 10))
    return shown


def _transposed(method: Transpose) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    return lambda image, _draw: image.transpose(method)


def _cropped(share: float, *, is_centred: bool) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    def change(image: Image.Image, draw: np.random.Generator) -> Image.Image:
        width, height = round(share * image.width), round(share * image.height)
        right, down = (0.5, 0.5) if is_centred else draw.uniform(0, 1, 2)
        left, top = round(float(right) * (image.width - width)), round(float(down) * (image.height - height))
        return image.crop((left, top, left + width, top + height))

    return change


def _thumbnail32(image: Image.Image, _draw: np.random.Generator) -> Image.Image:
    return ImageOps.fit(image, (32, 32), Resampling.BICUBIC)


def _framed(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    edge = _near(draw, 0.1)
    shown = Image.new("RGB", (round(image.width * (1 + 2 * edge)), round(image.height * (1 + 2 * edge))), "white")
    shown.paste(image, ((shown.width - image.width) // 2, (shown.height - image.height) // 2))
    return shown


def _turned(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    degrees = _near(draw, 5) * (1 if draw.random() < 0.5 else -1)
    return image.rotate(degrees, Resampling.BICUBIC)


def _reposted(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    cut = _cropped(0.9, is_centred=False)(image.transpose(Transpose.FLIP_LEFT_RIGHT), draw)
    return _resized(0.5, 0.5)(cut, draw)


PLAIN = Edit("plain", "", _same)
EDITS = (
    Edit("jpeg50", "A", _same, quality=50),
    Edit("jpeg30", "A", _same, quality=30),
    Edit("half", "A", _resized(0.5, 0.5)),
    Edit("to64", "A", _to_side(64)),
    Edit("to32", "A", _to_side(32)),
    Edit("stretched", "A", _resized(1.33, 1.0)),
    Edit("brighter", "B", _enhanced(ImageEnhance.Brightness, 1.3)),
    Edit("darker", "B", _enhanced(ImageEnhance.Brightness, 0.6)),
    Edit("contrast", "B", _enhanced(ImageEnhance.Contrast, 1.4)),
    Edit("gamma", "B", _gamma),
    Edit("gray", "B", _grayed),
    Edit("blurred", "C", _blurred),
    Edit("noisy", "C", _noisy),
    Edit("lettered", "D", _lettered),
    Edit("marked", "D", _marked),
    Edit("mirrored", "E", _transposed(Transpose.FLIP_LEFT_RIGHT)),
    Edit("flipped", "E", _transposed(Transpose.FLIP_TOP_BOTTOM)),
    Edit("rotated90", "E", _transposed(Transpose.ROTATE_90)),
    Edit("rotated180", "E", _transposed(Transpose.ROTATE_180)),
    Edit("rotated270", "E", _transposed(Transpose.ROTATE_270)),
    Edit("centre90", "F", _cropped(0.9, is_centred=True)),
    Edit("centre75", "F", _cropped(0.75, is_centred=True)),
    Edit("centre50", "F", _cropped(0.5, is_centred=True)),
    Edit("off-centre90", "G", _cropped(0.9, is_centred=False)),
    Edit("square32", "H", _thumbnail32),
    Edit("framed", "I", _framed),
    Edit("turned5", "J", _turned),
    Edit("reposted", "K", _reposted),
    Edit("jpeg10", "-", _same, quality=10),
)
