"""What an importer returns: labelled images of some source, named and sorted but not yet read.

`vit.data.writing` checks them and writes shards. A Record is light (no image in memory) and travels to other
processes; a source of millions yields them one by one.
"""

import dataclasses
from collections.abc import Callable, Iterable

from vit.data.pictures import UnreadableImage

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev", "eval"), "val"
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One labelled image of a source."""

    key: str  # identity in the source, as its split rules hash it: "Forest_687.jpg", "16399", a relative path
    split: str  # train, val, test, train800, … as the source defines it; "" where the writer is to cut train and val
    labels: tuple[int, ...]  # one; several if multi-label; none if unlabelled
    # The encoded image exactly as published (arrays: as PNG). Called any number of times, in any order, by any thread;
    # picklable (functools.partial of a function, no lambda, no open file) if Ray is to share out the work.
    # Raises OSError or UnreadableImage: the record is rejected with that reason.
    read: Callable[[], bytes]
    ext: str  # as named by the source, lower case: jpg, png, …; the content decides in the end
    place: tuple[str, int] | None = None  # shard and offset of the image in it, where the source consists of tar shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Labelled images with the names of their classes."""

    name: str  # "cifar100", "vtab/eurosat", "folder"; also salts the cut of train and val
    family: str  # lossless, noah-jpeg, hf, mini, user: every score on this data carries it
    class_names: tuple[str, ...]
    records: Iterable[Record]  # may be consumed once; in the same order every time
    multi_label: bool = False
    listed: bool = False  # True where the class names come from a list that may name more than there are images of
    keep_order: bool = False  # True where reading out of order is slow (parquet)
    where: str = ""  # path or address, for messages


def refused(key: str, reason: str) -> Record:
    """A record that can only be rejected, and why: what a source found wrong before reading."""
    return Record(key=key, split="", labels=(), read=_Refusal(reason), ext="")


def split_name(text: str) -> str:
    """train, val or test for the usual spellings of those; any other text unchanged."""
    return SPLITS.get(text.strip().lower(), text.strip())


def printable(name: str) -> str:
    """`name` with ? for what is no Unicode: names of files may be any bytes."""
    return name.encode(errors="replace").decode()


@dataclasses.dataclass(frozen=True)
class _Refusal:
    reason: str

    def __call__(self) -> bytes:
        raise UnreadableImage(self.reason)
