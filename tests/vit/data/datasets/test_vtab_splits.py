"""The splits of VTAB-1k without a byte of data: numbers of table 1.1, keys of the published lists."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vit.data.datasets.vtab import TASKS, dsprites, load, named, read
from vit.data.datasets.vtab.dataset import Dataset, Item, part
from vit.data.datasets.vtab.remote_sensing import EUROSAT_CLASSES, RESISC45_CLASSES
from vit.data.datasets.vtab.splits import fingerprint, parts

Keys = dict[str, Sequence[int | str]]
EUROSAT_SIZES = (3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000)


def _eurosat() -> list[str]:
    sizes = zip(EUROSAT_CLASSES, EUROSAT_SIZES, strict=True)
    return [f"{name}_{name}_{number}.jpg" for name, size in sizes for number in range(1, size + 1)]


# Keys of the original distributions, as far as arithmetic gives them: TFDS split to number or to keys.
KEYS: dict[str, Keys] = {
    "caltech101": {"train": range(3060), "test": range(6084)},
    "cifar": {"train": range(50_000), "test": range(10_000)},
    "dtd": {split: range(1880) for split in ("train", "validation", "test")},
    "oxford_flowers102": {"train": range(1020), "validation": range(1020), "test": range(6149)},
    "oxford_iiit_pet": {"train": range(3680), "test": range(3669)},
    "svhn": {"train": range(73_257), "test": range(26_032)},
    "sun397": {"train": range(76_128), "validation": range(10_875), "test": range(21_750)},
    "patch_camelyon": {
        split: [f"{prefix}_{number}" for number in range(size)]
        for split, prefix, size in [
            ("train", "train", 262_144),
            ("validation", "valid", 32_768),
            ("test", "test", 32_768),
        ]
    },
    "eurosat": {"train": _eurosat()},
    "resisc45": {"train": [f"{name}_{name}_{n:03d}.jpg" for name in RESISC45_CLASSES for n in range(1, 701)]},
    "diabetic_retinopathy": {"train": range(35_126), "validation": range(10_906), "test": range(42_670)},
    "clevr_count": {
        split: [f"CLEVR_{name}_{number:06d}.png" for number in range(size)]
        for split, name, size in [("train", "train", 70_000), ("validation", "val", 15_000)]
    },
    "dmlab": {"train": range(65_550), "validation": range(22_628), "test": range(22_735)},
    "kitti": {"train": range(6347), "validation": range(423), "test": range(711)},
    "dsprites_loc": {"train": range(737_280)},
    "smallnorb_azi": {"train": range(24_300), "test": range(24_300)},
}
SAME = {"clevr_dist": "clevr_count", "dsprites_ori": "dsprites_loc", "smallnorb_ele": "smallnorb_azi"}
# First keys and SHA-256 of datasets.md §1.3: of the keys in order, one a line.
VECTORS = [
    ("cifar", "train800", [16399, 1680, 47917], "5b25ee0661c3bc4a"),
    ("cifar", "val200", [13431, 9237, 17462], "93377e439662509b"),
    ("clevr_count", "train800", ["CLEVR_train_043876.png"], "5dc1033102716488"),
    ("clevr_dist", "val200", ["CLEVR_train_035084.png"], "9a9150228251ccef"),
    ("patch_camelyon", "train800", ["train_251464"], "c1122cb7e413b8b3"),
    ("patch_camelyon", "val200", ["valid_3270"], "b3998b44bc8423a1"),
    ("eurosat", "train800", ["Forest_Forest_687.jpg"], "7dac90dec1b73063"),
    ("eurosat", "val200", ["SeaLake_SeaLake_804.jpg"], "5c9a3ab3702faf20"),
    ("svhn", "train800", [], "901fe4f6d4f65bc8"),
    ("svhn", "val200", [21145, 64736, 23870], "36ae944d2e322a4f"),
    ("smallnorb_azi", "train800", [16399, 1680, 17307], "438b845e2bd4a468"),
    ("smallnorb_ele", "val200", [23018, 16932, 19084], "d9fca0e85af945f0"),
    ("dsprites_loc", "train800", [16399, 634903, 206287], "54130b46ffd22579"),
    ("dsprites_ori", "val200", [220697, 85843, 84902], "86005e8c04783edc"),
    ("dsprites_loc", "test", [], "047f98bb94c6f871"),
]
LOCATIONS = [54, 42, 45, 45, 48, 54, 49, 48, 62, 51, 50, 60, 50, 47, 53, 42]  # of train800, §1.4
ORIENTATIONS = [59, 43, 67, 50, 53, 45, 58, 43, 61, 38, 52, 42, 56, 35, 57, 41]


def cut(name: str) -> dict[str, Sequence[int | str]]:
    """The keys of train800, val200 and test."""
    keys = KEYS[SAME.get(name, name)]
    found = {part: [keys[split][row] for row in rows] for part, (split, rows) in parts(TASKS[name], keys).items()}
    return {"train800": found["train"][:800], "val200": found["val"][:200], "test": found["test"]}


@pytest.fixture(scope="module")
def sprites() -> dict[str, Sequence[int | str]]:
    return cut("dsprites_loc")


def test_there_are_19_tasks_in_groups_of_7_4_and_8() -> None:
    groups = [task.group for task in TASKS.values()]
    assert [groups.count(group) for group in ("natural", "specialized", "structured")] == [7, 4, 8]
    # The class counts in the order of PETL's readers of NOAH's folders, which is the order of the table.
    expected = [102, 100, 47, 102, 37, 10, 397, 2, 10, 45, 5, 8, 6, 6, 4, 16, 16, 18, 9]
    assert [task.num_classes for task in TASKS.values()] == expected


@pytest.mark.parametrize("name", [name for name in TASKS if not name.startswith("dsprites")])
def test_parts_have_the_sizes_of_the_published_table(name: str) -> None:
    keys = KEYS[SAME.get(name, name)]
    found = parts(TASKS[name], keys)
    assert tuple(len(found[part][1]) for part in ("train", "val", "test")) == TASKS[name].counts
    rows = {(split, row) for split, rows in found.values() for row in rows.tolist()}
    assert len(rows) == sum(TASKS[name].counts), "parts share images"


@pytest.mark.parametrize(("name", "split", "first", "digest"), VECTORS)
def test_keys_are_those_of_the_test_vectors(
    name: str, split: str, first: list[int | str], digest: str, sprites: dict[str, Sequence[int | str]]
) -> None:
    keys = sprites[split] if name.startswith("dsprites") else cut(name)[split]
    assert keys[: len(first)] == first
    assert hashlib.sha256("\n".join(map(str, keys)).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", ["cifar", "patch_camelyon", "eurosat", "resisc45", "clevr_count", "clevr_dist"])
def test_keys_are_those_that_vpt_published(name: str) -> None:
    found = cut(name)
    assert (fingerprint(found["train800"]), fingerprint(found["val200"])) == TASKS[name].published


def test_sprites_have_the_sizes_and_classes_of_the_published_benchmark(sprites: dict[str, Sequence[int | str]]) -> None:
    assert len(sprites["test"]) == TASKS["dsprites_loc"].counts[2] == 73_728
    numbers = np.array(sprites["train800"])
    latents = np.stack(np.unravel_index(numbers, dsprites.FACTORS), axis=1)
    assert (latents[:, dsprites.X] == numbers // 32 % 32).all()
    assert (latents[:, dsprites.ORIENTATION] == numbers // 1024 % 40).all()
    bins = [np.bincount(dsprites.binned(latents[:, factor], factor)).tolist() for factor in (4, 3)]
    assert bins == [LOCATIONS, ORIENTATIONS]
    turns = [np.flatnonzero(dsprites.binned(np.arange(40), dsprites.ORIENTATION) == label) for label in range(16)]
    assert [len(steps) for steps in turns] == [3, 2] * 8
    assert turns[0].tolist() == [0, 1, 2] and turns[15].tolist() == [38, 39]


def test_names_and_aliases() -> None:
    for name, expected in {
        "cifar100": "cifar",
        "vtab/cifar": "cifar",
        "pets": "oxford_iiit_pet",
        "pcam": "patch_camelyon",
        "dsprites_orientation": "dsprites_ori",
        "clevr_distance": "clevr_dist",
    }.items():
        assert named(name).name == expected
    with pytest.raises(ValueError, match=r"no task 'cifar10'; it has caltech101, cifar, dtd"):
        named("cifar10")


@pytest.mark.parametrize("name", TASKS)
def test_what_is_missing_is_named_with_its_publisher_and_checksum(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        load(name, tmp_path)
    text = str(caught.value)
    missing = [archive for archive in TASKS[name].archives if archive.name in text]
    assert missing and str(tmp_path) in text
    assert missing[0].publisher in text and (missing[0].digest or "no checksum is published") in text


def _dataset(*sizes: tuple[str, int]) -> Dataset:
    made = {
        split: part(Item(key=f"{number}.jpg", label=number % 10, read=bytes) for number in range(size))
        for split, size in sizes
    }
    return Dataset(where=Path("archive"), class_names=tuple("0123456789"), parts=made, ext="jpg")


def test_splits_are_cut_from_a_loaded_task(tmp_path: Path) -> None:
    dataset = _dataset(("train", 1500), ("test", 40))
    task = dataclasses.replace(TASKS["svhn"], counts=(1350, 150, 40), build=lambda directory: dataset)
    keys = {
        split: [record.key for record in read(task, tmp_path, splits=[split]).records]
        for split in ("train800", "val200", "train800val200", "train", "val", "test")
    }
    assert [len(found) for found in keys.values()] == [800, 150, 950, 1350, 150, 40]
    assert keys["train800val200"] == keys["train800"] + keys["val200"]
    assert keys["train800"] == keys["train"][:800] and keys["val200"] == keys["val"]
    assert keys["train"][0].startswith("train/"), "train and test have file names in common"
    assert sorted(record.split for record in read(task, tmp_path).records)[::400] == ["test", "train800", "train800"]
    with pytest.raises(ValueError, match="share images of train: ask for them one at a time"):
        read(task, tmp_path, splits=["train", "train800"])
    with pytest.raises(ValueError, match="no split 'validation'; it has train800, val200"):
        read(task, tmp_path, splits=["validation"])


def test_archives_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    dataset = _dataset(("train", 1500), ("test", 40))
    task = dataclasses.replace(TASKS["svhn"], build=lambda directory: dataset)
    with pytest.raises(ValueError, match=r"svhn in archive has \(1350, 150, 40\) images .* \(65931, 7326, 26032\)"):
        read(task, tmp_path)
    task = dataclasses.replace(task, counts=(1350, 150, 40))
    with pytest.raises(ValueError, match="has 10 classes, VTAB 11"):
        read(dataclasses.replace(task, num_classes=11), tmp_path)
    with pytest.raises(ValueError, match=r"has labels 0 … 9: the archives are"):
        read(dataclasses.replace(task, num_classes=9, build=lambda _: _nine(dataset)), tmp_path)
    with pytest.raises(ValueError, match="train800 of svhn in archive is not the list that VPT published"):
        read(dataclasses.replace(task, published=("0" * 16, "0" * 16)), tmp_path)
    twice = _dataset(("test", 40))
    items = part([Item(key="a.jpg", label=0, read=bytes)] * 1500)
    twice = dataclasses.replace(twice, parts=twice.parts | {"train": items})
    with pytest.raises(ValueError, match=r"archive holds a.jpg twice in train"):
        read(dataclasses.replace(task, build=lambda directory: twice), tmp_path)


def _nine(dataset: Dataset) -> Dataset:
    return dataclasses.replace(dataset, class_names=dataset.class_names[:9])


def test_a_caltech_of_one_image_more_is_accepted_with_a_warning(tmp_path: Path) -> None:
    dataset = _dataset(("train", 20), ("test", 11))
    task = dataclasses.replace(TASKS["caltech101"], counts=(18, 2, 10), num_classes=10, build=lambda directory: dataset)
    with pytest.warns(UserWarning, match=r"caltech101 has \(18, 2, 11\) images"):
        read(task, tmp_path)
