"""256-bit DCT codes of windows and flips of an image, all from one small gray thumbnail.

The recipe is PDQ's (Facebook ThreatExchange, pdq/README.md): the low-frequency 16x16 block of a 64x64 DCT without
its first row and column, cut at the median. Codes are made from a thumbnail, so do not mix them with those of another
implementation: they differ by some 10 bits of 256. Flips and turns are sign changes and a transpose of the block, so
no image is hashed twice.

Sums are of integers, small enough for the type that holds them: codes do not depend on batch size, threads or machine.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit.dedup.compiled import compiled, compiled_exact_sums
from vit.dedup.views import FULL, IDENTITY, Flip, View, Window, resolve
from vit.dedup.warp import turned
from vit.typing import Floats, Ints, Pixels

BITS, BYTES, SIDE, BLOCK = 256, 32, 128, 16
# What must be the same for two codes to be comparable.
SETTINGS: dict[str, str | int] = {
    "name": "dct256-thumb128",
    "version": 2,
    "bits": BITS,
    "decoder": "JPEG: libjpeg gray at the smallest of its scales from 128 px; other: Pillow RGB, luma by ITU-R 601",
    "resampler": "area average, linear where it enlarges",
}
_SAMPLES = 64  # of a window's side, which the DCT sees
_STEPS = 512  # window edges are rounded to this part of the frame
# Exact sums: 128 * 64 * 512 < 2**24, so float32 holds the first transform; shifted by 7 bits, int32 holds the second.
_SCALE, _SHIFT = 512, 7


def check_settings(stored: Mapping[str, Any]) -> None:
    """Raise ValueError unless codes stored with these settings can be compared with those made here."""
    other = {key: stored.get(key) for key, value in SETTINGS.items() if stored.get(key) != value}
    if other:
        told = ", ".join(f"{key} {value!r} rather than {SETTINGS[key]!r}" for key, value in other.items())
        raise ValueError(f"the stored codes were made with {told}: they cannot be compared; make them again")


def base(thumbnails: Pixels) -> Pixels:
    """The code of each whole image, uint8 [N, 32]: what to store of training images."""
    return codes(thumbnails, np.ones((len(thumbnails), 2), np.int32), [(FULL, IDENTITY)])[:, 0]


def codes(thumbnails: Pixels, sizes: Ints, views: Sequence[View]) -> Pixels:
    """Codes uint8 [N, len(views), 32] of thumbnails [N, 128, 128], each cut to a window and then flipped.

    `sizes` [N, 2] are widths and heights of the images themselves, which say where a square window lies.
    """
    result = np.empty((len(thumbnails), len(views), BYTES), dtype=np.uint8)
    for turn in sorted({window.turn for window, _ in views}):
        places = [place for place, (window, _) in enumerate(views) if window.turn == turn]
        shown = turned(thumbnails, sizes, turn) if turn else thumbnails
        edges, columns, rows = _edges([views[place][0] for place in places], sizes)
        flips = np.array([views[place][1][1:] for place in places], dtype=np.uint8)
        made = np.empty((len(thumbnails), len(places), BYTES), dtype=np.uint8)
        _encode(np.ascontiguousarray(shown), _waves(edges), columns, rows, flips, made)
        result[:, places] = made
    return result


def _edges(windows: Sequence[Window], sizes: Ints) -> tuple[tuple[tuple[int, int], ...], Ints, Ints]:
    """Distinct (low, high) edges in steps, and which of them each image's windows have as columns and as rows."""
    known: dict[tuple[int, int], int] = {}
    kinds, kind = np.unique(sizes, axis=0, return_inverse=True)
    columns, rows = (np.empty((len(kinds), len(windows)), dtype=np.int64) for _ in range(2))
    for i, (width, height) in enumerate(kinds.tolist()):
        for j, window in enumerate(windows):
            seen = resolve(window, width, height)
            for table, low, high in ((columns, seen.left, seen.right), (rows, seen.top, seen.bottom)):
                table[i, j] = known.setdefault((round(low * _STEPS), round(high * _STEPS)), len(known))
    return tuple(known), columns[kind.reshape(-1)], rows[kind.reshape(-1)]


def _waves(edges: tuple[tuple[int, int], ...]) -> Floats:
    """Basis functions 1 … 16 of the 64-point DCT-II on parts of the side, integers in float32 [edges, 16, 128]."""
    return np.stack([_wave(low, high) for low, high in edges]) if edges else np.empty((0, BLOCK, SIDE), np.float32)


