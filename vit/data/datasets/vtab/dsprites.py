"""dSprites (Matthey et al. 2017): where a sprite is, and how it is turned.

Only the published file is accepted: a set drawn anew has the same latents, but not the same pixels, and a score on it
is no VTAB score. The file of latents has a pickled member, which is never touched. Orientations 0 and 39 are the same
picture (deepmind/dsprites-dataset#7), so classes 0 and 15 of the orientation overlap.

VTAB read the HDF5 version of the file. Not verified here, for lack of the data: that the npz holds the same images.
"""

import functools
import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from vit.data.datasets.archives import BadArchive
from vit.data.datasets.download import Archive, need
from vit.data.datasets.vtab.dataset import Dataset, Part, Reader
from vit.data.pictures import encode_png
from vit.typing import Ints

SIDE = 64
FACTORS = (1, 3, 6, 40, 32, 32)  # colour, shape, scale, orientation, x, y; the last varies fastest
ORIENTATION, X = 3, 4
NUM_CLASSES = 16
CHUNK = 4096  # images at a time: 16 MB
GIT_BLOB = "d98996d3f8ee1550e06b9d4ed78d0beb478910d5"  # the npz in deepmind/dsprites-dataset
ARCHIVE = Archive(
    name="dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
    publisher="DeepMind, github.com/google-deepmind/dsprites-dataset",
    digest="md5:7da33b31b13a06f4b04a70402ce90c2e",
    url="https://raw.githubusercontent.com/google-deepmind/dsprites-dataset/master/"
    "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
)
ARCHIVES = (ARCHIVE,)


def location(directory: Path) -> Dataset:
    """All 737,280 images, keys are their numbers; label = x // 2 of 32 places, 16 classes.

    Raises ValueError if the published file is missing, damaged or another.
    """
    return _dsprites(directory, X, tuple(f"x {2 * label} and {2 * label + 1} of 32" for label in range(NUM_CLASSES)))


def orientation(directory: Path) -> Dataset:
    """As `location`; label = floor(orientation / 2.5) of 40 steps, so that classes have 3 and 2 steps in turn."""
    return _dsprites(directory, ORIENTATION, tuple(f"{label} of 16 turns" for label in range(NUM_CLASSES)))


def binned(latents: Ints, factor: int) -> Ints:
    """VTAB's 16 classes of a latent: floor(index / (number of values / 16)), int64, shape kept."""
    return (latents.astype(np.int64) * NUM_CLASSES) // FACTORS[factor]


def _dsprites(directory: Path, factor: int, class_names: tuple[str, ...]) -> Dataset:
    path = need(directory, ARCHIVE)
    if _git_blob(path) != GIT_BLOB:
        raise ValueError(
            f"{path} is not the file that {ARCHIVE.publisher} publishes (git blob {GIT_BLOB}): on sprites drawn anew a "
            "score is no VTAB score; get the published file, or use the mini tasks"
        )
    total = int(np.prod(FACTORS))
    latents = _latents(path)
    if latents.shape != (total, len(FACTORS)) or not (latents == _grid()).all():
        raise BadArchive(f"{path} has latents other than all combinations in order; get it again")

    def readers(positions: Sequence[int]) -> list[Reader]:
        return [functools.partial(_png, packed) for packed in _packed(path, positions)]

    part = Part(
        keys=range(total),
        labels=binned(latents[:, factor], factor).tolist(),
        readers=readers,
        ids=[f"{number:06d}" for number in range(total)],
    )
    return Dataset(where=path, class_names=class_names, parts={"train": part}, ext="png")


def _grid() -> Ints:
    return np.stack(np.unravel_index(np.arange(np.prod(FACTORS)), FACTORS), axis=1)


def _latents(path: Path) -> Ints:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays["latents_classes"])
    except (OSError, EOFError, LookupError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise BadArchive(f"{path} has no readable latents_classes ({error}); get it again") from error


def _packed(path: Path, positions: Sequence[int]) -> list[bytes]:
    """The images at `positions`, one bit a pixel, in one pass: the array itself is 3 GB when unpacked."""
    found: dict[int, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive, archive.open("imgs.npy") as file:
            _check_header(file, path)
            order = np.unique(np.asarray(positions, np.int64))
            for start in range(0, int(np.prod(FACTORS)), CHUNK):
                data = file.read(CHUNK * SIDE * SIDE)
                images = np.frombuffer(data[: len(data) // SIDE**2 * SIDE**2], np.uint8).reshape(-1, SIDE * SIDE)
                rows = order[np.searchsorted(order, start) : np.searchsorted(order, start + CHUNK)]
                bits = np.packbits(images[rows - start], axis=1)
                found.update(zip(rows.tolist(), (row.tobytes() for row in bits), strict=True))
    except (OSError, EOFError, LookupError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise BadArchive(f"{path} has no readable imgs ({error}); get it again") from error
    return [found[position] for position in positions]


def _check_header(file: IO[bytes], path: Path) -> None:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if shape != (int(np.prod(FACTORS)), SIDE, SIDE) or fortran or dtype != np.uint8:
        raise BadArchive(f"{path} holds images {shape} of {dtype}; get it again")


def _png(packed: bytes) -> bytes:
    """The sprite white on black, as RGB."""
    pixels = np.unpackbits(np.frombuffer(packed, np.uint8)).reshape(SIDE, SIDE, 1) * np.uint8(255)
    return encode_png(np.repeat(pixels, 3, axis=2))


def _git_blob(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
