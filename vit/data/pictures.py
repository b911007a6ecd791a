"""Encoded images to RGB by Pillow: the reference decoder, and the rules for what is no plain RGB.

| content | rule |
|---|---|
| grey, palette, CMYK, YCbCr | converted to RGB as Pillow converts |
| alpha, transparent colour | dropped: the colour below is what stays |
| 16 bits a channel | the high byte |
| several frames or pages | the first |
| EXIF orientation | not applied, as the paper's code does not |
| more than MAX_PIXELS | refused before a pixel is decoded |
| 32-bit or floating-point samples | refused: no agreed range to show |
"""

import io

import numpy as np
from PIL import Image

from vit.typing import Pixels

MAX_PIXELS = 89_478_485  # where Pillow starts to warn of decompression bombs: 268 MB decoded
# Formats that are read, and their extensions, the usual one first. Not EPS and the like: Pillow runs programs for them.
EXTENSIONS: dict[str, tuple[str, ...]] = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "MPO": ("jpg", "jpeg", "mpo"),  # a camera's JPEG with a second picture behind it
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp", "dib"),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm", "pfm"),
    "JPEG2000": ("jp2", "j2k", "jpx", "jpf"),
    "AVIF": ("avif",),
}
_FORMATS = tuple(name for name in EXTENSIONS if name != "MPO")  # which Pillow opens as JPEG


class UnreadableImage(ValueError):
    """Bytes that no decoder accepts as an image. The message reads on from the image's name: `WHAT (DETAILS)`."""


def decode(data: bytes) -> Image.Image:
    """Decode an image to RGB; raises UnreadableImage with the decoder's reason."""
    return to_rgb(open_image(data))


def open_image(data: bytes) -> Image.Image:
    """Read the header; raises UnreadableImage if no format fits or the picture is too large to decode."""
    if not data:
        raise UnreadableImage("is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.UnidentifiedImageError as error:  # its text holds a memory address, which differs in every run
        raise UnreadableImage("cannot be decoded (no known image format)") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"is too large (more than {MAX_PIXELS:,} pixels: a decompression bomb?)") from error
    except Exception as error:  # on damaged bytes a decoder may raise anything
        raise UnreadableImage(f"cannot be decoded ({error})") from error
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImage(
            f"is too large ({image.width} x {image.height}, more than {MAX_PIXELS:,} pixels: a decompression bomb?)"
        )
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image by the rules above; raises UnreadableImage."""
    try:
        image.info.pop("transparency", None)
        if image.mode == "F":
            raise UnreadableImage("has floating-point samples (no agreed range to show)")
        if image.mode == "I" or image.mode.startswith("I;16"):
            return _high_byte(np.asarray(image))
        return image.convert("RGB")
    except UnreadableImage:
        raise
    except Exception as error:  # on damaged bytes a decoder may raise anything
        raise UnreadableImage(f"cannot be decoded ({error})") from error


def encode_png(pixels: Pixels) -> bytes:
    """PNG bytes of uint8 pixels [H, W, 3]; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _high_byte(samples: np.ndarray) -> Image.Image:
    """Grey levels of 16 bits to RGB; Pillow keeps some of them in 32 bits."""
    if samples.min() < 0 or samples.max() > 0xFFFF:
        raise UnreadableImage("has 32-bit samples (no agreed range to show)")
    return Image.fromarray((samples.astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
