"""ImageNet-ReaL (Beyer et al. 2020): the val images of ImageNet-1k with sets of labels from a second look.

real.json lists the labels of each val image in the order of the file names. Where the list is empty, no label fits:
such an image does not count at all, neither as right nor as wrong, so it is left out here.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from vit.data.datasets.dev_split import chosen
from vit.data.datasets.download import Archive, need
from vit.data.datasets.imagenet import DEVKIT, VAL, Devkit, devkit, val_images, val_record
from vit.data.record import Record, Source

NAME = "imagenet-real"
SHA256 = "d83e9bff374c631aae8439eb064c7019acc56e1b3bc3f56b8380c2a710b0220b"
LABELS = Archive(
    name="real.json",
    publisher="Google Research, https://github.com/google-research/reassessed-imagenet",
    digest=f"sha256:{SHA256}",
    size=388_478,
    url="https://raw.githubusercontent.com/google-research/reassessed-imagenet/master/real.json",
)
ARCHIVES = {NAME: (VAL, DEVKIT, LABELS)}


def imagenet_real(directory: Path, *, splits: Sequence[str] = (), sha256: str = SHA256) -> Source:
    """ImageNet-ReaL: test (46,837 of the 50,000 val images), one or more of the 1,000 labels each.

    A prediction is right if it is one of them. Raises ValueError if real.json is not the one with `sha256`, or does
    not fit the val images.
    """
    chosen(splits, ("test",), NAME)
    kit = devkit(directory)
    labels = _labels(need(directory, LABELS), sha256, len(kit.val_labels), len(kit.wnids))
    return Source(
        name=NAME,
        family="lossless",
        class_names=kit.class_names,
        records=_records(directory, kit, labels),
        multi_label=True,
        where=str(directory),
    )


def _labels(path: Path, sha256: str, num_images: int, num_classes: int) -> list[tuple[int, ...]]:
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, but as published {sha256}: scores would differ; get it again")
    labels = [tuple(sorted(row)) for row in json.loads(data)]
    if len(labels) != num_images:
        raise ValueError(f"{path} labels {len(labels)} images, but the development kit {num_images}")
    if any(not 0 <= label < num_classes for row in labels for label in row):
        raise ValueError(f"{path} has labels outside 0 … {num_classes - 1}")
    return labels


def _records(directory: Path, kit: Devkit, labels: Sequence[tuple[int, ...]]) -> Iterator[Record]:
    for number, image in val_images(directory, kit):
        if labels[number - 1]:
            yield dataclasses.replace(val_record(number, image, kit, "test"), labels=labels[number - 1])
