"""ImageNet-1k (ILSVRC 2012) from its train tar of class tars, its val tar and its development kit.

A label is the position of the class's WordNet id among the 1,000 sorted ones, as in every public checkpoint. The
kit's ILSVRC2012_IDs, which label the val images, run from 1 in another order: they are translated by way of meta.mat.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vit.data.datasets import matlab
from vit.data.datasets.archives import BadArchive, Member, is_gzipped, members
from vit.data.datasets.dev_split import PERCENT, chosen, hold_out, own_key
from vit.data.datasets.download import Archive, need, present
from vit.data.record import Record, Source

NAME = "imagenet2012"
PUBLISHER = "ImageNet, https://image-net.org/download"
TRAIN = Archive(
    name="ILSVRC2012_img_train.tar",
    publisher=PUBLISHER,
    digest="md5:1d675b47d978889d74fa0da5fadfb00e",
    size=147_897_477_120,
    folders=("ILSVRC2012_img_train", "train"),
)
VAL = Archive(
    name="ILSVRC2012_img_val.tar",
    publisher=PUBLISHER,
    digest="md5:29b22e2961454d5413ddabcf34fc5622",
    size=6_744_924_160,
    folders=("ILSVRC2012_img_val", "val"),
)
DEVKIT = Archive(
    name="ILSVRC2012_devkit_t12.tar.gz",
    publisher=PUBLISHER,
    digest="md5:fa75699e90414af021442c21a62c3abf",
    folders=("ILSVRC2012_devkit_t12",),
)
ARCHIVES = {NAME: (TRAIN, VAL, DEVKIT)}
WNID = re.compile(r"n\d{8}")
VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devkit:
    """What the development kit says."""

    wnids: tuple[str, ...]  # sorted: the position is the label
    class_names: tuple[str, ...]  # "n01440764 tench, Tinca tinca"
    val_labels: tuple[int, ...]  # of ILSVRC2012_val_00000001.JPEG and so on


def imagenet2012(directory: Path, *, splits: Sequence[str] = (), dev: bool = False) -> Source:
    """ImageNet-1k: train (1,281,167) and val (50,000), 1,000 classes.

    With `dev`, as in the paper, 1 % of train are `val` and the published val images are `test`. Keys are TFDS's,
    the names of the files; images of train come class by class. Only the archives of `splits` need be in `directory`,
    besides the kit. Raises ValueError if one is missing, or archives and kit contradict each other.
    """
    wanted = chosen(splits, ("train", "val", "test") if dev else ("train", "val"), NAME)
    kit = devkit(directory)
    published = "test" if dev else "val"
    records: list[Record] = []
    if "train" in wanted or (dev and "val" in wanted):
        train = list(_train(need(directory, TRAIN), kit))
        records += hold_out(train, PERCENT[NAME], own_key) if dev else train
    if published in wanted:
        records += (val_record(number, image, kit, published) for number, image in val_images(directory, kit))
    return Source(
        name=NAME,
        family="lossless",
        class_names=kit.class_names,
        records=[record for record in records if record.split in wanted],
        keep_order=any(is_gzipped(place) for place in (present(directory, a) for a in (TRAIN, VAL)) if place),
        where=str(directory),
    )


def devkit(directory: Path) -> Devkit:
    """Read meta.mat and the ground truth of the val images; raises ValueError if the kit is missing or damaged."""
    place = need(directory, DEVKIT)
    files = {PurePosixPath(member.name).name: member for member in members(place)}
    for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"):
        if name not in files:
            raise BadArchive(f"{place} holds no {name}; get it again")
    leaves = _leaves(matlab.load(files["meta.mat"]), place)
    wnids = tuple(sorted(wnid for wnid, _ in leaves.values()))
    labels = {ilsvrc_id: wnids.index(wnid) for ilsvrc_id, (wnid, _) in leaves.items()}
    words = dict(leaves.values())
    lines = files["ILSVRC2012_validation_ground_truth.txt"].read().decode(errors="replace").split()
    if not all(line.isdigit() and int(line) in labels for line in lines):
        raise BadArchive(f"the ground truth in {place} holds other ids than 1 … {len(labels)}; get it again")
    return Devkit(
        wnids=wnids,
        class_names=tuple(f"{wnid} {words[wnid]}" for wnid in wnids),
        val_labels=tuple(labels[int(line)] for line in lines),
    )


def val_images(directory: Path, kit: Devkit) -> Iterator[tuple[int, Member]]:
    """Number (from 1) and image, in the order of the numbers, which is not that of the tar.

    Raises ValueError if the images are not those that the kit labels.
    """
    place = need(directory, VAL)
    found: dict[int, Member] = {}
    for member in members(place):
        path = PurePosixPath(member.name)
        match = VAL_IMAGE.fullmatch(path.name)
        if not match:
            continue
        number = int(match[1])
        found[number] = member
        if WNID.fullmatch(path.parent.name) and number <= len(kit.val_labels):
            _check_folder(path, kit.wnids[kit.val_labels[number - 1]], place)
    if sorted(found) != list(range(1, len(kit.val_labels) + 1)):
        raise BadArchive(f"{place} holds {len(found)} val images, but the kit labels {len(kit.val_labels)}")
    for number in sorted(found):
        yield number, found[number]


def val_record(number: int, image: Member, kit: Devkit, split: str) -> Record:
    """The record of a val image with its published label."""
    key = f"ILSVRC2012_val_{number:08d}.JPEG"
    return Record(key=key, split=split, labels=(kit.val_labels[number - 1],), read=image.read, ext="jpeg")


def class_images(place: Path) -> Iterator[tuple[str, Member]]:
    """WordNet id and image, of a tar of class tars, or a folder of class tars or of class folders.

    Sorted by class and name, whatever the archive's order; in gzipped archives in that order.
    """
    sort = functools.partial(_sorted, gzipped=is_gzipped(place))
    for member in sort(members(place)) if place.is_file() else members(place):
        path = PurePosixPath(member.name)
        is_tar = path.suffix == ".tar"
        wnid = path.stem if is_tar else path.parent.name
        if not WNID.fullmatch(wnid):
            raise BadArchive(f"{member.name} in {place} belongs to no class: n01440764.tar or n01440764/ was expected")
        for image in sort(members(member)) if is_tar else (member,):
            yield wnid, image


def _sorted(found: Iterable[Member], *, gzipped: bool) -> Iterable[Member]:
    return found if gzipped else sorted(found, key=_name)


def _name(member: Member) -> str:
    return member.name


def _train(place: Path, kit: Devkit) -> Iterator[Record]:
    labels = {wnid: label for label, wnid in enumerate(kit.wnids)}
    empty = dict.fromkeys(kit.wnids)
    for wnid, image in class_images(place):
        if wnid not in labels:
            raise BadArchive(f"{image.name} in {place} is of class {wnid}, which the development kit does not know")
        empty.pop(wnid, None)
        key = PurePosixPath(image.name).name
        yield Record(key=key, split="train", labels=(labels[wnid],), read=image.read, ext="jpeg")
    if empty:
        raise BadArchive(f"{place} lacks {len(empty)} of {len(labels)} classes, first {next(iter(empty))}")


def _leaves(variables: dict[str, Any], place: Path) -> dict[int, tuple[str, str]]:
    """WordNet id and words by ILSVRC2012_ID, for the synsets without children: those are the classes."""
    synsets: Any = np.atleast_1d(variables.get("synsets", np.array([])))
    fields = {"ILSVRC2012_ID", "WNID", "words", "num_children"}
    if not fields <= set(synsets.dtype.names or ()):
        raise BadArchive(f"meta.mat in {place} is not the list of synsets of ILSVRC 2012; get it again")
    leaves = {
        int(row["ILSVRC2012_ID"]): (str(row["WNID"]), str(row["words"]))
        for row in synsets
        if int(row["num_children"]) == 0
    }
    if sorted(leaves) != list(range(1, len(leaves) + 1)) or len({wnid for wnid, _ in leaves.values()}) != len(leaves):
        raise BadArchive(f"meta.mat in {place} has repeated or missing class ids; get it again")
    return leaves


def _check_folder(path: PurePosixPath, wnid: str, place: Path) -> None:
    if path.parent.name != wnid:
        raise BadArchive(f"{path} in {place} lies in the folder of another class: the development kit says {wnid}")