@functools.lru_cache(4096)
def _wave(low: int, high: int) -> Floats:
    waves = np.cos(np.pi / _SAMPLES * np.arange(1, BLOCK + 1)[:, None] * (np.arange(_SAMPLES) + 0.5))
    place = (low + (np.arange(_SAMPLES) + 0.5) / _SAMPLES * (high - low)) / _STEPS * SIDE - 0.5
    linear = np.maximum(1 - np.abs(np.clip(place, 0, SIDE - 1)[:, None] - np.arange(SIDE)), 0)
    return np.rint(_SCALE * (waves @ linear)).astype(np.float32)


@compiled
def _encode(thumbnails: Pixels, waves: Floats, columns: Ints, rows: Ints, flips: Pixels, result: Pixels) -> None:
    gray, across = np.empty((SIDE, SIDE), dtype=np.float32), np.empty((len(waves), BLOCK, SIDE), dtype=np.int32)
    block, flipped = np.empty((BLOCK, BLOCK), dtype=np.int32), np.empty((BLOCK, BLOCK), dtype=np.int32)
    is_done, whole = np.empty(len(waves), dtype=np.bool_), waves.astype(np.int32)
    for image in range(len(thumbnails)):
        is_done[:] = False
        for y in range(SIDE):
            for x in range(SIDE):
                gray[y, x] = np.float32(np.int32(thumbnails[image, y, x]) - 128)
        for view in range(columns.shape[1]):
            column, row = columns[image, view], rows[image, view]
            if not is_done[column]:
                _transform_columns(gray, waves[column], across[column])
                is_done[column] = True
            if view == 0 or column != columns[image, view - 1] or row != rows[image, view - 1]:
                _transform_rows(across[column], whole[row], block)
            _flip(block, flips[view], flipped)
            _cut(flipped.reshape(-1), result[image, view])


@compiled_exact_sums
def _transform_columns(gray: Floats, wave: Floats, result: Ints) -> None:
    """For each frequency u and line y the sum over x, int32 [16, 128]; four lines share what is loaded of a wave."""
    for y in range(0, SIDE, 4):
        for u in range(BLOCK):
            first, second, third, fourth = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for x in range(SIDE):
                first += gray[y, x] * wave[u, x]
                second += gray[y + 1, x] * wave[u, x]
                third += gray[y + 2, x] * wave[u, x]
                fourth += gray[y + 3, x] * wave[u, x]
            result[u, y], result[u, y + 1] = np.int32(first) >> _SHIFT, np.int32(second) >> _SHIFT
            result[u, y + 2], result[u, y + 3] = np.int32(third) >> _SHIFT, np.int32(fourth) >> _SHIFT


@compiled
def _transform_rows(across: Ints, wave: Ints, block: Ints) -> None:
    """The same along the lines, int32 [16, 16]: frequency down, frequency across."""
    for v in range(BLOCK):
        for u in range(BLOCK):
            total = np.int32(0)
            for y in range(SIDE):
                total += wave[v, y] * across[u, y]
            block[v, u] = total


@compiled
def _flip(block: Ints, flip: Pixels, result: Ints) -> None:
    """Odd functions (the even places) change sign when mirrored."""
    for v in range(BLOCK):
        for u in range(BLOCK):
            value = block[u, v] if flip[0] else block[v, u]
            negative = (flip[1] & (u + 1) & 1) ^ (flip[2] & (v + 1) & 1)
            result[v, u] = -value if negative else value


@compiled
def _cut(values: Ints, code: Pixels) -> None:
    """One bit per coefficient: is it above the median (the 128th smallest)? The first is the highest bit of byte 0."""
    left, right, wanted, sorting = 0, len(values) - 1, len(values) // 2 - 1, values.copy()
    while left < right:  # Hoare's selection
        pivot, low, high = sorting[(left + right) // 2], left, right
        while low <= high:
            while sorting[low] < pivot:
                low += 1
            while sorting[high] > pivot:
                high -= 1
            if low <= high:
                sorting[low], sorting[high] = sorting[high], sorting[low]
                low += 1
                high -= 1
        if wanted <= high:
            right = high
        elif wanted >= low:
            left = low
        else:
            break
    median = sorting[wanted]
    for byte in range(len(code)):
        bits = 0
        for bit in range(8):
            bits = 2 * bits + (values[8 * byte + bit] > median)
        code[byte] = bits


def views_of(windows: Sequence[Window], flips: Sequence[Flip]) -> list[View]:
    """Every window in every flip, flips next to each other."""
    return [(window, flip) for window in windows for flip in flips]
