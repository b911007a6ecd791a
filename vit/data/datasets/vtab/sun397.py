"""SUN397 (Xiao et al. 2010) in TFDS's own 70/10/20 split, which is not one of the ten published partitions.

The split is a draw that cannot be repeated, so its three lists are needed beside the archive; they come with
tensorflow-datasets (Apache-2.0). With them the 800 and 200 keys equal those that VPT published (checked).
As TFDS does, images are reduced to 120,000 pixels (bilinear, no antialias) and encoded as JPEG at OpenCV's default
quality: this is the data that the benchmark is, though not what the archive holds. Some `.jpg` are BMP, PNG or GIF;
where OpenCV cannot decode one, TFDS wrote it with red and blue exchanged, which is not imitated.

Not verified here, for lack of the data: the bytes, which also depend on the version of libjpeg.
"""

import functools
from pathlib import Path

import cv2
import numpy as np

from vit.data.datasets.archives import Member, is_gzipped, members, plain
from vit.data.datasets.download import Archive, need
from vit.data.datasets.vtab.dataset import Dataset, Item, lines, part
from vit.data.pictures import UnreadableImage, decode

MAX_PIXELS = 120_000
IMAGES = Archive(
    name="SUN397.tar.gz",
    publisher="Princeton, https://vision.princeton.edu/projects/2010/SUN/",
    digest="sha256:f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec",
    size=39_077_296_924,
    url="https://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
    folders=("SUN397.tar", "SUN397"),
)
DIGESTS = {
    "tr": "764d9aa5c7b67a12b1a5ef784656a84f6a3a3cc0383ce9dc7acc59e3efd45791",
    "va": "0f5f5e56d4c10ea6dd64108980ce1fa3d0a5d92b61ef92530f34b6aa2dbaf192",
    "te": "e172ef48fe5e94e26b698b0cdc56d9e100ae072eeb44d2e9e9e5bc289337fccc",
}
LISTS = {
    split: Archive(
        name=f"sun397_tfds_{short}.txt",
        publisher="TensorFlow Datasets, github.com/tensorflow/datasets, tensorflow_datasets/image_classification",
        digest=f"sha256:{DIGESTS[short]}",
        url="https://raw.githubusercontent.com/tensorflow/datasets/master/tensorflow_datasets/image_classification/"
        f"sun397_tfds_{short}.txt",
    )
    for split, short in {"train": "tr", "validation": "va", "test": "te"}.items()
}
ARCHIVES = (IMAGES, *LISTS.values())


def sun397(directory: Path) -> Dataset:
    """Keys `/a/abbey/sun_aaaulhwrhqgejnyt.jpg`, the label being the folder; images reduced as TFDS reduces them.

    Raises ValueError if the archive or a list is missing, or an image that one names.
    """
    listed = {split: lines(plain(need(directory, archive))) for split, archive in LISTS.items()}
    place = need(directory, IMAGES)
    names = sorted({key.rpartition("/")[0] for keys in listed.values() for key in keys})
    labels = {name: label for label, name in enumerate(names)}
    split_of = {key: split for split, keys in listed.items() for key in keys}
    items: dict[str, list[Item]] = {split: [] for split in LISTS}
    for member in members(place):
        key = "/" + member.name.removeprefix("SUN397/")
        if split := split_of.pop(key, ""):
            label = labels[key.rpartition("/")[0]]
            items[split].append(Item(key=key, label=label, read=functools.partial(_reduced, member)))
    if split_of:
        raise ValueError(
            f"{place} lacks {len(split_of)} images that the lists of TFDS name, first {next(iter(split_of))}"
        )
    return Dataset(
        where=place,
        class_names=tuple(names),
        parts={split: part(held) for split, held in items.items()},
        ext="jpg",
        keep_order=is_gzipped(place),
    )


def reduced(data: bytes) -> bytes:
    """A JPEG of at most about 120,000 pixels; raises UnreadableImage."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR) if data else None
    if pixels is None:
        pixels = np.asarray(decode(data))[..., ::-1]  # GIF, where OpenCV is built without it
    height, width = pixels.shape[:2]
    if height * width > MAX_PIXELS:
        factor = float(np.sqrt(MAX_PIXELS / (height * width)))
        pixels = cv2.resize(pixels, dsize=None, fx=factor, fy=factor)
    done, encoded = cv2.imencode(".jpg", pixels)
    if not done:
        raise UnreadableImage("cannot be encoded as JPEG (OpenCV gives no reason)")
    return encoded.tobytes()


def _reduced(member: Member) -> bytes:
    return reduced(member.read())
