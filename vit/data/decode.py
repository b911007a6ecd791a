"""Encoded images to pixels as fast as this machine can, the same pixels with every decoder.

JPEGs go to libjpeg-turbo by the fastest way that is installed: simplejpeg, OpenCV, Pillow. Everything else, and every
JPEG that is not plain (CMYK, 12 bits, arithmetic coding) or not sound, goes to Pillow by the rules of
vit.data.pictures: what a fast decoder refuses, Pillow decides, so that neither the verdict nor its reason depends on
what is installed.

Two ways to decode less than the whole picture, both with simplejpeg alone:

- rows below the window are never decoded: the height in the header is lowered to where the window ends. What is above
  is bit for bit what a full decode gives. For JPEGs whose data come in one pass (baseline and sequential), which
  photographs nearly always are. The data are then not checked for damage, as Pillow does not either; `decode` does.
- `shrink` decodes at 1/2, 1/4 or 1/8, for photos much larger than what is wanted; other ratios are slower than no
  shrinking at all.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vit.data import pictures
from vit.data.pictures import MAX_PIXELS, UnreadableImage
from vit.typing import Pixels

try:
    import simplejpeg
except ImportError:  # optional, as is OpenCV
    simplejpeg = None
try:
    import cv2
except ImportError:
    cv2 = None

__all__ = ["UnreadableImage", "Window", "decode", "decode_window", "whole"]

SHRINKS = (8, 4, 2)  # those with SIMD kernels
_BASELINE, _EXTENDED, _PROGRESSIVE, _SCAN = 0xC0, 0xC1, 0xC2, 0xDA
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length


class Window(NamedTuple):
    """Part of a picture, in its pixels."""

    left: int
    top: int
    width: int
    height: int


Choose = Callable[[int, int], Window]  # (width, height) of the picture -> the part that is wanted


class _Frame(NamedTuple):
    """What the header of a plain JPEG says."""

    width: int
    height: int
    height_at: int  # byte where the two bytes of the height are
    one_pass: bool  # all components in one sequential scan: rows come from top to bottom


def whole(width: int, height: int) -> Window:
    """All of the picture."""
    return Window(0, 0, width, height)


def decode(data: bytes | Pixels) -> Pixels:
    """All pixels, uint8 [H, W, 3], RGB, EXIF orientation not applied; raises UnreadableImage with the reason.

    Pixels are decoded already: they come back as they are.
    """
    if not isinstance(data, bytes):
        return data
    frame = _frame(data)
    if frame is not None:
        pixels = _full(data)
        if pixels is not None:
            return pixels
    return np.asarray(pictures.decode(data))


def decode_window(data: bytes | Pixels, choose: Choose, *, shrink: int = 0) -> Pixels:
    """The pixels of the window that `choose` picks once it knows the size, uint8 [height, width, 3].

    If `shrink` > 0 the picture may come smaller by 2, 4 or 8, as long as no side of the window falls below `shrink`.
    Pixels are only cut. Raises UnreadableImage with the reason.
    """
    if not isinstance(data, bytes):
        return _cut(data, choose(data.shape[1], data.shape[0]))
    frame = _frame(data)
    if frame is not None:
        window = choose(frame.width, frame.height)
        pixels = _windowed(data, frame, window, _factor(window, shrink))
        if pixels is not None:
            return pixels
    pixels = np.asarray(pictures.decode(data))
    return _cut(pixels, choose(pixels.shape[1], pixels.shape[0]))


def _windowed(data: bytes, frame: _Frame, window: Window, factor: int) -> Pixels | None:
    """The window 1/factor in size, or None as `_full`."""
    if simplejpeg is None:
        pixels = _full(data)
        return None if pixels is None else _cut(pixels, window)
    # Upsampling the colours of the last row looks one row further.
    rows = min(frame.height, window.top + window.height + 2 * factor)
    skip = frame.one_pass and rows < frame.height and data.endswith(b"\xff\xd9")
    try:
        pixels = simplejpeg.decode_jpeg(
            _ending_at(data, frame, rows) if skip else data,
            min_width=math.ceil(frame.width / factor),
            min_height=math.ceil((rows if skip else frame.height) / factor),
            min_factor=factor,
            strict=not skip,
        )
    except ValueError:
        return None
    return _cut(pixels, Window(*(side // factor for side in window)))


def _ending_at(data: bytes, frame: _Frame, rows: int) -> bytearray:
    """The same JPEG with another height in its header."""
    lowered = bytearray(data)
    lowered[frame.height_at : frame.height_at + 2] = rows.to_bytes(2, "big")
    return lowered


def _full(data: bytes) -> Pixels | None:
    """All pixels of a plain JPEG, or None if it is not sound or nothing but Pillow is there."""
    if simplejpeg is not None:
        try:
            return simplejpeg.decode_jpeg(data)  # strict: refuses damaged and truncated data
        except ValueError:
            return None
    if cv2 is not None and data.endswith(b"\xff\xd9"):  # OpenCV would fill up a truncated file with grey
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags), np.uint8)
        except (cv2.error, TypeError):  # a TypeError because it returned None
            return None
    return None


def _factor(window: Window, shrink: int) -> int:
    """How much smaller the picture may come."""
    if not shrink:
        return 1
    return next((f for f in SHRINKS if min(window.width, window.height) >= f * shrink), 1)


def _cut(pixels: Pixels, window: Window) -> Pixels:
    left, top, width, height = window
    return pixels[top : top + height, left : left + width]


def _frame(data: bytes) -> _Frame | None:
    """The header of a JPEG that libjpeg decodes to 8-bit grey or RGB, else None. Never reads past the end."""
    if data[:2] != b"\xff\xd8":
        return None
    at, found = 2, None
    while data[at : at + 1] == b"\xff" and at + 10 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _SCAN:
            if found is None:
                return None
            frame, components = found
            return frame._replace(one_pass=frame.one_pass and data[at + 4] == components)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame; the others are tables
            found = _start_of_frame(data, at, marker)
            if found is None:
                return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _start_of_frame(data: bytes, at: int, marker: int) -> tuple[_Frame, int] | None:
    """Size and number of components."""
    precision, components = data[at + 4], data[at + 9]
    height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
    plain = marker in (_BASELINE, _EXTENDED, _PROGRESSIVE) and precision == 8 and components in (1, 3)
    if not plain or not 0 < width * height <= MAX_PIXELS:
        return None
    return _Frame(width, height, at + 5, marker != _PROGRESSIVE), components
