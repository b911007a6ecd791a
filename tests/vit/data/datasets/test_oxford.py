from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.vit.data.datasets.build import mat, picture, tar, write
from vit.data.datasets.flowers import CLASS_NAMES, flowers
from vit.data.datasets.pets import pets
from vit.data.pictures import decode
from vit.data.split import rank_order

HEADER = "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n"
TRAINVAL = "Abyssinian_100 1 1 1\nAbyssinian_34 1 1 1\namerican_bulldog_10 2 2 1\nBengal_1 3 1 2\n"
TEST = "Abyssinian_5 1 1 1\namerican_bulldog_2 2 2 1\nBengal_101 3 1 2\n"
LISTED = [line.split()[0] for line in (TRAINVAL + TEST).splitlines()]
FAKES = {"Abyssinian_5": ("PNG", "RGBA"), "Abyssinian_34": ("GIF", "P")}  # what these two really are


def pet(name: str) -> bytes:
    return picture(LISTED.index(name), *FAKES.get(name, ("JPEG", "RGB")))


def pets_archives(directory: Path, trainval: str = TRAINVAL, test: str = TEST) -> Path:
    """With what else lies in the published archives: .mat files, resource forks, the list of all."""
    images = {f"images/{name}.jpg": pet(name) for name in reversed(LISTED)}
    images |= {"images/Abyssinian_100.mat": b"", "images/Abyssinian_999.jpg": b"not listed"}
    annotations = {
        "annotations/README": b"",
        "annotations/list.txt": (HEADER + TRAINVAL + TEST).encode(),
        "annotations/trimaps/._Abyssinian_100.png": b"",
        "annotations/trainval.txt": trainval.encode(),
        "annotations/test.txt": test.encode(),
    }
    return write(directory, {"images.tar.gz": tar(images, "w:gz"), "annotations.tar.gz": tar(annotations, "w:gz")})


def test_pets_labels_are_class_ids_from_one(tmp_path: Path) -> None:
    source = pets(pets_archives(tmp_path))
    found = {record.key: record for record in source.records}
    assert source.class_names == ("Abyssinian", "american_bulldog", "Bengal"), "in the order of the ids"
    assert {key: (record.split, record.labels) for key, record in found.items()} == {
        "Abyssinian_100.jpg": ("train", (0,)),
        "Abyssinian_34.jpg": ("train", (0,)),
        "american_bulldog_10.jpg": ("train", (1,)),
        "Bengal_1.jpg": ("train", (2,)),
        "Abyssinian_5.jpg": ("test", (0,)),
        "american_bulldog_2.jpg": ("test", (1,)),
        "Bengal_101.jpg": ("test", (2,)),
    }


def test_fake_jpegs_come_as_published_and_decode_to_rgb(tmp_path: Path) -> None:
    found = {record.key: record for record in pets(pets_archives(tmp_path)).records}
    assert found["Abyssinian_5.jpg"].read()[:4] == b"\x89PNG" and found["Abyssinian_34.jpg"].read()[:4] == b"GIF8"
    for name in LISTED:
        record = found[f"{name}.jpg"]
        assert record.read() == pet(name) and record.ext == "jpg"
        assert np.asarray(decode(record.read())).shape == (8, 8, 3)


def test_pets_from_folders(tmp_path: Path) -> None:
    archives = pets(pets_archives(tmp_path / "archives"))
    files = {f"images/{record.key}": record.read() for record in archives.records}
    write(tmp_path, files | {"annotations/trainval.txt": TRAINVAL.encode(), "annotations/test.txt": TEST.encode()})
    folders = pets(tmp_path)
    assert {r.key: (r.split, r.labels) for r in folders.records} == {
        r.key: (r.split, r.labels) for r in archives.records
    }
    assert not folders.keep_order and archives.keep_order


def test_pets_hold_out_the_last_tenth_in_tfds_order(tmp_path: Path) -> None:
    more = "".join(f"Bengal_{number} 3 1 2\n" for number in range(200, 206))
    images = {f"images/{line.split()[0]}.jpg": b"" for line in (TRAINVAL + TEST + more).splitlines()}
    pets_archives(tmp_path, trainval=TRAINVAL + more)
    write(tmp_path, {"images.tar.gz": tar(images, "w:gz")})
    records = list(pets(tmp_path, dev=True).records)
    assert Counter(record.split for record in records) == {"train": 9, "val": 1, "test": 3}
    keys = [record.key for record in records if record.split != "test"]
    (val,) = [record.key for record in records if record.split == "val"]
    assert keys[rank_order("train", keys)[-1]] == val


