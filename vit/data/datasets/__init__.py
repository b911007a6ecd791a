"""The data sets of the paper by name: where their archives come from, how they are read, how large they must be.

A row here names a module; it is imported when its data set is asked for, so that who reads CIFAR does not wait for
(or depend on) the rest. VTAB's tasks, `vtab/NAME`, come from `vit.data.datasets.vtab`.
"""

import dataclasses
import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vit.data.datasets.dev_split import PERCENT, num_kept
from vit.data.datasets.download import Archive, Progress
from vit.data.datasets.download import fetch as fetch_archives
from vit.data.record import Record, Source

VTAB = "vtab/"
DEV = "+dev"  # behind a name: with the part of train held out that the paper chooses its learning rate on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as published."""

    module: str  # below this package; it has ARCHIVES, by name of the data set, and the importer
    importer: str
    num_images: Mapping[str, int]  # by split
    num_classes: int


DATASETS = {
    "imagenet2012": Dataset(
        module="imagenet",
        importer="imagenet2012",
        num_images={"train": 1_281_167, "val": 50_000},
        num_classes=1_000,
    ),
    "imagenet21k-fall11": Dataset(
        module="imagenet21k", importer="fall11", num_images={"train": 14_197_122}, num_classes=21_841
    ),
    "imagenet21k-winter21": Dataset(
        module="imagenet21k", importer="winter21", num_images={}, num_classes=19_167
    ),  # the number of its images is not published
    "imagenet-real": Dataset(module="real", importer="imagenet_real", num_images={"test": 46_837}, num_classes=1_000),
    "imagenet-v2": Dataset(
        module="imagenet_v2", importer="matched_frequency", num_images={"test": 10_000}, num_classes=1_000
    ),
    "imagenet-v2-threshold0.7": Dataset(
        module="imagenet_v2", importer="threshold", num_images={"test": 10_000}, num_classes=1_000
    ),
    "imagenet-v2-top-images": Dataset(
        module="imagenet_v2", importer="top_images", num_images={"test": 10_000}, num_classes=1_000
    ),
    "cifar10": Dataset(
        module="cifar", importer="cifar10", num_images={"train": 50_000, "test": 10_000}, num_classes=10
    ),
    "cifar100": Dataset(
        module="cifar", importer="cifar100", num_images={"train": 50_000, "test": 10_000}, num_classes=100
    ),
    "oxford-iiit-pets": Dataset(
        module="pets", importer="pets", num_images={"train": 3_680, "test": 3_669}, num_classes=37
    ),
    "oxford-flowers102": Dataset(
        module="flowers", importer="flowers", num_images={"train": 1_020, "val": 1_020, "test": 6_149}, num_classes=102
    ),
}


def names() -> list[str]:
    """All data sets, VTAB's tasks and those with a dev split (`cifar10+dev`) among them."""
    return [*DATASETS, *(name + DEV for name in PERCENT), *(VTAB + task for task in _vtab().TASKS)]


def published(name: str) -> tuple[Archive, ...]:
    """The published files of a data set; raises ValueError for an unknown name."""
    if name.startswith(VTAB):
        return tuple(_vtab().published(name.removeprefix(VTAB)))
    name, _ = _parsed(name)
    return _module(name).ARCHIVES[name]


def fetch(name: str, directory: Path, download: bool, *, progress: Progress | None = None) -> list[Path]:
    """Where each archive of a data set lies in `directory`, checksums verified; downloads what is missing if asked.

    Raises ValueError saying what is missing and how to get it, or what is not the published file.
    """
    return fetch_archives(published(name), directory, download=download, progress=progress)


def load(name: str, directory: Path, *, splits: Sequence[str] = (), complete: bool = True, **options: Any) -> Source:
    """The images of a data set from its archives in `directory`; `options` are those of its importer.

    Consuming the records raises ValueError at their end, if they are fewer or more than are published, unless
    `complete` is False. Raises ValueError for an unknown name, a missing archive, or another number of classes.
    """
    if name.startswith(VTAB):
        return _vtab().load(name.removeprefix(VTAB), directory, splits=splits, **options)
    name, held_out = _parsed(name)
    options |= held_out
    importer: Callable[..., Source] = getattr(_module(name), DATASETS[name].importer)
    source = importer(directory, splits=splits, **options)
    if not complete:
        return source
    listed = DATASETS[name].num_classes
    if len(source.class_names) != listed and not options.get("class_list"):
        raise ValueError(f"{source.where} has {len(source.class_names)} classes, but {name} as published has {listed}")
    expected = expected_images(name, options)
    wanted = {split: count for split, count in expected.items() if split in (splits or expected)}
    return dataclasses.replace(source, records=_counted(source, wanted))


def expected_images(name: str, options: Mapping[str, Any]) -> dict[str, int]:
    """Images in each split as published, with the part of train that the importer's `options` hold out."""
    counts = dict(DATASETS[name].num_images)
    if options.get("merge"):
        return {}
    if num_val := int(options.get("num_val", 0)):
        counts = {split: count - num_val for split, count in counts.items()} | {"val": num_val}
    if options.get("dev"):
        kept = num_kept(counts["train"], PERCENT[name])
        counts = {"train": kept, "val": counts["train"] - kept, "test": counts.get("test") or counts["val"]}
    return counts


def _counted(source: Source, expected: Mapping[str, int]) -> Iterator[Record]:
    counts: Counter[str] = Counter()
    for record in source.records:
        counts[record.split] += 1
        yield record
    for split, count in expected.items():
        if counts[split] != count:
            raise ValueError(
                f"{source.where} gives {counts[split]} images for {split}, but {source.name} as published has {count}: "
                "the archive is incomplete or another version; get it again, or pass complete=False to take it as it is"
            )


def _parsed(name: str) -> tuple[str, dict[str, bool]]:
    """The data set and what `+dev` means to its importer."""
    plain = name.removesuffix(DEV)
    if plain not in (DATASETS if plain == name else PERCENT):
        dev = ", ".join(known + DEV for known in PERCENT)
        raise ValueError(f"{name!r} is no data set; there are {', '.join(DATASETS)}, {dev} and vtab/TASK")
    return plain, {} if plain == name else {"dev": True}


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{DATASETS[name].module}")


def _vtab() -> Any:
    return importlib.import_module(f"{__name__}.vtab")
