"""ImageNet-21k, the fall 2011 release (tar of 21,841 class tars) and the winter 2021 one (19,167 classes).

Classes are the sorted WordNet ids of the archive, unless a file lists them (one per line): heads of public
checkpoints have their own order and number of them (datasets.md §3.2). There are no published splits. Many images
lie in several classes; Google's copy merges them into one with several labels, which leaves some 12.4 million
(google-research/vision_transformer#28), and so does `merge` here, by content.

The winter release is gzipped as published. It is read in its order, without the space of a second copy, but every
pass unpacks it; `gunzip` it first (the .tar is accepted, too) to read it at any place.
"""

import dataclasses
import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from vit.data.datasets.archives import is_gzipped, members
from vit.data.datasets.dev_split import chosen
from vit.data.datasets.download import Archive, need
from vit.data.datasets.imagenet import PUBLISHER, WNID, class_images
from vit.data.record import Record, Source
from vit.data.split import rank_order
from vit.typing import Ints

DIGEST = 16  # bytes of SHA-256 that tell contents apart
ARCHIVES = {
    "imagenet21k-fall11": (Archive(name="fall11_whole.tar", publisher=PUBLISHER, folders=("fall11_whole",)),),
    "imagenet21k-winter21": (
        Archive(
            name="winter21_whole.tar.gz",
            publisher=PUBLISHER,
            digest="md5:ab313ce03179fd803a401b02c651c0a2",
            folders=("winter21_whole.tar", "winter21_whole"),
        ),
    ),
}


def fall11(
    directory: Path,
    *,
    splits: Sequence[str] = (),
    class_list: Path | None = None,
    num_val: int = 0,
    merge: bool = False,
) -> Source:
    """The fall 2011 release: 14,197,122 images, all in `train`, 21,841 classes.

    `num_val` images are `val` instead, the first in the MD5 order of the keys (salt "full"): how many the paper's
    code takes is published (102,400; big_vision: 51,200), which ones is not. With `merge`, images of equal content
    are one record with all their labels, at the place of the first; that reads everything once more. Keys are
    `n00004475/n00004475_6590.JPEG`. Raises ValueError if the archive is missing, or has a class that `class_list`
    has not.
    """
    options = _Options(class_list=class_list, num_val=num_val, merge=merge)
    return _imagenet21k("imagenet21k-fall11", directory, splits, options)


def winter21(
    directory: Path,
    *,
    splits: Sequence[str] = (),
    class_list: Path | None = None,
    num_val: int = 0,
    merge: bool = False,
) -> Source:
    """The winter 2021 release, without 2,674 classes about people; otherwise as `fall11`."""
    options = _Options(class_list=class_list, num_val=num_val, merge=merge)
    return _imagenet21k("imagenet21k-winter21", directory, splits, options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    class_list: Path | None
    num_val: int
    merge: bool


def _imagenet21k(name: str, directory: Path, splits: Sequence[str], options: _Options) -> Source:
    wanted = chosen(splits, ("train", "val") if options.num_val else ("train",), name)
    place = need(directory, ARCHIVES[name][0])
    wnids = _listed(options.class_list) if options.class_list else _classes(place)
    return Source(
        name=name,
        family="lossless",
        class_names=wnids,
        records=_records(place, wnids, options, wanted),
        multi_label=options.merge,
        listed=options.class_list is not None,
        keep_order=is_gzipped(place),
        where=str(place),
    )


def _listed(path: Path) -> tuple[str, ...]:
    """The first word of each line."""
    wnids = tuple(line.split()[0] for line in path.read_text().splitlines() if line.strip())
    wrong = [wnid for wnid in wnids if not WNID.fullmatch(wnid)]
    if wrong or len(set(wnids)) != len(wnids) or not wnids:
        raise ValueError(
            f"{path} must list the WordNet ids of the classes, each once, one per line, like n00004475"
            + (f", but has {wrong[0]!r}" if wrong else "")
        )
    return wnids


def _classes(place: Path) -> tuple[str, ...]:
    names = [path.name for path in place.iterdir()] if place.is_dir() else [member.name for member in members(place)]
    return tuple(sorted({PurePosixPath(name).stem for name in names if not name.startswith(".")}))


def _records(place: Path, wnids: Sequence[str], options: _Options, wanted: Sequence[str]) -> Iterator[Record]:
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    merged = _merger(_all(place, labels)) if options.merge else iter
    records = merged(_all(place, labels))
    if options.num_val:
        records = _with_val(records, merged(_all(place, labels)), options.num_val)
    yield from (record for record in records if record.split in wanted)


def _all(place: Path, labels: dict[str, int]) -> Iterator[Record]:
    for wnid, image in class_images(place):
        if wnid not in labels:
            raise ValueError(
                f"{place} holds class {wnid}, which the list of classes has not; give the list it belongs to"
            )
        key = f"{wnid}/{PurePosixPath(image.name).name}"
        yield Record(key=key, split="train", labels=(labels[wnid],), read=image.read, ext="jpeg")


def _merger(records: Iterator[Record]) -> Callable[[Iterator[Record]], Iterator[Record]]:
    """What makes of the same records one for each content, with all its labels; reads every image of `records`."""
    digests, labels = bytearray(), array("i")
    for record in records:
        digests += hashlib.sha256(record.read()).digest()[:DIGEST]
        labels.append(record.labels[0])
    groups = list(_repeated(np.frombuffer(digests, dtype=">u8").reshape(-1, 2)))
    label_sets = {rows[0]: tuple(sorted({labels[row] for row in rows})) for rows in groups}
    repeats = {row for rows in groups for row in rows[1:]}

    def merged(again: Iterator[Record]) -> Iterator[Record]:
        for row, record in enumerate(again):
            if row not in repeats:
                yield dataclasses.replace(record, labels=label_sets.get(row, record.labels))

    return merged


def _repeated(digests: Ints) -> Iterator[list[int]]:
    """The rows, ascending, of each digest [N, 2] that occurs more than once."""
    order = np.lexsort((np.arange(len(digests)), digests[:, 1], digests[:, 0]))
    same = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    edges = np.diff(np.concatenate([[0], same, [0]]).astype(np.int8))
    for start, end in zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True):
        yield order[start : end + 1].tolist()


def _with_val(records: Iterator[Record], again: Iterator[Record], num_val: int) -> Iterator[Record]:
    order = rank_order("full", (record.key for record in again))
    if num_val >= len(order):
        raise ValueError(f"num_val is {num_val}, but there are {len(order)} images")
    val = set(order[:num_val].tolist())
    for row, record in enumerate(records):
        yield dataclasses.replace(record, split="val") if row in val else record
