"""What de-duplication keeps of an image: two exact digests a gray thumbnail and its colours (5 kB)."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from vit.data.shards import Shards, UnreadableImage, decode
from vit.dedup.hashes import COLOUR_SIDE, SIDE, colours, thumbnail
from vit.typing import Ints, Pixels

BATCH = 32  # images that a thread decodes at a time


class Prints(NamedTuple):
    """Digests and thumbnails of N readable images, and the rows of those that no decoder accepts."""

    rows: Ints  # int64 [N], rows of the shards
    byte_digests: list[bytes]  # SHA-256 of the encoded image
    pixel_digests: list[bytes]  # SHA-256 of size and decoded RGB pixels
    thumbnails: Pixels  # luma, uint8 [N, 64, 64]
    colours: Pixels  # Cb and Cr, uint8 [N, 16, 16, 2]
    unreadable: dict[int, str]  # row: the decoder's reason


def take(shards: Shards, rows: Sequence[int], threads: int) -> Prints:
    """Read, decode and print these rows; raises BadShard if a shard is shorter than its index says."""
    encoded = [shards.read(row) for row in rows]
    batches = [encoded[start : start + BATCH] for start in range(0, len(encoded), BATCH)]
    with ThreadPoolExecutor(threads) as pool:
        taken = [one for batch in pool.map(_print_all, batches) for one in batch]
    good = [(row, one) for row, one in zip(rows, taken, strict=True) if not isinstance(one, str)]
    return Prints(
        rows=np.array([row for row, _ in good], dtype=np.int64),
        byte_digests=[one[0] for _, one in good],
        pixel_digests=[one[1] for _, one in good],
        thumbnails=np.array([one[2] for _, one in good], dtype=np.uint8).reshape(-1, SIDE, SIDE),
        colours=np.array([one[3] for _, one in good], dtype=np.uint8).reshape(-1, COLOUR_SIDE, COLOUR_SIDE, 2),
        unreadable={row: one for row, one in zip(rows, taken, strict=True) if isinstance(one, str)},
    )


def concatenate(parts: Sequence[Prints]) -> Prints:
    """Readable images of all parts, one after the other; rows are those of each part."""
    return Prints(
        rows=np.concatenate([part.rows for part in parts]),
        byte_digests=[digest for part in parts for digest in part.byte_digests],
        pixel_digests=[digest for part in parts for digest in part.pixel_digests],
        thumbnails=np.concatenate([part.thumbnails for part in parts]),
        colours=np.concatenate([part.colours for part in parts]),
        unreadable={},
    )


def _print_all(batch: list[bytes]) -> list[tuple[bytes, bytes, Pixels, Pixels] | str]:
    return [_print(data) for data in batch]


def _print(data: bytes) -> tuple[bytes, bytes, Pixels, Pixels] | str:
    try:
        image = decode(data)
    except UnreadableImage as error:
        return str(error)
    pixels = hashlib.sha256(f"{image.width}x{image.height} ".encode() + image.tobytes()).digest()
    return hashlib.sha256(data).digest(), pixels, thumbnail(image), colours(image)