@pytest.mark.parametrize(
    ("trainval", "complaint"),
    [
        (TRAINVAL + "Bengal_7 3 1 2\n", r"images.tar.gz lacks 1 of 8 listed images, first Bengal_7"),
        (TRAINVAL + "Bengal_101 3 1 2\n", r"test.txt in .* lists Bengal_101, which is listed before"),
        (TRAINVAL.replace("Bengal_1 3", "Bengal_1 2"), "gives Bengal the id 2 of american_bulldog"),
        (TRAINVAL.replace("_bulldog_10 2", "_bulldog_10 4"), "the class ids in .* are .*4"),
        (TRAINVAL + "Bengal_7 three 1 2\n", "has the line 'Bengal_7 three 1 2'"),
    ],
)
def test_lists_that_contradict_the_images_or_each_other(trainval: str, complaint: str, tmp_path: Path) -> None:
    test = TEST.replace("american_bulldog_2 2", "american_bulldog_2 4") if "_10 4" in trainval else TEST
    with pytest.raises(ValueError, match=complaint):
        pets(pets_archives(tmp_path, trainval, test))


FLOWERS = [1, 102, 77, 3, 3, 50, 1, 9]  # labels of images 1 to 8, from 1
SETS = {"trnid": [6, 2], "valid": [8], "tstid": [1, 3, 4, 5, 7]}


def flowers_files(directory: Path, labels: object = FLOWERS, sets: dict[str, list[int]] = SETS) -> Path:
    images = {f"jpg/image_{number:05d}.jpg": picture(number) for number in range(1, 9)}
    return write(
        directory,
        {
            "102flowers.tgz": tar(images, "w:gz"),
            "imagelabels.mat": mat({"labels": np.array([labels], dtype=np.uint8)}),
            "setid.mat": mat({name: np.array([numbers], dtype=np.uint16) for name, numbers in sets.items()}),
        },
    )


def test_the_larger_split_of_flowers_is_test_and_labels_begin_at_zero(tmp_path: Path) -> None:
    source = flowers(flowers_files(tmp_path))
    found = {record.key: record for record in source.records}
    assert Counter(record.split for record in found.values()) == {"train": 2, "val": 1, "test": 5}
    assert {key for key, record in found.items() if record.split == "train"} == {"image_00002.jpg", "image_00006.jpg"}
    for number, label in enumerate(FLOWERS, start=1):
        record = found[f"image_{number:05d}.jpg"]
        assert record.labels == (label - 1,) and record.read() == picture(number)
    assert len(source.class_names) == 102 and source.class_names[found["image_00002.jpg"].labels[0]] == CLASS_NAMES[101]
    assert (CLASS_NAMES[0], CLASS_NAMES[11], CLASS_NAMES[101]) == ("pink primrose", "colt's foot", "blackberry lily")


def test_flowers_with_dev_hold_out_of_train_and_leave_the_published_val_out(tmp_path: Path) -> None:
    sets = {"trnid": [6, 2, 4, 5, 7], "valid": [8], "tstid": [1, 3]}
    records = list(flowers(flowers_files(tmp_path, sets=sets), dev=True).records)
    assert {record.key for record in records if record.split == "test"} == {"image_00001.jpg", "image_00003.jpg"}
    assert "image_00008.jpg" not in {record.key for record in records}
    keys = [f"image_{number:05d}.jpg" for number in sets["trnid"]]
    kept = round(0.9 * 5)
    held_out = {keys[row] for row in rank_order("train", keys)[kept:]}
    assert {record.key for record in records if record.split == "val"} == held_out


@pytest.mark.parametrize(
    ("labels", "sets", "complaint"),
    [
        ([0, *FLOWERS[1:]], SETS, r"has labels 0 … 102, not 1 … 102"),
        ([103, *FLOWERS[1:]], SETS, r"has labels 1 … 103, not 1 … 102"),
        (FLOWERS, SETS | {"valid": [6]}, r"lists image_00006.jpg in valid and elsewhere"),
        (FLOWERS[:-1], SETS, r"lists image_00008.jpg in valid and elsewhere, or it has no label"),
        ([*FLOWERS, 5], SETS | {"valid": [9]}, r"lacks 1 of 8 listed images, first image_00009.jpg"),
        (FLOWERS, {"trnid": [1], "tstid": [2]}, r"setid.mat has no variable valid"),
    ],
)
def test_flowers_files_that_contradict_each_other(
    labels: list[int], sets: dict[str, list[int]], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=complaint):
        flowers(flowers_files(tmp_path, labels, sets))
