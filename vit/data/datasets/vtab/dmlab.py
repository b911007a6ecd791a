"""DMLab frames (Zhai et al. 2019): how near an object is and whether it is good, six classes, published as TFRecords.

The archive numbers its classes 0 … 5 and TFDS gives them no names; the description says {close, far, very far} x
{positive, negative reward} without saying which number is which, so they are numbers here, too.

Not verified here, for lack of the data: whether a file name occurs in two splits (keys then get the split's name).
"""

import functools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vit.data.datasets.archives import BadArchive, Member, is_gzipped, members
from vit.data.datasets.download import Archive, need
from vit.data.datasets.vtab.dataset import Dataset, Item, part
from vit.data.datasets.vtab.tfrecord import Span, example, records

NUM_CLASSES = 6
ARCHIVE = Archive(
    name="dmlab.tar.gz",
    publisher="Google, https://storage.googleapis.com/dmlab-vtab",
    digest="sha256:638b18fa69a5d61bbc310cd0b87ac603a39f41de0fdb07b6e77de274a24480a4",
    size=3_017_022_789,
    url="https://storage.googleapis.com/dmlab-vtab/dmlab.tar.gz",
    folders=("dmlab.tar", "dmlab"),
)
ARCHIVES = (ARCHIVE,)
SPLITS = ("train", "validation", "test")


def dmlab(directory: Path) -> Dataset:
    """Train (65,550), validation (22,628) and test (22,735), keys `video_600_5_976.jpg`, JPEGs of 480 x 360.

    Raises ValueError if the archive is missing or damaged, or has no `dmlab-SPLIT.tfrecord*`.
    """
    place = need(directory, ARCHIVE)
    files: dict[str, list[Member]] = {split: [] for split in SPLITS}
    for member in members(place):
        split, _, rest = PurePosixPath(member.name).name.removeprefix("dmlab-").partition(".")
        if split in files and rest.startswith("tfrecord"):
            files[split].append(member)
    for split, found in files.items():
        if not found:
            raise BadArchive(f"{place} holds no dmlab-{split}.tfrecord*: it is incomplete or something else")
    return Dataset(
        where=place,
        class_names=tuple(str(number) for number in range(NUM_CLASSES)),
        parts={split: part(_items(found)) for split, found in files.items()},
        ext="jpg",
        keep_order=is_gzipped(place),
    )


def _items(files: list[Member]) -> Iterator[Item]:
    for file in files:
        for start, data in records(file):
            name, label, image = _parsed(file, start, data)
            read = functools.partial(file.part, start + image.start, image.end - image.start)
            yield Item(key=name, label=label, read=read)


def _parsed(file: Member, start: int, data: bytes) -> tuple[str, int, Span]:
    """File name, label and where the image lies in the record."""
    try:
        features = example(data)
        name, label, image = features.get("filename"), features.get("label"), features.get("image")
        if not isinstance(name, Span) or not isinstance(label, int) or not isinstance(image, Span):
            raise ValueError(f"its features are {', '.join(sorted(features)) or 'none'}")
        if not 0 <= label < NUM_CLASSES:
            raise ValueError(f"its label is {label}")
        return data[name.start : name.end].decode(), label, image
    except ValueError as error:
        raise BadArchive(
            f"the record at byte {start} of {file.name} in {file.path} is no image with filename and label ({error})"
        ) from error
