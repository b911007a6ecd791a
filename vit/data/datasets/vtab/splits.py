"""The splits of VTAB and VTAB-1k, cut out of the original distributions by TFDS's order (`vit.data.split`).

`train800` is the first 800 images of a task's train part, `val200` the first 200 of its val part, `train800val200`
one after the other, `test` the whole test part, never a sample; `train` and `val` are the parts themselves. The paper
chooses hyper-parameters on train800 → val200 and trains on both for the test. (VTAB's own script trains on the first
1,000 of train and val together, which are other images; the literature means train800val200.)
"""

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vit.data.datasets.archives import BadArchive
from vit.data.datasets.download import present
from vit.data.datasets.vtab.dataset import Dataset
from vit.data.datasets.vtab.tasks import PARTS, Task, named
from vit.data.record import Record, Source
from vit.data.split import rank_order
from vit.typing import Ints

SPLITS = ("train800", "val200", "test")
PIECES = {  # part and number of images (all of them if None)
    "train800": (("train", 800),),
    "val200": (("val", 200),),
    "train800val200": (("train", 800), ("val", 200)),
    "train": (("train", None),),
    "val": (("val", None),),
    "test": (("test", None),),
}
_SLICE = re.compile(r"(\w+)(?:\[(\d+)?%?:(?:(\d+)%)?\])?")


def load(task: str, directory: Path, *, splits: Sequence[str] = ()) -> Source:
    """A task of VTAB from the original archives in `directory`, or in a folder of it named after the data set.

    `splits` are keys of PIECES that share no image (SPLITS if there are none). Images within a split are in TFDS's
    order, or in the archive's where reading out of order is slow (gzip). Raises ValueError if an archive is missing or
    is not what was published: if numbers of images or of classes differ, or the keys of train800 and val200 from those
    that VPT published.
    """
    return read(named(task), directory, splits=splits)


def read(task: Task, directory: Path, *, splits: Sequence[str] = ()) -> Source:
    """As `load`, for a Task."""
    splits = splits or SPLITS
    _check_splits(splits)
    below = directory / task.folder
    dataset = task.build(below if any(present(below, archive) for archive in task.archives) else directory)
    chosen = parts(task, {split: part.keys for split, part in dataset.parts.items()})
    _check(task, dataset, chosen)
    return Source(
        name=f"vtab/{task.name}" if dataset.canonical else f"vtab/{task.name}-noncanonical",
        family="lossless",
        class_names=dataset.class_names,
        records=list(_records(dataset, chosen, splits)),
        keep_order=dataset.keep_order,
        where=str(dataset.where),
    )


def parts(task: Task, keys: Mapping[str, Sequence[int | str]]) -> dict[str, tuple[str, Ints]]:
    """For each of PARTS the TFDS split it is cut from, and the positions of its images among the keys of that split.

    Positions are in TFDS's order, int64 [number of images of the part]. `keys` has the keys of every TFDS split.
    """
    orders: dict[str, Ints] = {}
    found: dict[str, tuple[str, Ints]] = {}
    for part, text in zip(PARTS, task.slices, strict=True):
        match = _SLICE.fullmatch(text)
        assert match, text
        split, first, last = match.groups()
        if split not in orders:
            orders[split] = rank_order(split, keys[split])
        size = len(orders[split])
        found[part] = split, orders[split][_percent(first or "0", size) : _percent(last or "100", size)]
    return found


def fingerprint(keys: Sequence[int | str]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the sorted keys, one a line: the same for any order."""
    return hashlib.sha256("\n".join(sorted(map(str, keys))).encode()).hexdigest()[:16]


def _percent(percent: str, size: int) -> int:
    return round(int(percent) * size / 100)  # as TFDS rounds


def _check_splits(splits: Sequence[str]) -> None:
    if unknown := [split for split in splits if split not in PIECES]:
        raise ValueError(f"VTAB has no split {unknown[0]!r}; it has {', '.join(PIECES)}")
    taken = Counter(part for split in splits for part, _ in PIECES[split])
    if twice := [part for part, times in taken.items() if times > 1]:
        raise ValueError(f"splits {', '.join(splits)} share images of {twice[0]}: ask for them one at a time")


def _check(task: Task, dataset: Dataset, chosen: Mapping[str, tuple[str, Ints]]) -> None:
    """Raises ValueError if the archives do not hold what VTAB was made from."""
    again = "the archives are incomplete or another version, and a score on them would be no VTAB score"
    counts = tuple(len(chosen[part][1]) for part in PARTS)
    if any(abs(have - want) > task.tolerance for have, want in zip(counts, task.counts, strict=True)):
        raise BadArchive(f"{task.name} in {dataset.where} has {counts} images of {PARTS}, VTAB {task.counts}: {again}")
    if counts != task.counts:
        warnings.warn(f"{task.name} has {counts} images of {PARTS}, VTAB's own data {task.counts}", stacklevel=3)
    if len(dataset.class_names) != task.num_classes:
        raise BadArchive(
            f"{task.name} in {dataset.where} has {len(dataset.class_names)} classes, VTAB {task.num_classes}: {again}"
        )
    for part in dataset.parts.values():
        if len(part.labels) and not (min(part.labels) >= 0 and max(part.labels) < task.num_classes):
            raise BadArchive(
                f"{task.name} in {dataset.where} has labels {min(part.labels)} … {max(part.labels)}: {again}"
            )
    for name, published in zip(("train800", "val200"), task.published or (), strict=False):
        keys = [dataset.parts[split].keys[int(row)] for split, rows in _rows(chosen, name) for row in rows.tolist()]
        found = fingerprint(keys)
        if found != published:
            raise BadArchive(
                f"{name} of {task.name} in {dataset.where} is not the list that VPT published "
                f"(fingerprint {found}, not {published}): {again}"
            )


def _records(dataset: Dataset, chosen: Mapping[str, tuple[str, Ints]], splits: Sequence[str]) -> Iterator[Record]:
    names = _names(dataset)
    for name in splits:
        for split, ordered in _rows(chosen, name):
            part = dataset.parts[split]
            rows: list[int] = (np.sort(ordered) if dataset.keep_order else ordered).tolist()
            for row, reader in zip(rows, part.readers(rows), strict=True):
                key, label = names[split][row], part.labels[row]
                yield Record(key=key, split=name, labels=(int(label),), read=reader, ext=dataset.ext)


def _rows(chosen: Mapping[str, tuple[str, Ints]], name: str) -> Iterator[tuple[str, Ints]]:
    for part, number in PIECES[name]:
        split, order = chosen[part]
        yield split, order[:number]


def _names(dataset: Dataset) -> dict[str, Sequence[str]]:
    """The key of every image in our index: TFDS's, with the split's name before it if splits have keys in common."""
    names = {split: part.ids or [str(key) for key in part.keys] for split, part in dataset.parts.items()}
    for split, keys in names.items():
        if len(set(keys)) != len(keys):
            twice = next(key for key, times in Counter(keys).items() if times > 1)
            raise BadArchive(f"{dataset.where} holds {twice} twice in {split}; get it again")
    if len({key for keys in names.values() for key in keys}) == sum(map(len, names.values())):
        return names
    return {split: [f"{split}/{key}" for key in keys] for split, keys in names.items()}
