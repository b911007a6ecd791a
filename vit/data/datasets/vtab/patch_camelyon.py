"""PatchCamelyon (Veeling et al. 2018): HDF5 arrays of 96 x 96 patches, gzipped as published or unpacked.

Reading HDF5 takes h5py, which nothing else here needs; where it is not installed the error says so.

Not verified here, for lack of the data: how the arrays are cut into chunks, which decides the speed only.
"""

import functools
import importlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit.data.datasets import inflate
from vit.data.datasets.archives import BadArchive, is_gzipped
from vit.data.datasets.download import Archive, need
from vit.data.datasets.vtab.dataset import Dataset, Part, Reader
from vit.data.pictures import encode_png

STEP = 16 << 20  # bytes at a time when looking for the end of a gzip file
URL = "https://zenodo.org/record/2546921/files/"
FILES = {  # size and SHA-256 as published
    "train_x": (6_421_353_462, "d619e741468a7ab35c7e4a75e6821b7e7e6c9411705d45708f2a0efc8960656c"),
    "train_y": (21_378, "b74126d2c01b20d3661f9b46765d29cf4e4fba6faba29c8e0d09d406331ab75a"),
    "valid_x": (805_965_320, "f82ee1670d027b4ec388048d9eabc2186b77c009655dae76d624c0ecb053ccb2"),
    "valid_y": (3_038, "ce1ae30f08feb468447971cfd0472e7becd0ad96d877c64120c72571439ae48c"),
    "test_x": (800_875_929, "79174c2201ad521602a5888be8f36ee10875f37403dd3f2086caf2182ef87245"),
    "test_y": (3_040, "0a522005fccc8bbd04c5a117bfaf81d8da2676f03a29d7499f71d0a0bd6068ef"),
}
SPLITS = {"train": "train", "validation": "valid", "test": "test"}


def _archive(name: str) -> Archive:
    file = f"camelyonpatch_level_2_split_{name}.h5.gz"
    size, digest = FILES[name]
    return Archive(
        name=file,
        publisher="Zenodo, https://zenodo.org/record/2546921",
        digest=f"sha256:{digest}",
        size=size,
        url=URL + file,
        folders=(file.removesuffix(".gz"),),
    )


BY_NAME = {name: _archive(name) for name in FILES}
ARCHIVES = tuple(BY_NAME.values())


def patch_camelyon(directory: Path) -> Dataset:
    """Train (262,144), validation and test (32,768 each), keys `train_0`, `valid_0`, `test_0`; label 1 is tumour.

    Raises ValueError if a file or h5py is missing, or images and labels do not fit together.
    """
    places = {name: need(directory, archive) for name, archive in BY_NAME.items()}
    return Dataset(
        where=directory,
        class_names=("no tumour", "tumour"),
        parts={split: _part(prefix, places) for split, prefix in SPLITS.items()},
        ext="png",
        keep_order=any(is_gzipped(place) for place in places.values()),
    )


def _part(prefix: str, places: dict[str, Path]) -> Part:
    images, labels = places[f"{prefix}_x"], places[f"{prefix}_y"]
    levels = np.asarray(_array(str(labels), "y", os.getpid())).reshape(-1).astype(np.int64)
    shape: tuple[int, ...] = _array(str(images), "x", os.getpid()).shape
    if shape[1:] != (96, 96, 3) or shape[0] != len(levels):
        raise BadArchive(f"{images} holds an array of {shape} for the {len(levels)} labels of {labels}; get both again")

    def readers(positions: Sequence[int]) -> list[Reader]:
        return [functools.partial(_png, str(images), position) for position in positions]

    keys = [f"{prefix}_{position}" for position in range(len(levels))]
    return Part(keys=keys, labels=levels.tolist(), readers=readers)


def _png(path: str, position: int) -> bytes:
    return encode_png(np.asarray(_array(path, "x", os.getpid())[position], np.uint8))


@functools.lru_cache(maxsize=len(FILES))
def _array(path: str, name: str, process: int) -> Any:
    """An array on disk. The file stays open; another process opens its own, since HDF5 survives no fork."""
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise ValueError(f"{path} is an HDF5 file, which takes h5py to read: pip install h5py") from error
    try:
        return h5py.File(_Content(path) if is_gzipped(Path(path)) else path, "r")[name]
    except (OSError, KeyError) as error:
        raise BadArchive(f"{path} is no HDF5 file with an array {name} ({error}); get it again") from error


class _Content(io.RawIOBase):
    """What a gzip file unpacks to, as the file that h5py wants."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path, self._position = path, 0

    @functools.cached_property
    def _size(self) -> int:
        size = 0
        while found := len(inflate.read(self._path, size, STEP)):
            size += found
        return size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: 0}[whence]
        self._position = offset + (self._size if whence == io.SEEK_END else start)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        data = inflate.read(self._path, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
