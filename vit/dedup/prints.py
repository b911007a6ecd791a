"""What de-duplication keeps of an image: exact digests, a gray thumbnail and its colours (17 kB).

A JPEG is decoded as far as that takes: gray, and at the smallest of libjpeg's scales that has 128 px. The digest of its
RGB pixels would cost more than all else together, so it is taken only where it can matter:

- of every test image, and of every image that is no JPEG (those are decoded in full anyway);
- of a JPEG that is flat (clipping can hide what makes its gray differ) or has the size of a test image that is no JPEG;
- of a JPEG whose gray decode equals a test image's, when the search reads it again.

So equal pixels are found whatever file they come in: two JPEGs with the same pixels have the same gray decode.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from vit.data import decode, pictures
from vit.data.pictures import MAX_PIXELS, UnreadableImage
from vit.dedup.codes import SIDE
from vit.dedup.warp import shrink
from vit.typing import Ints, Pixels

BATCH = 32  # images that a thread decodes at a time
COLOUR_SIDE, DIGEST = 16, 32
GRAY = 128  # chroma of what has no colour
FLAT = 2.0  # standard deviation of a thumbnail in gray levels, below which there is nothing to compare
_COLOUR_SPACES = ("YCbCr", "Gray")  # whose gray libjpeg takes from the file as it is

Size = tuple[int, int]


class Prints(NamedTuple):
    """Of N readable images; each array has a row per image."""

    rows: Ints  # int64 [N], places in the batch
    sizes: Ints  # int32 [N, 2], width and height
    byte_digests: Pixels  # uint8 [N, 32], SHA-256 of the file
    pixel_digests: Pixels  # uint8 [N, 32], SHA-256 of size and RGB pixels; 0 where not taken
    luma_digests: Pixels  # uint8 [N, 32], SHA-256 of a JPEG's gray decode; 0 for other formats
    thumbnails: Pixels  # luma, uint8 [N, 128, 128]
    colours: Pixels  # Cb and Cr, uint8 [N, 16, 16, 2]; 128 where not decoded in full
    is_complete: Ints  # bool [N], whether decoded in full
    is_flat: Ints  # bool [N]
    unreadable: dict[int, str]  # place in the batch: the decoder's reason

    def at(self, places: Ints) -> "Prints":
        """Some of the images."""
        columns = [column[places] for column in self[:-1]]
        return Prints._make([*columns, {}])


class Print(NamedTuple):
    """Of one image; fields as in Prints."""

    sizes: Size
    byte_digests: bytes
    pixel_digests: bytes
    luma_digests: bytes
    thumbnails: Pixels
    colours: Pixels
    is_complete: bool
    is_flat: bool


def take(encoded: Sequence[bytes], *, complete: bool, sizes: frozenset[Size] = frozenset(), threads: int = 1) -> Prints:
    """Prints of encoded images; a bad one never raises, it is listed with its reason.

    `complete` decodes every image in full, as test images need it; JPEGs of `sizes` always are (TestIndex.sizes).
    """
    batches = [encoded[start : start + BATCH] for start in range(0, len(encoded), BATCH)]

    def print_all(batch: Sequence[bytes]) -> list[Print | str]:
        return [take_one(data, complete=complete, sizes=sizes) for data in batch]

    if threads == 1:
        taken = [one for batch in batches for one in print_all(batch)]
    else:
        with ThreadPoolExecutor(threads) as pool:
            taken = [one for batch in pool.map(print_all, batches) for one in batch]
    return _collect(taken)


def take_one(data: bytes, *, complete: bool, sizes: frozenset[Size] = frozenset()) -> Print | str:
    """The print of one encoded image, or why it has none."""
    digest = hashlib.sha256(data).digest()
    gray = _gray(data)
    if gray is None:
        return _in_full(data, digest, bytes(DIGEST))
    plane, size = gray
    luma = hashlib.sha256(f"{size[0]}x{size[1]} ".encode() + plane.tobytes()).digest()
    thumbnail = np.empty((SIDE, SIDE), dtype=np.uint8)
    shrink(plane, thumbnail)
    is_flat = _is_flat(thumbnail)
    if complete or is_flat or size in sizes:
        full = _in_full(data, digest, luma)
        return full if isinstance(full, str) else full._replace(thumbnails=thumbnail, is_flat=is_flat)
    gray_colours = np.full((COLOUR_SIDE, COLOUR_SIDE, 2), GRAY, dtype=np.uint8)
    return Print(size, digest, bytes(DIGEST), luma, thumbnail, gray_colours, False, is_flat)


def concatenate(parts: Sequence[Prints]) -> Prints:
    """All parts, one after the other; rows become places in the batches laid end to end."""
    lengths = [len(part.rows) + len(part.unreadable) for part in parts]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    rows = np.concatenate([part.rows + start for part, start in zip(parts, starts, strict=True)])
    columns = [np.concatenate(column) for column in zip(*(part[1:-1] for part in parts), strict=True)]
    unreadable = {
        row + start: why for part, start in zip(parts, starts, strict=True) for row, why in part.unreadable.items()
    }
    return Prints._make([rows, *columns, unreadable])


def _collect(taken: Sequence[Print | str]) -> Prints:
    good = [(row, one) for row, one in enumerate(taken) if not isinstance(one, str)]

    def digests(values: Iterable[bytes]) -> Pixels:
        return np.frombuffer(b"".join(values), dtype=np.uint8).reshape(-1, DIGEST)

    return Prints(
        rows=np.array([row for row, _ in good], dtype=np.int64),
        sizes=np.array([one.sizes for _, one in good], dtype=np.int32).reshape(-1, 2),
        byte_digests=digests(one.byte_digests for _, one in good),
        pixel_digests=digests(one.pixel_digests for _, one in good),
        luma_digests=digests(one.luma_digests for _, one in good),
        thumbnails=np.array([one.thumbnails for _, one in good], dtype=np.uint8).reshape(-1, SIDE, SIDE),
        colours=np.array([one.colours for _, one in good], dtype=np.uint8).reshape(-1, COLOUR_SIDE, COLOUR_SIDE, 2),
        is_complete=np.array([one.is_complete for _, one in good], dtype=bool),
        is_flat=np.array([one.is_flat for _, one in good], dtype=bool),
        unreadable={row: one for row, one in enumerate(taken) if isinstance(one, str)},
    )


def _gray(data: bytes) -> tuple[Pixels, Size] | None:
    """A plain, sound JPEG's luma at the smallest scale of at least 128 px, and its size; None for anything else."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        header: Any = simplejpeg.decode_jpeg_header(data)
        height, width, space = int(header[0]), int(header[1]), str(header[2])
        if space not in _COLOUR_SPACES or not 0 < width * height <= MAX_PIXELS:
            return None
        plane: Pixels = simplejpeg.decode_jpeg(data, "GRAY", min_width=SIDE, min_height=SIDE, min_factor=1)
    except ValueError:  # what libjpeg refuses, Pillow decides
        return None
    return plane[..., 0], (width, height)


def _in_full(data: bytes, digest: bytes, luma: bytes) -> Print | str:
    try:
        image = Image.fromarray(decode.decode(data)) if data[:2] == b"\xff\xd8" else pictures.decode(data)
    except UnreadableImage as error:
        return str(error)
    thumbnail = np.empty((SIDE, SIDE), dtype=np.uint8)
    shrink(np.asarray(image.convert("L")), thumbnail)
    small = image.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0).convert("YCbCr")
    pixels = hashlib.sha256(f"{image.width}x{image.height} ".encode() + image.tobytes()).digest()
    size = (image.width, image.height)
    return Print(size, digest, pixels, luma, thumbnail, np.asarray(small)[..., 1:], True, _is_flat(thumbnail))


def _is_flat(thumbnail: Pixels) -> bool:
    values = thumbnail.astype(np.int64)
    return bool(values.size * (values**2).sum() - values.sum() ** 2 < (FLAT * values.size) ** 2)
