"""KITTI object detection (Geiger et al. 2012): how far the nearest car, van or truck is.

Only the 7,481 labelled training images are used; the splits are TFDS's (kitti 3.2.0) and keep every drive together:
of the drives in alphabetical order 10 % are drawn for test, then 10 % of the rest for validation.

Not verified here, for lack of the data: that the draw gives 6,347, 423 and 711 images (it is NumPy's legacy generator,
whose stream is frozen, and VPT's published list of keys is compared when the task is loaded).
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vit.data.datasets.archives import BadArchive, Member, is_gzipped
from vit.data.datasets.download import Archive, need
from vit.data.datasets.vtab.dataset import Dataset, Item, lines, part, tree, wanted
from vit.data.datasets.vtab.thresholds import bin_of

SEED = 123  # TFDS's
PERCENT = 10  # of the drives, for each of validation and test
VEHICLES = {"Car", "Van", "Truck"}
NO_VEHICLE = 1000.0  # metres
DISTANCES = (-100.0, 8.0, 20.0, 999.0)
CLASS_NAMES = ("up to 8 m", "8 to 20 m", "more than 20 m", "no vehicle")
PUBLISHER = "KIT and Toyota, https://www.cvlibs.net/datasets/kitti/eval_object.php"
URL = "https://s3.eu-central-1.amazonaws.com/avg-kitti/"
IMAGES = Archive(
    name="data_object_image_2.zip",
    publisher=PUBLISHER,
    digest="sha256:351c5a2aa0cd9238b50174a3a62b846bc5855da256b82a196431d60ff8d43617",
    size=12_569_945_557,
    url=URL + "data_object_image_2.zip",
    folders=("data_object_image_2", "training"),
)
LABELS = Archive(
    name="data_object_label_2.zip",
    publisher=PUBLISHER,
    digest="sha256:4efc76220d867e1c31bb980bbf8cbc02599f02a9cb4350effa98dbb04aaed880",
    size=5_601_213,
    url=URL + "data_object_label_2.zip",
    folders=("data_object_label_2", "training"),
)
DEVKIT = Archive(
    name="devkit_object.zip",
    publisher=PUBLISHER,
    digest="sha256:ce0b76b69c0c5f89690a0d65b7302bbbdb962a0c7e8aba6efc7050d1b04b4cf1",
    size=63_794,
    url=URL + "devkit_object.zip",
    folders=("devkit_object", "devkit"),
)
ARCHIVES = (IMAGES, LABELS, DEVKIT)


def kitti(directory: Path) -> Dataset:
    """Keys `000001.png`; labels 0 (up to 8 m), 1 (up to 20 m), 2 (farther), 3 (no vehicle).

    Raises ValueError if an archive, a list of the devkit, an image or its labels are missing or malformed.
    """
    places = {archive: need(directory, archive) for archive in ARCHIVES}
    images, labels = (tree(places[archive], "training") for archive in (IMAGES, LABELS))
    devkit = tree(places[DEVKIT], "devkit_object", "devkit")
    drives = _drives(devkit, places[DEVKIT])
    split_of = {f"{number:06d}": split for split, numbers in _split(drives).items() for number in numbers}
    texts = {number: wanted(labels, f"label_2/{number}.txt", places[LABELS]) for number in split_of}
    for number in split_of:
        wanted(images, f"image_2/{number}.png", places[IMAGES])

    def items(split: str) -> Iterator[Item]:
        for name, member in images.items():
            number = name.removeprefix("image_2/").removesuffix(".png")
            if split_of.get(number) == split:
                yield Item(key=f"{number}.png", label=_label(texts[number]), read=member.read)

    return Dataset(
        where=places[IMAGES],
        class_names=CLASS_NAMES,
        parts={split: part(items(split)) for split in ("train", "validation", "test")},
        ext="png",
        keep_order=is_gzipped(places[IMAGES]),
    )


def _drives(devkit: dict[str, Member], place: Path) -> dict[str, list[int]]:
    """Numbers of the images of each drive: image i is line train_rand[i], from 1, of train_mapping (date drive ...)."""
    rows = wanted(devkit, "mapping/train_mapping.txt", place).read().decode().splitlines()
    order = wanted(devkit, "mapping/train_rand.txt", place).read().decode()
    drives: dict[str, list[int]] = defaultdict(list)
    try:
        for image, row in enumerate(order.split(",")):
            if int(row) < 1:
                raise IndexError(f"line {int(row)}")
            drives[rows[int(row) - 1].split(" ")[1]].append(image)
    except (ValueError, IndexError) as error:
        raise BadArchive(f"the lists in mapping/ of {place} do not fit together ({error}); get it again") from error
    return drives


def _split(drives: dict[str, list[int]]) -> dict[str, list[int]]:
    """Numbers of the images of each split, in order."""
    generator = np.random.RandomState(SEED)
    number = max(1, PERCENT * len(drives) // 100)
    test = set(generator.choice(sorted(drives), number, replace=False).tolist())
    validation = set(generator.choice(sorted(drives.keys() - test), number, replace=False).tolist())
    chosen = {"test": test, "validation": validation, "train": drives.keys() - test - validation}
    return {split: sorted(image for drive in names for image in drives[drive]) for split, names in chosen.items()}


def _label(member: Member) -> int:
    """`Type truncated occluded alpha bbox(4) dimensions(3) x y z rotation` on each line; DontCare is no vehicle."""
    nearest = NO_VEHICLE
    for line in lines(member):
        fields = line.split(" ")
        if len(fields) != 15:
            raise BadArchive(f"{member.name} in {member.path} has the line {line!r}, which is not 15 fields")
        if fields[0] in VEHICLES:
            nearest = min(nearest, float(fields[13]))
    return bin_of(nearest, DISTANCES)
