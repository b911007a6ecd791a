"""smallNORB (LeCun et al. 2004): from which side, and from how high, a toy was photographed.

Not MATLAB's format, in spite of the name `.mat`: a magic number (the type), the number of dimensions, at least three
of them, all little-endian, then the array. Of each pair of images the left camera's is used.
"""

import functools
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vit.data.datasets.archives import GZIPPED, TO_THE_END, BadArchive, Member, is_gzipped, plain
from vit.data.datasets.download import Archive, need
from vit.data.datasets.vtab.dataset import Dataset, Part, Reader
from vit.data.pictures import encode_png
from vit.typing import Ints

SIDE = 96
TYPES = {507_333_717: np.dtype(np.uint8), 507_333_716: np.dtype("<i4")}
ELEVATION, AZIMUTH = 1, 2  # columns of `info`; the others are instance and lighting
URL = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/"
STEMS = {"train": "smallnorb-5x46789x9x18x6x2x96x96-training", "test": "smallnorb-5x01235x9x18x6x2x96x96-testing"}
FILES = {  # size and SHA-256 as published
    ("train", "dat"): (131_896_188, "5ffd6272a07d32695ee1082a26a41a93a37aab8c28da047f8c34ed348d214873"),
    ("train", "info"): (71_052, "de7eb932ebe7a4ee16217fead60660d0eb3d23632c2f4d1c51f88c501c17bf32"),
    ("test", "dat"): (130_799_817, "cf7104eed3e51174d2f65b66d1e5878b9da233b886f161b0d88f4510ba2c7474"),
    ("test", "info"): (10_428, "16adf314226327ee006d1a44db8cfef52773c06c829951d5653a9f6f310248a2"),
}


def _archive(split: str, kind: str) -> Archive:
    name = f"{STEMS[split]}-{kind}.mat.gz"
    size, digest = FILES[split, kind]
    return Archive(
        name=name,
        publisher=f"New York University, {URL}",
        digest=f"sha256:{digest}",
        size=size,
        url=URL + name,
        folders=(name.removesuffix(".gz"),),
    )


BY_NAME = {name: _archive(*name) for name in FILES}
ARCHIVES = tuple(BY_NAME.values())


def azimuth(directory: Path) -> Dataset:
    """Train and test (24,300 each), keys are rows; label = code / 2 of the codes 0, 2, …, 34: 18 classes of 20°.

    Raises ValueError if a file is missing, damaged, or holds other codes.
    """
    return _smallnorb(directory, tuple(f"{20 * label}°" for label in range(18)), _azimuth)


def elevation(directory: Path) -> Dataset:
    """As `azimuth`; label = code: 9 classes from 30° to 70°."""
    return _smallnorb(directory, tuple(f"{30 + 5 * label}°" for label in range(9)), _elevation)


def _azimuth(info: Ints) -> Ints:
    codes = info[:, AZIMUTH]
    if (codes % 2).any():
        raise ValueError("an azimuth is odd")
    return codes // 2


def _elevation(info: Ints) -> Ints:
    return info[:, ELEVATION]


def _smallnorb(directory: Path, class_names: tuple[str, ...], label: Callable[[Ints], Ints]) -> Dataset:
    places = {name: need(directory, archive) for name, archive in BY_NAME.items()}
    parts: dict[str, Part] = {}
    for split in STEMS:
        place = places[split, "info"]
        try:
            labels = label(matrix(_member(place)))
            if labels.min() < 0 or labels.max() >= len(class_names):
                raise ValueError(f"labels are {labels.min()} … {labels.max()}")
        except (ValueError, IndexError) as error:
            raise BadArchive(f"{place} is not the published table ({error}); get it again") from error
        parts[split] = _part(split, labels, _member(places[split, "dat"]))
    return Dataset(
        where=directory,
        class_names=class_names,
        parts=parts,
        ext="png",
        keep_order=any(is_gzipped(places[split, "dat"]) for split in STEMS),
    )


def _part(split: str, labels: Ints, images: Member) -> Part:
    shape, dtype, start = header(images)
    if shape != (len(labels), 2, SIDE, SIDE) or dtype != np.uint8:
        raise BadArchive(f"{images.path} holds {shape} of {dtype} for {len(labels)} rows of info; get it again")

    def readers(positions: Sequence[int]) -> list[Reader]:
        return [functools.partial(_png, images, start + 2 * SIDE * SIDE * position) for position in positions]

    ids = [f"{split}_{position:05d}" for position in range(len(labels))]
    return Part(keys=range(len(labels)), labels=labels.tolist(), readers=readers, ids=ids)


def header(member: Member) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape and type of the array in a NORB file, and where it begins; raises BadArchive if it is none."""
    try:
        magic, ndim = struct.unpack("<ii", member.part(0, 8))
        if magic not in TYPES or not 1 <= ndim <= 8:
            raise ValueError(f"magic number {magic}, {ndim} dimensions")
        stored = struct.unpack(f"<{max(3, ndim)}i", member.part(8, 4 * max(3, ndim)))
        shape, dtype, start = stored[:ndim], TYPES[magic], 8 + 4 * max(3, ndim)
        if min(shape) < 1 or start + int(np.prod(shape)) * dtype.itemsize > member.size:
            raise ValueError(f"it is too short for {shape} of {dtype}")
    except (ValueError, AssertionError, struct.error) as error:
        raise BadArchive(f"{member.path} is no whole NORB matrix ({error}); get it again") from error
    return shape, dtype, start


def matrix(member: Member) -> Ints:
    """The whole array of a NORB file; raises BadArchive."""
    shape, dtype, start = header(member)
    data = member.part(start, int(np.prod(shape)) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape).astype(np.int64)


def _member(place: Path) -> Member:
    return Member(place.name, TO_THE_END, str(place), 0, GZIPPED) if is_gzipped(place) else plain(place)


def _png(images: Member, start: int) -> bytes:
    grey = np.frombuffer(images.part(start, SIDE * SIDE), np.uint8).reshape(SIDE, SIDE, 1)
    return encode_png(np.repeat(grey, 3, axis=2))
