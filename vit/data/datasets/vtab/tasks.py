"""The 19 tasks of VTAB: groups, classes, numbers of images, and which TFDS splits their parts are cut from.

The numbers are those of VTAB's own unit tests, the slices those of its code (google-research/task_adaptation:
data/*.py). Names are those of the folders that NOAH writes, which most PyTorch code reads; `ALIASES` has the others.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from vit.data.datasets import cifar, flowers, pets
from vit.data.datasets.download import Archive
from vit.data.datasets.vtab import (
    caltech101,
    clevr,
    dmlab,
    dsprites,
    dtd,
    kitti,
    patch_camelyon,
    remote_sensing,
    retinopathy,
    smallnorb,
    sun397,
    svhn,
)
from vit.data.datasets.vtab.dataset import Dataset, of_source

PARTS = ("train", "val", "test")
Build = Callable[[Path], Dataset]

_TABLE = """
caltech101           natural     102    2754   306  6084  train[:90%]  train[90%:]     test
cifar                natural     100   45000  5000 10000  train[:90%]  train[90%:]     test
dtd                  natural      47    1880  1880  1880  train        validation      test
oxford_flowers102    natural     102    1020  1020  6149  train        validation      test
oxford_iiit_pet      natural      37    2944   736  3669  train[:80%]  train[80%:]     test
svhn                 natural      10   65931  7326 26032  train[:90%]  train[90%:]     test
sun397               natural     397   76128 10875 21750  train        validation      test
patch_camelyon       specialized   2  262144 32768 32768  train        validation      test
eurosat              specialized  10   16200  5400  5400  train[:60%]  train[60%:80%]  train[80%:]
resisc45             specialized  45   18900  6300  6300  train[:60%]  train[60%:80%]  train[80%:]
diabetic_retinopathy specialized   5   35126 10906 42670  train        validation      test
clevr_count          structured    8   63000  7000 15000  train[:90%]  train[90%:]     validation
clevr_dist           structured    6   63000  7000 15000  train[:90%]  train[90%:]     validation
dmlab                structured    6   65550 22628 22735  train        validation      test
kitti                structured    4    6347   423   711  train        validation      test
dsprites_loc         structured   16  589824 73728 73728  train[:80%]  train[80%:90%]  train[90%:]
dsprites_ori         structured   16  589824 73728 73728  train[:80%]  train[80%:90%]  train[90%:]
smallnorb_azi        structured   18   24300 12150 12150  train        test[:50%]      test[50%:]
smallnorb_ele        structured    9   24300 12150 12150  train        test[:50%]      test[50%:]
"""


def _cifar100(directory: Path) -> Dataset:
    return of_source(cifar.cifar100(directory), {"train": "train", "test": "test"}, numbered=True)


def _flowers(directory: Path) -> Dataset:
    return of_source(flowers.flowers(directory), {"train": "train", "val": "validation", "test": "test"})


def _pets(directory: Path) -> Dataset:
    return of_source(pets.pets(directory), {"train": "train", "test": "test"})


_PARSERS: dict[str, tuple[Build, tuple[Archive, ...]]] = {
    "caltech101": (caltech101.caltech101, caltech101.ARCHIVES),
    "cifar": (_cifar100, cifar.ARCHIVES["cifar100"]),
    "dtd": (dtd.dtd, dtd.ARCHIVES),
    "oxford_flowers102": (_flowers, flowers.ARCHIVES[flowers.NAME]),
    "oxford_iiit_pet": (_pets, pets.ARCHIVES[pets.NAME]),
    "svhn": (svhn.svhn, svhn.ARCHIVES),
    "sun397": (sun397.sun397, sun397.ARCHIVES),
    "patch_camelyon": (patch_camelyon.patch_camelyon, patch_camelyon.ARCHIVES),
    "eurosat": (remote_sensing.eurosat, (remote_sensing.EUROSAT,)),
    "resisc45": (remote_sensing.resisc45, (remote_sensing.RESISC45,)),
    "diabetic_retinopathy": (retinopathy.retinopathy, retinopathy.ARCHIVES),
    "clevr_count": (clevr.count, clevr.ARCHIVES),
    "clevr_dist": (clevr.distance, clevr.ARCHIVES),
    "dmlab": (dmlab.dmlab, dmlab.ARCHIVES),
    "kitti": (kitti.kitti, kitti.ARCHIVES),
    "dsprites_loc": (dsprites.location, dsprites.ARCHIVES),
    "dsprites_ori": (dsprites.orientation, dsprites.ARCHIVES),
    "smallnorb_azi": (smallnorb.azimuth, smallnorb.ARCHIVES),
    "smallnorb_ele": (smallnorb.elevation, smallnorb.ARCHIVES),
}

# Fingerprints (vit.data.datasets.vtab.splits) of the keys of train800 and val200 in VPT's vtab_trainval_splits.json
# (copy in ChengHan111/E2VPT). Its list of caltech101 has no folders, and five tasks are not in it.
_PUBLISHED = {
    "cifar": ("4e2ceb15c7adc2e5", "39fc89976ed8eae5"),
    "dtd": ("b6cbbd31253a3442", "1d58ab22f9e6af54"),
    "oxford_flowers102": ("98f812d0d4ac1cc6", "dd4a745fa168c95e"),
    "oxford_iiit_pet": ("c207b9671bc42ca0", "75e6848606b6b63c"),
    "sun397": ("6e8ed9539b4b2eae", "73edd1682bcd496b"),
    "patch_camelyon": ("21eaea5228a490c0", "d6e3e99d74f635b8"),
    "eurosat": ("459bb5a0200d24fb", "6efca7747c93a4d2"),
    "resisc45": ("cc067c0c95211a49", "a8a70354d6587bee"),
    "diabetic_retinopathy": ("287b231ea1feb0b9", "254204236451f6e1"),
    "clevr_count": ("2755742128ae24c0", "6570e8229f7bc1b9"),
    "clevr_dist": ("2755742128ae24c0", "6570e8229f7bc1b9"),
    "dmlab": ("4c94503cd539d615", "b2b983ef0fd0a506"),
    "kitti": ("c34261afd61ba4b4", "bda747c1b2a21413"),
}
_TOLERANCE = {"caltech101": 1}  # see vit.data.datasets.vtab.caltech101
_SHARED = {"clevr_count": "clevr", "clevr_dist": "clevr"} | {
    f"{name}_{task}": name
    for name, tasks in {"dsprites": "loc ori", "smallnorb": "azi ele"}.items()
    for task in tasks.split()
}
ALIASES = {
    "cifar": ("cifar100", "cifar_100"),
    "oxford_iiit_pet": ("oxford_pet", "pets", "pet"),
    "oxford_flowers102": ("flowers102", "flowers"),
    "patch_camelyon": ("pcam", "camelyon"),
    "diabetic_retinopathy": ("retinopathy",),
    "dsprites_loc": ("dsprites_position", "dsprites_location"),
    "dsprites_ori": ("dsprites_orientation",),
    "smallnorb_azi": ("smallnorb_azimuth",),
    "smallnorb_ele": ("smallnorb_elevation",),
    "clevr_dist": ("clevr_distance",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One of the 19."""

    name: str
    group: str  # natural, specialized or structured
    num_classes: int
    counts: tuple[int, int, int]  # images of PARTS
    slices: tuple[str, str, str]  # PARTS as TFDS writes them
    folder: str  # where the archives may lie below the directory that has those of all tasks
    build: Build
    archives: tuple[Archive, ...]
    published: tuple[str, str] | None  # fingerprints of train800 and val200
    tolerance: int  # images by which `counts` may differ


def _task(row: str) -> Task:
    name, group, num_classes, *rest = row.split()
    train, val, test = (int(count) for count in rest[:3])
    build, archives = _PARSERS[name]
    return Task(
        name=name,
        group=group,
        num_classes=int(num_classes),
        counts=(train, val, test),
        slices=(rest[3], rest[4], rest[5]),
        folder=_SHARED.get(name, name),
        build=build,
        archives=archives,
        published=_PUBLISHED.get(name),
        tolerance=_TOLERANCE.get(name, 0),
    )


TASKS = {task.name: task for task in map(_task, _TABLE.strip().splitlines())}


def published(name: str) -> tuple[Archive, ...]:
    """The files that a task is read from; raises ValueError for an unknown name."""
    return named(name).archives


def named(name: str) -> Task:
    """The task of that name or alias, with or without `vtab/`; raises ValueError listing the names."""
    plain = name.removeprefix("vtab/")
    for task in TASKS.values():
        if plain in (task.name, *ALIASES.get(task.name, ())):
            return task
    raise ValueError(f"VTAB has no task {name!r}; it has {', '.join(TASKS)}")
