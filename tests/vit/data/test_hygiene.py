"""Every kind of odd or broken image: dealt with by its rule and noted, or rejected with its reason."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.vit.data.pictures import encoded, jpeg, pixels, png
from vit.data.decode import decode as fast_decode
from vit.data.hygiene import NOTES, examine
from vit.data.pictures import MAX_PIXELS, UnreadableImage, decode
from vit.data.record import Record, Source
from vit.data.shards import Shards
from vit.data.writing import write_source


def picture(mode: str) -> Image.Image:
    return Image.fromarray(pixels(0, 16, 24)).convert(mode)


def sixteen_bit() -> Image.Image:
    return Image.fromarray((np.arange(16 * 24).reshape(16, 24) * 170).astype(np.uint16))


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture("RGB"), "JPEG", exif=exif)


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(pixels(number, 16, 24)) for number in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def transparent_palette() -> bytes:
    image = picture("RGB").quantize(16)
    return encoded(image, "PNG", transparency=bytes([0, 128] + [255] * 14))


def big_png(width: int, height: int) -> bytes:
    """A valid header and nothing to decode."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# Name in the source, bytes, extension afterwards, notes.
HANDLED: dict[str, tuple[str, Callable[[], bytes], str, tuple[str, ...]]] = {
    "plain": ("jpg", lambda: jpeg(1), "jpg", ()),
    "capital extension": ("JPEG", lambda: jpeg(1), "jpeg", ()),
    "no extension": ("", lambda: jpeg(1), "jpg", ()),
    "wrong extension": ("jpg", lambda: png(1), "png", ("extension",)),
    "extension of a label": ("cls", lambda: png(1), "png", ("extension",)),
    "grey": ("png", lambda: encoded(picture("L")), "png", ()),
    "bilevel": ("png", lambda: encoded(picture("1")), "png", ()),
    "cmyk": ("jpg", lambda: encoded(picture("CMYK"), "JPEG"), "jpg", ("cmyk",)),
    "16-bit png": ("png", lambda: encoded(sixteen_bit()), "png", ("16-bit",)),
    "16-bit tiff": ("tif", lambda: encoded(sixteen_bit(), "TIFF"), "tif", ("16-bit",)),
    "palette": ("png", lambda: encoded(picture("P")), "png", ("palette",)),
    "alpha": ("png", lambda: encoded(picture("RGBA")), "png", ("alpha",)),
    "grey alpha": ("png", lambda: encoded(picture("LA")), "png", ("alpha",)),
    "transparent palette": ("png", transparent_palette, "png", ("palette", "alpha")),
    "exif rotation": ("jpg", rotated, "jpg", ("rotated",)),
    "animated gif": ("gif", lambda: animated("GIF"), "gif", ("animated",)),
    "animated webp": ("webp", lambda: animated("WEBP"), "webp", ("animated",)),
    "animated png": ("png", lambda: animated("PNG"), "png", ("animated",)),
    "pages": ("tiff", lambda: animated("TIFF"), "tiff", ("animated",)),
}
REJECTED: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", r"is empty \(0 bytes\)"),
    "truncated jpeg": (lambda: jpeg(1)[:-40], r"cannot be decoded \(.*truncated"),
    "truncated png": (lambda: png(1)[:-30], r"cannot be decoded \("),
    "truncated header": (lambda: jpeg(1)[:20], r"cannot be decoded \("),
    "text": (lambda: b"<html>404 not found</html>", r"cannot be decoded \(no known image format\)"),
    "bomb": (lambda: big_png(30_000, 30_000), r"is too large .*a decompression bomb"),
    "large": (lambda: big_png(10_000, 10_000), rf"is too large \(10000 x 10000, more than {MAX_PIXELS:,} pixels"),
    "float samples": (lambda: encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), r"floating-point samples"),
    "32-bit samples": (
        lambda: encoded(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF"),
        r"has 32-bit samples",
    ),
    "eps": (lambda: encoded(picture("RGB"), "EPS"), r"no known image format"),
}


@pytest.mark.parametrize("case", HANDLED)
def test_what_is_odd_is_noted_and_decoded_by_one_rule(case: str) -> None:
    ext, make, expected, notes = HANDLED[case]
    facts = examine(make(), ext)
    assert (facts.ext, facts.notes) == (expected, notes) and set(notes) <= set(NOTES)
    image = decode(make())
    assert image.mode == "RGB" and (facts.width, facts.height) == image.size
    assert np.abs(fast_decode(make()).astype(int) - np.asarray(image)).max() <= 3  # JPEG decoders round differently


