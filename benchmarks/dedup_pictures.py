"""Real pictures that come with installed packages, cut into tiles, half of which are edited: nothing is downloaded."""

import importlib.resources
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from skimage import data

from vit.dedup import edits
from vit.typing import Ints

# Those that lie in scikit-image's wheel. motorcycle_right is left out: it shows what motorcycle_left shows.
SKIMAGE = (
    "astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field",
    "immunohistochemistry", "moon", "page", "retina", "rocket", "text",
)  # fmt: skip
OTHERS = (
    ("sklearn.datasets.images", "china.jpg"),
    ("sklearn.datasets.images", "flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("skimage.data", "motorcycle_left.png"),
)
MIN_CONTRAST = 10.0  # gray levels, standard deviation, as vit.data.synthetic.planted: JPEG leaves nothing of less


class Tiles(NamedTuple):
    """Encoded training images, and edited copies of them among other tiles as test images."""

    train: list[bytes]
    train_pictures: list[str]
    test: list[bytes]
    origin: Ints  # int64, which training image each test image shows; -1 for none
    edit: Ints  # int64, which of edits.EDITS; -1 for none


def pictures(directory: Path | None) -> Iterator[tuple[str, Image.Image]]:
    """Name and RGB image of every picture, and of those in `directory`."""
    for name in SKIMAGE:
        yield name, Image.fromarray(getattr(data, name)()).convert("RGB")
    for package, name in OTHERS:
        encoded = importlib.resources.files(package).joinpath(name).read_bytes()
        yield Path(name).stem, Image.open(io.BytesIO(encoded)).convert("RGB")
    for path in sorted(directory.rglob("*")) if directory else ():
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            yield str(path), Image.open(path).convert("RGB")


def tiles(seed: int, *, directory: Path | None = None) -> Tiles:
    """Cut every picture on a grid that depends on the seed; every other tile is a training image, edited 29 times."""
    draw = np.random.Generator(np.random.PCG64(seed))
    train: list[tuple[str, Image.Image]] = []
    other: list[Image.Image] = []
    for name, picture in pictures(directory):
        for at, tile in enumerate(_cut(picture, draw)):
            if at % 2 == 0:
                train.append((name, tile))
            else:
                other.append(tile)
    copies = [
        (edits.apply(edit, tile, draw), place, number)
        for place, (_, tile) in enumerate(train)
        for number, edit in enumerate(edits.EDITS)
    ]
    copies += [(edits.apply(edits.PLAIN, tile, draw), -1, -1) for tile in other]
    return Tiles(
        train=[edits.apply(edits.PLAIN, tile, draw) for _, tile in train],
        train_pictures=[name for name, _ in train],
        test=[copy[0] for copy in copies],
        origin=np.array([copy[1] for copy in copies]),
        edit=np.array([copy[2] for copy in copies]),
    )


def _cut(picture: Image.Image, draw: np.random.Generator) -> Iterator[Image.Image]:
    """Tiles that share no pixel, on a grid of random size and offset; of large pictures (the retina) larger ones."""
    factor = 2 if min(picture.size) >= 1200 else 1
    width, height = factor * int(draw.integers(150, 190)), factor * int(draw.integers(110, 150))
    first_left, first_top = (
        int(draw.integers(1 + picture.width % width)),
        int(draw.integers(1 + picture.height % height)),
    )
    for top in range(first_top, picture.height - height + 1, height):
        for left in range(first_left, picture.width - width + 1, width):
            tile = picture.crop((left, top, left + width, top + height))
            if np.asarray(tile.convert("L")).std() >= MIN_CONTRAST:
                yield tile
