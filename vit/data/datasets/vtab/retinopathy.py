"""Diabetic Retinopathy Detection (Kaggle and EyePACS 2015), prepared as TFDS's `btgraham-300`.

Kaggle publishes train.zip.001 … 005, test.zip.001 … 007 and trainLabels.csv.zip; the labels of test came out after the
competition in retinopathy_solution.csv, whose column Usage makes Public the validation and Private the test split.
The preparation is that of the winner, Ben Graham: the eyeball scaled to a radius of 300 pixels, the local average
subtracted, everything beyond 90 % of the radius grey, cropped, JPEG of quality 72.

Not verified here, for lack of the data: the bytes, which also depend on the versions of OpenCV and libjpeg.
"""

import csv
import functools
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from vit.data.datasets.archives import BadArchive, is_gzipped, members, plain
from vit.data.datasets.download import Archive, need, present
from vit.data.datasets.vtab import volumes
from vit.data.datasets.vtab.dataset import Dataset, Item, Reader, part
from vit.data.pictures import UnreadableImage
from vit.typing import Pixels

RADIUS = 300  # pixels, of the eyeball
MASK = 0.9  # of the radius
QUALITY = 72
GREY = 128
LEVELS = ("no retinopathy", "mild", "moderate", "severe", "proliferative")
PUBLISHER = "Kaggle, https://www.kaggle.com/c/diabetic-retinopathy-detection/data"
TRAIN = Archive(name="train.zip.001", publisher=PUBLISHER, folders=("train", "train.zip"))
TEST = Archive(name="test.zip.001", publisher=PUBLISHER, folders=("test", "test.zip"))
TRAIN_LABELS = Archive(name="trainLabels.csv.zip", publisher=PUBLISHER, folders=("trainLabels.csv",))
TEST_LABELS = Archive(
    name="retinopathy_solution.csv",
    publisher="Kaggle's forum, attachment 90528/2877",
    digest="sha256:a6af3d66804e81887da89b9261bcfb7da4f5bacedb070f1b5db83fa879ab60c9",
    size=1_181_257,
    url="https://storage.googleapis.com/kaggle-forum-message-attachments/90528/2877/retinopathy_solution.csv",
)
ARCHIVES = (TRAIN, TEST, TRAIN_LABELS, TEST_LABELS)


def retinopathy(directory: Path) -> Dataset:
    """Train (35,126), validation (10,906) and test (42,670), keys `10_left`, labels 0 (none) … 4 (proliferative).

    Raises ValueError if a file, a volume or an image that the tables name is missing.
    """
    train = _table(need(directory, TRAIN_LABELS))
    test = _table(need(directory, TEST_LABELS))
    images = {"train": _images(directory, TRAIN), "test": _images(directory, TEST)}
    usage = {"validation": "Public", "test": "Private"}
    parts = {"train": part(_items(train, images["train"], directory))}
    for split, word in usage.items():
        parts[split] = part(_items([row for row in test if row["Usage"] == word], images["test"], directory))
    slow = any(place is not None and is_gzipped(place) for place in (present(directory, a) for a in (TRAIN, TEST)))
    return Dataset(where=directory, class_names=LEVELS, parts=parts, ext="jpg", keep_order=slow)


def prepared(data: bytes) -> bytes:
    """The JPEG of an eye as `btgraham-300` has it; raises UnreadableImage."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR) if data else None
    if decoded is None or decoded.dtype != np.uint8:
        raise UnreadableImage("cannot be decoded (OpenCV gives no reason)")
    scale = RADIUS / _radius(np.asarray(decoded, np.uint8))
    image = cv2.resize(decoded, dsize=None, fx=scale, fy=scale)
    image = cv2.addWeighted(image, 4, cv2.GaussianBlur(image, (0, 0), RADIUS / 30), -4, GREY)
    _, encoded = cv2.imencode(".jpg", _masked(np.asarray(image, np.uint8)), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return encoded.tobytes()


def _radius(image: Pixels) -> float:
    """Half of what is bright in the middle row; of broken images, where that is nothing, half of the height."""
    row = image[image.shape[0] // 2].sum(axis=1)
    radius = float((row > row.mean() / 10).sum()) / 2
    return radius if radius >= 1 else image.shape[0] / 2


def _masked(image: Pixels) -> Pixels:
    height, width = image.shape[:2]
    radius = int(RADIUS * MASK)
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (width // 2, height // 2), radius, 1, -1)
    grey = np.where(mask[..., None] > 0, image, np.uint8(GREY))
    rows = slice(max(height // 2 - radius, 0), min(height // 2 + radius, height))
    return np.ascontiguousarray(grey[rows, max(width // 2 - radius, 0) : min(width // 2 + radius, width)])


def _table(place: Path) -> list[dict[str, str]]:
    files = list(members(place)) if place.suffix == ".zip" else [plain(place)]
    rows = list(csv.DictReader(io.StringIO(files[0].read().decode("utf-8-sig")))) if files else []
    wrong = [row for row in rows if not row.get("image") or row.get("level") not in set("01234")]
    if not rows or wrong or (place.name == TEST_LABELS.name and "Usage" not in rows[0]):
        raise BadArchive(f"{place} is no table of image and level 0 … 4 (and Usage for the test images)")
    return rows


def _images(directory: Path, archive: Archive) -> dict[str, Reader]:
    """Readers by `10_left`, in the order of the archive."""
    place = need(directory, archive)
    paths = volumes.volumes(directory, archive.name.removesuffix(".001")) if place.name == archive.name else ()
    if paths:
        found = ((name, functools.partial(volumes.read, paths, name)) for name in volumes.names(paths))
    else:
        found = ((member.name, member.read) for member in members(place))
    return {PurePosixPath(name).stem: read for name, read in found if name.endswith(".jpeg")}


def _items(rows: list[dict[str, str]], images: dict[str, Reader], directory: Path) -> Iterator[Item]:
    levels = {row["image"]: int(row["level"]) for row in rows}
    if missing := [name for name in levels if name not in images]:
        raise BadArchive(
            f"the archives in {directory} lack {len(missing)} of {len(levels)} images, first {missing[0]}.jpeg"
        )
    for name, read in images.items():
        if name in levels:
            yield Item(key=name, label=levels[name], read=functools.partial(_prepared, read))


def _prepared(read: Reader) -> bytes:
    return prepared(read())