@pytest.mark.parametrize("case", REJECTED)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_unusable_is_rejected_with_its_reason(case: str) -> None:
    make, reason = REJECTED[case]
    with pytest.raises(UnreadableImage, match=reason):
        examine(make(), "png")


def test_sixteen_bits_keep_their_high_byte_and_transparency_is_dropped() -> None:
    grey = np.asarray(decode(encoded(sixteen_bit())))
    assert (grey[..., 0] == np.asarray(sixteen_bit()) >> 8).all()
    rgba = Image.fromarray(np.dstack([pixels(3), np.zeros((8, 6), np.uint8)]))
    assert (np.asarray(decode(encoded(rgba))) == pixels(3)).all()
    first = np.asarray(decode(animated("PNG")))
    assert (first == pixels(0, 16, 24)).all()
    assert decode(rotated()).size == (24, 16)


def record(key: str, data: bytes | OSError, labels: tuple[int, ...] = (0,), ext: str = "png") -> Record:
    def read() -> bytes:
        if isinstance(data, OSError):
            raise data
        return data

    return Record(key=key, split="train", labels=labels, read=read, ext=ext)


def test_a_corpus_lists_its_rejects_and_notes(tmp_path: Path) -> None:
    records = [
        record("good", png(0)),
        record("again", png(0)),
        record("good", png(1)),
        record("far", png(2), labels=(2,)),
        record("near", png(3), labels=(-1,)),
        record("none", png(4), labels=()),
        record("gone", FileNotFoundError(2, "No such file or directory")),
        record("empty.jpg", b""),
        record("renamed.jpg", png(5), ext="jpg"),
    ]
    source = Source(name="toy", family="user", class_names=("a", "b"), records=iter(records))
    report = write_source(tmp_path, source, name="toy", max_reject_share=0.7, val_fraction=0.5)
    assert pq.read_table(tmp_path / "rejects.parquet").to_pylist() == [
        {"key": "good", "reason": "repeats a key (an earlier image has the same)"},
        {"key": "far", "reason": "has an unusable label (2 is not in 0 … 1)"},
        {"key": "near", "reason": "has an unusable label (-1 is not in 0 … 1)"},
        {"key": "none", "reason": "has no label"},
        {"key": "gone", "reason": "cannot be read (No such file or directory)"},
        {"key": "empty.jpg", "reason": "is empty (0 bytes)"},
    ]
    assert (report.num_images, report.num_rejects) == (3, 6)
    assert report.notes == {"duplicate": 1, "extension": 1}
    table = Shards(tmp_path).table
    assert table["source_key"].to_pylist() == ["good", "again", "renamed.jpg"]
    assert table["notes"].to_pylist() == ["", "duplicate", "extension"]
    assert table["ext"].to_pylist() == ["png"] * 3


def test_too_many_rejects_stop_before_anything_is_written(tmp_path: Path) -> None:
    records = [record("good", png(0)), record("bad", b"x"), record("worse", b""), record("fine", png(1))]
    source = Source(name="toy", family="user", class_names=("a",), records=records)
    with pytest.raises(ValueError, match=r"2 or more of 4 images of toy are unusable.*0\.4.*bad cannot .*; worse is e"):
        write_source(tmp_path / "out", source, name="toy", max_reject_share=0.4, val_fraction=0.5)
    assert not (tmp_path / "out").exists()
    write_source(tmp_path / "out", source, name="toy", max_reject_share=0.5, val_fraction=0.5)


def test_a_service_that_is_down_is_no_fault_of_the_image(tmp_path: Path) -> None:
    source = Source(
        name="toy", family="user", class_names=("a",), records=[record("good", png(0)), record("x", TimeoutError("S3"))]
    )
    with pytest.raises(TimeoutError):
        write_source(tmp_path, source, name="toy", max_reject_share=0.9, val_fraction=0.5)


def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = rotated()
    start = data.index(b"Exif\x00\x00") + 6
    broken = data[:start] + b"\xff" * 8 + data[start + 8 :]
    assert examine(broken, "jpg").notes == ()
    assert Image.open(io.BytesIO(broken)).size == (24, 16)
