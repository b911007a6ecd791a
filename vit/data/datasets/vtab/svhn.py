"""SVHN, cropped digits (Netzer et al. 2011): train_32x32.mat and test_32x32.mat; the extra images are not used.

The digit 0 is stored as label 10.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vit.data.datasets import matlab
from vit.data.datasets.archives import BadArchive, plain
from vit.data.datasets.download import Archive, need
from vit.data.datasets.vtab.dataset import Dataset, Part, Reader
from vit.data.pictures import encode_png
from vit.typing import Ints, Pixels

SIDE = 32
URL = "http://ufldl.stanford.edu/housenumbers/"
TRAIN = Archive(
    name="train_32x32.mat",
    publisher=f"Stanford, {URL}",
    digest="sha256:435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    size=182_040_794,
    url=URL + "train_32x32.mat",
)
TEST = Archive(
    name="test_32x32.mat",
    publisher=f"Stanford, {URL}",
    digest="sha256:cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    size=64_275_384,
    url=URL + "test_32x32.mat",
)
ARCHIVES = (TRAIN, TEST)


def svhn(directory: Path) -> Dataset:
    """Train (73,257) and test (26,032), keys are positions in the .mat, labels the digits 0 … 9.

    Raises ValueError if a file is missing or damaged, or holds labels other than 1 … 10.
    """
    places = {"train": need(directory, TRAIN), "test": need(directory, TEST)}
    return Dataset(
        where=places["train"].parent,
        class_names=tuple("0123456789"),
        parts={split: _part(split, place) for split, place in places.items()},
        ext="png",
    )


def _part(split: str, place: Path) -> Part:
    modified = place.stat().st_mtime_ns
    images, labels = _arrays(str(place), modified)
    if labels.min() < 1 or labels.max() > 10 or len(labels) != len(images):
        raise BadArchive(
            f"{place} has labels {labels.min()} … {labels.max()} for {len(labels)} of {len(images)} images; "
            "they should be 1 … 10, one an image: get it again"
        )

    def readers(positions: Sequence[int]) -> list[Reader]:
        return [functools.partial(_png, str(place), modified, position) for position in positions]

    return Part(
        keys=range(len(labels)),
        labels=(labels % 10).tolist(),
        readers=readers,
        ids=[f"{split}_{position:06d}" for position in range(len(labels))],
    )


def _png(path: str, modified: int, position: int) -> bytes:
    return encode_png(_arrays(path, modified)[0][position])


@functools.lru_cache(maxsize=2)
def _arrays(path: str, modified: int) -> tuple[Pixels, Ints]:
    """Images [N, 32, 32, 3] and their labels as stored [N]; 225 MB, kept by each process that reads them."""
    variables = matlab.load(plain(Path(path)))
    if not {"X", "y"} <= variables.keys() or variables["X"].size % (SIDE * SIDE * 3):
        raise BadArchive(f"{path} does not hold 32 x 32 images X and labels y; get it again")
    images = variables["X"].reshape(SIDE, SIDE, 3, -1, order="F")  # MATLAB's order; one image alone has lost its axis
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), np.atleast_1d(variables["y"]).astype(np.int64)
