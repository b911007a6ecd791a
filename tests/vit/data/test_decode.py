"""Every decoder gives the same pixels and the same verdict; windows are cut from what a full decode gives."""

import io
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photos

from vit.data import decode as decoding
from vit.data import pictures
from vit.data.decode import UnreadableImage, Window, decode, decode_window, whole
from vit.typing import Pixels

PHOTO: Pixels = np.ascontiguousarray(photos.astronaut()[40:203, 100:307])  # odd sides: incomplete blocks at two edges


def encoded(mode: str = "RGB", form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> Pixels:
    return np.asarray(pictures.decode(data))


JPEGS = {
    "4:4:4": encoded(subsampling=0),
    "4:2:2": encoded(subsampling=1),
    "4:2:0": encoded(subsampling=2),
    "grey": encoded("L"),
    "progressive": encoded(progressive=True),
    "restarts": encoded(restart_marker_blocks=5),
    "exif": encoded(exif=b"Exif\0\0" + b"x" * 3000),
}
OTHERS = {
    "cmyk": encoded("CMYK"),
    "png": encoded(form="PNG"),
    "palette": encoded("P", "PNG"),
    "alpha": encoded("RGBA", "PNG"),
    "16 bits": encoded("I;16", "PNG"),
    "webp": encoded(form="WEBP"),
    "gif": encoded("P", "GIF"),
}


@pytest.fixture(params=["simplejpeg", "opencv", "pillow"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Only this decoder and those behind it are installed."""
    if request.param != "simplejpeg":
        monkeypatch.setattr(decoding, "simplejpeg", None)
    if request.param == "pillow":
        monkeypatch.setattr(decoding, "cv2", None)
    return request.param


@pytest.mark.parametrize("name", [*JPEGS, *OTHERS])
def test_all_backends_give_pillows_pixels(backend: str, name: str) -> None:
    data = (JPEGS | OTHERS)[name]
    pixels = decode(data)
    assert pixels.dtype == np.uint8 and pixels.shape == PHOTO.shape
    assert np.array_equal(pixels, by_pillow(data))
    assert np.array_equal(decode_window(data, whole), pixels)


@pytest.mark.parametrize("name", [*JPEGS, *OTHERS])
@given(numbers=st.tuples(*[st.floats(0, 0.999)] * 4))
def test_a_window_is_what_a_full_decode_has_there(name: str, numbers: tuple[float, ...]) -> None:
    data = (JPEGS | OTHERS)[name]
    height, width = PHOTO.shape[:2]
    left, top = int(numbers[0] * width), int(numbers[1] * height)
    window = Window(left, top, 1 + int(numbers[2] * (width - left)), 1 + int(numbers[3] * (height - top)))
    expected = by_pillow(data)[top : top + window.height, left : left + window.width]
    assert np.array_equal(decode_window(data, lambda w, h: window), expected)


def test_rows_below_the_window_are_not_decoded() -> None:
    """What follows the window's rows is damaged, and nobody notices: it was never read."""
    data = JPEGS["4:4:4"]
    damaged = data[:-4000] + bytes(3998) + data[-2:]
    top = decode_window(damaged, lambda w, h: Window(0, 0, w, 20))
    assert np.array_equal(top, by_pillow(data)[:20])


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_large_windows_may_come_smaller(factor: int) -> None:
    large = np.repeat(np.repeat(PHOTO[:160, :200], 4, axis=0), 4, axis=1)  # 800 x 640
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, "JPEG", quality=95)
    side = 500 // factor  # of a window of 500 px
    view = decode_window(buffer.getvalue(), lambda w, h: Window(120, 80, 504, 520), shrink=side)
    expected = Image.fromarray(large[80:600, 120:624]).resize((504 // factor, 520 // factor), Image.Resampling.BOX)
    assert view.shape == (520 // factor, 504 // factor, 3)
    assert np.abs(view.astype(int) - np.asarray(expected)).mean() < 2


def test_small_windows_come_as_they_are() -> None:
    assert decode_window(JPEGS["4:2:0"], whole, shrink=150).shape == PHOTO.shape


@pytest.mark.parametrize("name", ["4:2:0", "grey", "progressive", "cmyk", "png", "webp", "gif"])
def test_truncated_images_are_refused_with_pillows_reason(backend: str, name: str) -> None:
    data = (JPEGS | OTHERS)[name]
    for length in (0, 3, len(data) // 2, len(data) - 40):
        with pytest.raises(UnreadableImage) as refusal:
            by_pillow(data[:length])
        for attempt in (decode, lambda cut: decode_window(cut, lambda w, h: Window(0, 0, w, h // 2))):
            with pytest.raises(UnreadableImage) as found:
                attempt(data[:length])
            assert str(found.value) == str(refusal.value)


def test_bombs_are_refused_before_a_pixel_is_decoded() -> None:
    data = bytearray(JPEGS["4:2:0"])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(UnreadableImage, match="too large"):
        decode(bytes(data))


def test_mutated_bytes_never_crash(backend: str) -> None:
    """500 damaged files: pixels of some shape, or a refusal; the window agrees with the verdict of the full decode
    wherever that is a refusal of the header."""
    draw = random.Random(0)
    sources = [*JPEGS.values(), OTHERS["png"], OTHERS["cmyk"]]
    refused = 0
    for _ in range(500):
        data = bytearray(draw.choice(sources))
        for _ in range(draw.randint(1, 8)):
            place = draw.randrange(min(len(data), draw.choice([64, 700, len(data)])))
            data[place] = draw.randrange(256)
        for attempt in (
            decode,
            lambda d: decode_window(d, lambda w, h: Window(w // 4, h // 4, w // 2 + 1, h // 2 + 1)),
        ):
            try:
                pixels = attempt(bytes(data))
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
            except UnreadableImage as error:
                refused += 1
                assert str(error).startswith(("is ", "has ", "cannot be decoded ("))
    assert 50 < refused < 950
