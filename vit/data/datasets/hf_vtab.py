"""VTAB as webdataset shards on the Hugging Face hub, `clip-benchmark/wds_vtab-NAME` (LAION-AI/CLIP_benchmark).

    SPLIT/0.tar, 1.tar, …       not padded: 10 comes after 9; pairs of `s0000000.webp` (or png, jpg) and `.cls`
    SPLIT/nshards.txt           their number
    classnames.txt              for zero-shot use

Only train and test were exported, train being the train part of a task (45,000 of CIFAR-100), so the published
thousand is not among them: here train800 and val200 are the first 1,000 of train in the MD5 order of the keys. The
dSprites tasks were exported with all 32 positions and 40 orientations instead of 16 classes, which is put right here.
There is no sun397: `wds_sun397` is another data set, without VTAB's split. Scores on this data are of the family `hf`.

Not verified here, for lack of the data: the content of the shards (the code that wrote them was read).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from vit.data.datasets.archives import BadArchive, Member, members, plain
from vit.data.datasets.vtab import dsprites
from vit.data.datasets.vtab.dataset import lines
from vit.data.datasets.vtab.tasks import PARTS, TASKS, Task, named
from vit.data.record import Record, Source
from vit.data.split import rank_order

NAMES = {  # on the hub, after wds_vtab-
    "caltech101": "caltech101",
    "cifar": "cifar100",
    "dtd": "dtd",
    "oxford_flowers102": "flowers",
    "oxford_iiit_pet": "pets",
    "svhn": "svhn",
    "patch_camelyon": "pcam",
    "eurosat": "eurosat",
    "resisc45": "resisc45",
    "diabetic_retinopathy": "diabetic_retinopathy",
    "clevr_count": "clevr_count_all",
    "clevr_dist": "clevr_closest_object_distance",
    "dmlab": "dmlab",
    "kitti": "kitti_closest_vehicle_distance",
    "dsprites_loc": "dsprites_label_x_position",
    "dsprites_ori": "dsprites_label_orientation",
    "smallnorb_azi": "smallnorb_label_azimuth",
    "smallnorb_ele": "smallnorb_label_elevation",
}
FACTORS = {"dsprites_loc": dsprites.X, "dsprites_ori": dsprites.ORIENTATION}
SPLITS = ("train", "test")  # as exported
THOUSAND = {"train800": slice(0, 800), "val200": slice(800, 1000)}  # of train


def hf_vtab(directory: Path, task: str, *, splits: Sequence[str] = ()) -> Source:
    """A task from `directory/wds_vtab-NAME` (or `directory` itself), with the splits that are there or asked for.

    Splits are those of SPLITS and THOUSAND. Keys are `train/s0000000`. Raises ValueError if the task is not on the hub,
    a shard is missing or damaged, or numbers or labels are not those of VTAB.
    """
    chosen = named(task)
    if chosen.name not in NAMES:
        raise ValueError(
            f"the hub has no VTAB version of {chosen.name} (wds_sun397 is the whole data set, without VTAB's split): "
            "take it from the original archives"
        )
    if unknown := [split for split in splits if split not in (*SPLITS, *THOUSAND)]:
        raise ValueError(
            f"the webdataset version of {chosen.name} has no split {unknown[0]!r}, only train (all of it), test, and "
            "of our own choice train800 and val200: the published thousand is in the archives and in NOAH's folders"
        )
    place = _place(directory, chosen)
    splits = splits or [split for split in SPLITS if (place / split).is_dir()]
    parts: dict[str, list[Record]] = {}
    for part in dict.fromkeys("train" if split in THOUSAND else split for split in splits):
        parts[part] = list(_split(chosen, place, part))
        _check(chosen, part, parts[part], place)
    records = [record for split in splits for record in _records(parts, split)]
    names = _class_names(place)
    matching = len(names) == chosen.num_classes
    return Source(
        name=f"vtab/{chosen.name}",
        family="hf",
        class_names=tuple(names) if matching else tuple(str(label) for label in range(chosen.num_classes)),
        records=records,
        where=str(place),
    )


def tasks(directory: Path) -> list[str]:
    """The tasks that `directory` has a folder of, in the order of the benchmark."""
    return [name for name in TASKS if name in NAMES and _found(directory, TASKS[name]) is not None]


def _records(parts: dict[str, list[Record]], split: str) -> Iterator[Record]:
    if split not in THOUSAND:
        yield from parts[split]
        return
    train = parts["train"]
    rows: list[int] = rank_order("train", [record.key for record in train])[THOUSAND[split]].tolist()
    for row in rows:
        yield dataclasses.replace(train[row], split=split)


def _place(directory: Path, task: Task) -> Path:
    name = NAMES[task.name]
    place = _found(directory, task) or directory
    if _has_shards(place):
        return place
    raise ValueError(
        f"{directory / f'wds_vtab-{name}'} is missing, or has neither train/nshards.txt nor test/nshards.txt: get it "
        f"from https://huggingface.co/datasets/clip-benchmark/wds_vtab-{name}"
    )


def _found(directory: Path, task: Task) -> Path | None:
    name = NAMES[task.name]
    places = (directory / folder for folder in (f"wds_vtab-{name}", f"vtab-{name}", name, task.name))
    return next((place for place in places if _has_shards(place)), None)


def _has_shards(place: Path) -> bool:
    return any((place / split / "nshards.txt").is_file() for split in SPLITS)


def _split(task: Task, place: Path, split: str) -> Iterator[Record]:
    count = place / split / "nshards.txt"
    text = count.read_text().strip() if count.is_file() else ""
    if not text.isdecimal():
        raise ValueError(f"{count} is missing or no number; get it again")
    shards = [f"{split}/{number}.tar" for number in range(int(text))]
    if missing := [shard for shard in shards if not (place / shard).is_file()]:
        raise ValueError(f"{place / missing[0]} is missing, but {count} says that there are {text} shards")
    for shard in shards:
        yield from _shard(task, place, shard)


def _shard(task: Task, place: Path, shard: str) -> Iterator[Record]:
    path, split = place / shard, PurePosixPath(shard).parent.name
    images: dict[str, tuple[str, Member]] = {}
    labels: dict[str, int] = {}
    for member in members(path):
        stem, _, ext = PurePosixPath(member.name).name.partition(".")
        if ext == "cls":
            labels[stem] = _label(task, member, place)
        elif ext.lower() in ("webp", "png", "jpg", "jpeg"):
            images[stem] = ext.lower(), member
    if images.keys() != labels.keys():
        alone = min(images.keys() ^ labels.keys())
        raise BadArchive(f"{path} has {alone} without its {'image' if alone in labels else 'label'}; get it again")
    for stem, (ext, image) in images.items():
        yield Record(
            key=f"{split}/{stem}",
            split=split,
            labels=(labels[stem],),
            read=image.read,
            ext=ext,
            place=(shard, image.offset),
        )


def _label(task: Task, member: Member, place: Path) -> int:
    text = member.read().decode(errors="replace").strip()
    if not text.isdecimal():
        raise BadArchive(f"{member.name} in {member.path} is {text[:20]!r}, no label; get it again")
    label = int(text)
    factor = FACTORS.get(task.name)
    if factor is not None and len(_class_names(place)) != task.num_classes:
        label = int(dsprites.binned(np.array(label), factor))
    if label >= task.num_classes:
        raise BadArchive(f"{member.name} in {member.path} is {text}, but {task.name} has {task.num_classes} classes")
    return label


def _class_names(place: Path) -> list[str]:
    path = place / "classnames.txt"
    return lines(plain(path)) if path.is_file() else []


def _check(task: Task, split: str, records: Sequence[Record], place: Path) -> None:
    number = task.counts[PARTS.index(split)]
    if abs(len(records) - number) > task.tolerance:
        raise BadArchive(f"{split} in {place} has {len(records)} images, {task.name} has {number}: it is incomplete")
