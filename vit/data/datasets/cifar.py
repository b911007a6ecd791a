"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from their binary versions, pixel for pixel.

The Python versions hold pickles, which can run code when they are read; they are not accepted. A record of the binary
files is one label byte (CIFAR-100: the coarse label, then the fine one) and 3,072 bytes: the red, the green and the
blue plane, each 32 rows of 32.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from vit.data.datasets.archives import BadArchive, Member, is_gzipped, members
from vit.data.datasets.dev_split import PERCENT, chosen, hold_out
from vit.data.datasets.download import Archive, need, present
from vit.data.pictures import encode_png
from vit.data.record import Record, Source

SIDE = 32
IMAGE = 3 * SIDE * SIDE  # bytes
PUBLISHER = "the University of Toronto, https://www.cs.toronto.edu/~kriz/cifar.html"
ARCHIVES = {
    "cifar10": (
        Archive(
            name="cifar-10-binary.tar.gz",
            publisher=PUBLISHER,
            digest="sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            size=170_052_171,
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            folders=("cifar-10-batches-bin",),
        ),
    ),
    "cifar100": (
        Archive(
            name="cifar-100-binary.tar.gz",
            publisher=PUBLISHER,
            digest="sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            size=168_513_733,
            url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            folders=("cifar-100-binary",),
        ),
    ),
}
PICKLES = {
    "cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "cifar100": ("cifar-100-python.tar.gz", "cifar-100-python"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    files: dict[str, tuple[str, ...]]  # of each split, in order: TFDS counts through them
    class_names: str  # file with one name per line
    label_bytes: int  # before each image; the last one counts


LAYOUTS = {
    "cifar10": _Layout(
        files={"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)},
        class_names="batches.meta.txt",
        label_bytes=1,
    ),
    "cifar100": _Layout(
        files={"train": ("train.bin",), "test": ("test.bin",)}, class_names="fine_label_names.txt", label_bytes=2
    ),
}


def cifar10(directory: Path, *, splits: Sequence[str] = (), dev: bool = False) -> Source:
    """CIFAR-10: train (50,000) and test (10,000), 10 classes; with `dev`, 2 % of train are `val`.

    Keys are TFDS's ids, `train_00000` by position in the files. Raises ValueError if the binary version is not in
    `directory` or its files are not what they should be.
    """
    return _cifar("cifar10", directory, splits, dev)


def cifar100(directory: Path, *, splits: Sequence[str] = (), dev: bool = False) -> Source:
    """CIFAR-100 with its 100 fine labels; otherwise as `cifar10`."""
    return _cifar("cifar100", directory, splits, dev)


def _cifar(name: str, directory: Path, splits: Sequence[str], dev: bool) -> Source:
    wanted = chosen(splits, ("train", "val", "test") if dev else ("train", "test"), name)
    place = _place(name, directory)
    layout = LAYOUTS[name]
    files = {PurePosixPath(member.name).name: member for member in members(place)}
    class_names = _file(files, layout.class_names, place).read().decode(errors="replace").split()
    records = [
        record
        for split in layout.files
        for record in _records(split, [_file(files, file, place) for file in layout.files[split]], layout)
    ]
    for record in records:
        if record.labels[0] >= len(class_names):
            raise BadArchive(
                f"{place} labels {record.key} {record.labels[0]}, but has {len(class_names)} classes; get it again"
            )
    kept = hold_out(records, PERCENT[name], _position) if dev else iter(records)
    return Source(
        name=name,
        family="lossless",
        class_names=tuple(class_names),
        records=[record for record in kept if record.split in wanted],
        keep_order=is_gzipped(place),
        where=str(place),
    )


def _place(name: str, directory: Path) -> Path:
    archive = ARCHIVES[name][0]
    pickles = [pickle for pickle in PICKLES[name] if (directory / pickle).exists()]
    if pickles and present(directory, archive) is None:
        raise ValueError(
            f"{directory / pickles[0]} is the Python version of {name}, whose pickles can run code when they are "
            f"read; get the binary version, {archive.name}, from {archive.publisher}"
        )
    return need(directory, archive)


def _file(files: dict[str, Member], name: str, place: Path) -> Member:
    if name not in files:
        raise BadArchive(f"{place} holds no {name}; get it again")
    return files[name]


def _records(split: str, files: Sequence[Member], layout: _Layout) -> Iterator[Record]:
    length = layout.label_bytes + IMAGE
    position = 0
    for file in files:
        if not file.size or file.size % length:
            raise BadArchive(
                f"{file.name} in {file.path} has {file.size} bytes, which is no whole number of images of "
                f"{length}: it is truncated or another version; get it again"
            )
        labels = np.frombuffer(file.read(), dtype=np.uint8).reshape(-1, length)[:, layout.label_bytes - 1].tolist()
        for row, label in enumerate(labels):
            read = functools.partial(_png, file, row * length + layout.label_bytes)
            yield Record(key=f"{split}_{position:05d}", split=split, labels=(label,), read=read, ext="png")
            position += 1


def _png(file: Member, start: int) -> bytes:
    planes = np.frombuffer(file.part(start, IMAGE), dtype=np.uint8).reshape(3, SIDE, SIDE)
    return encode_png(np.ascontiguousarray(planes.transpose(1, 2, 0)))


def _position(record: Record) -> int:
    return int(record.key.removeprefix("train_"))
