"""Caltech-101, CIFAR-100, DTD, Flowers, Pets, SVHN and SUN397 for VTAB: tiny archives come back, traps included."""

import functools
import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vit.data.datasets.build import mat, picture, tar, write
from tests.vit.data.datasets.vtab_archives import encoded, labels, loaded, pixels, tiny, zipped
from vit.data.datasets.vtab import read, svhn
from vit.data.datasets.vtab.sun397 import reduced
from vit.data.shards import Shards
from vit.data.writing import write_source

CALTECH = {"BACKGROUND_Google": 31, "Faces": 33, "accordion": 32}
CALTECH_TASK = tiny("caltech101", (81, 9, 6), 3)


@functools.cache
def caltech_files() -> dict[str, bytes]:
    """Class folders in disorder, the stray file `tmp` and what macOS leaves behind."""
    files = {
        f"101_ObjectCategories/{name}/image_{number:04d}.jpg": picture(1000 * row + number)
        for row, (name, size) in enumerate(CALTECH.items())
        for number in range(size, 0, -1)
    }
    return files | {
        "101_ObjectCategories/BACKGROUND_Google/tmp": b"",
        "101_ObjectCategories/Faces/._image_0001.jpg": b"",
    }


def caltech_zip(content: bytes) -> bytes:
    return zipped({"caltech-101/101_ObjectCategories.tar.gz": content, "caltech-101/Annotations.tar": b""})


def test_caltech_keeps_its_background_class_and_30_images_of_each_class_for_train(tmp_path: Path) -> None:
    write(tmp_path / "zip", {"caltech-101.zip": caltech_zip(tar(caltech_files(), "w:gz"))})
    write(tmp_path / "tar", {"101_ObjectCategories.tar.gz": tar(caltech_files(), "w:gz")})
    write(tmp_path / "folder", caltech_files())
    found = {name: loaded(CALTECH_TASK, tmp_path / name, "train", "val", "test") for name in ("zip", "tar", "folder")}
    source = read(CALTECH_TASK, tmp_path / "zip")
    assert source.class_names == ("accordion", "background_google", "faces")
    assert source.name == "vtab/caltech101-noncanonical"
    for records in found.values():
        assert {key: (r.split, r.labels) for key, r in records.items()} == {
            key: (r.split, r.labels) for key, r in found["zip"].items()
        }
        assert len(records) == sum(CALTECH.values())
        assert all(record.read() == caltech_files()[f"101_ObjectCategories/{key}"] for key, record in records.items())
    test = {key: r.labels[0] for key, r in found["zip"].items() if r.split == "test"}
    assert sorted(test.values()) == [0, 0, 1, 2, 2, 2]
    assert pickle.loads(pickle.dumps(found["zip"]["Faces/image_0001.jpg"])).read() == picture(1001)


def test_caltech_takes_a_list_of_its_train_images(tmp_path: Path) -> None:
    names = [
        f"{name}/image_{number:04d}.jpg" for name, size in CALTECH.items() for number in range(size - 29, size + 1)
    ]
    write(tmp_path, {"101_ObjectCategories.tar.gz": tar(caltech_files(), "w:gz")})
    write(tmp_path, {"caltech101_train.txt": "\n".join(names).encode()})
    source = read(CALTECH_TASK, tmp_path, splits=["test"])
    assert source.name == "vtab/caltech101"
    expected = {f"{name}/image_{number:04d}.jpg" for name, size in CALTECH.items() for number in range(1, size - 29)}
    assert set(labels(source, "test")) == expected
    write(tmp_path, {"caltech101_train.txt": b"Faces/image_9999.jpg"})
    with pytest.raises(ValueError, match=r"lists 1 images that the archive does not hold, first Faces/image_9999.jpg"):
        read(CALTECH_TASK, tmp_path)


def test_a_damaged_archive_inside_the_zip_is_named(tmp_path: Path) -> None:
    whole = tar(caltech_files(), "w:gz")
    write(tmp_path, {"caltech-101.zip": caltech_zip(whole[: len(whole) // 2])})
    with pytest.raises(ValueError, match=r"101_ObjectCategories.tar.gz in .*caltech-101.zip is damaged"):
        read(CALTECH_TASK, tmp_path)


@pytest.mark.parametrize("mode", ["w:gz", "w"])  # the published .tar.gz may be a plain tar
def test_dtd_uses_the_first_fold(tmp_path: Path, mode: str) -> None:
    folds = {"train1": ["braided/braided_0002.jpg", "banded/banded_0004.jpg"], "val1": ["banded/banded_0002.jpg"]}
    folds |= {"test1": ["polka-dotted/polka-dotted_0001.jpg"], "train2": ["banded/banded_0002.jpg"]}
    files = {f"dtd/labels/{name}.txt": "\n".join([*keys, ""]).encode() for name, keys in folds.items()}
    names = sorted({key for keys in folds.values() for key in keys})
    files |= {f"dtd/images/{name}": picture(number) for number, name in enumerate(names)}
    write(tmp_path, {"dtd-r1.0.1.tar.gz": tar(files, mode)})
    records = loaded(tiny("dtd", (2, 1, 1), 3), tmp_path)
    assert {key: (record.split, record.labels) for key, record in records.items()} == {
        "braided/braided_0002.jpg": ("train800", (1,)),
        "banded/banded_0004.jpg": ("train800", (0,)),
        "banded/banded_0002.jpg": ("val200", (0,)),
        "polka-dotted/polka-dotted_0001.jpg": ("test", (2,)),
    }
    assert all(record.read() == picture(names.index(key)) for key, record in records.items())
    write(tmp_path / "extracted" / "dtd", files)  # dtd/dtd/…: the folder of the archives is named as their root
    assert loaded(tiny("dtd", (2, 1, 1), 3), tmp_path / "extracted").keys() == records.keys()
    del files["dtd/images/banded/banded_0002.jpg"]
    write(tmp_path, {"dtd-r1.0.1.tar.gz": tar(files, mode)})
    with pytest.raises(ValueError, match=r"holds no images/banded/banded_0002.jpg"):
        loaded(tiny("dtd", (2, 1, 1), 3), tmp_path)


def svhn_files(rng: np.random.Generator, train: int, test: int) -> tuple[dict[str, bytes], np.ndarray]:
    images = rng.integers(0, 256, (32, 32, 3, train), np.uint8)
    digits = np.arange(train, dtype=np.uint8).reshape(-1, 1) % 10 + 1
    last = {"X": rng.integers(0, 256, (32, 32, 3, test), np.uint8), "y": np.full((test, 1), 10, np.uint8)}
    return {"train_32x32.mat": mat({"X": images, "y": digits}), "test_32x32.mat": mat(last)}, images


def test_svhn_is_lossless_and_its_ten_is_a_zero(tmp_path: Path) -> None:
    files, images = svhn_files(np.random.default_rng(0), 20, 1)
    write(tmp_path / "svhn", files)
    source = read(tiny("svhn", (18, 2, 1)), tmp_path)
    records = {record.key: record for record in source.records}
    for number in range(20):
        record = records[f"train_{number:06d}"]
        assert record.labels == ((number + 1) % 10,)
        assert (pixels(record) == images[..., number]).all()
    assert records["test_000000"].labels == (0,) and records["test_000000"].split == "test"
    report = write_source(
        tmp_path / "out", read(tiny("svhn", (18, 2, 1)), tmp_path), name="svhn", max_reject_share=0, val_fraction=0
    )
    assert report.splits == {"test": 1, "train800": 18, "val200": 2} and not report.notes
    shards = Shards(tmp_path / "out", splits=("train800", "val200"))
    assert len(shards) == 20
    number = int(shards.keys[0].removeprefix("train_"))
    assert (np.asarray(shards.image(0)) == images[..., number]).all()
    svhn._arrays.cache_clear()


def test_svhn_with_other_labels_is_refused(tmp_path: Path) -> None:
    files, images = svhn_files(np.random.default_rng(0), 3, 1)
    write(tmp_path, files | {"train_32x32.mat": mat({"X": images, "y": np.array([[0], [1], [2]], np.uint8)})})
    with pytest.raises(ValueError, match=r"train_32x32.mat has labels 0 … 2 for 3 of 3 images"):
        loaded(tiny("svhn", (3, 0, 1)), tmp_path)


def test_cifar_is_read_from_its_binary_version(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8)
    rows = [bytes([number % 5, number]) + images[number].tobytes() for number in range(12)]
    files = {"cifar-100-binary/train.bin": b"".join(rows[:10]), "cifar-100-binary/test.bin": b"".join(rows[10:])}
    files["cifar-100-binary/fine_label_names.txt"] = "\n".join(f"fine{n}" for n in range(100)).encode() + b"\n"
    write(tmp_path, {"cifar-100-binary.tar.gz": tar(files, "w:gz")})
    source = read(tiny("cifar", (9, 1, 2)), tmp_path)
    records = {record.key: record for record in source.records}
    assert source.keep_order and source.name == "vtab/cifar" and source.family == "lossless"
    for number in range(10):
        record = records[f"train_{number:05d}"]
        assert record.labels == (number,), "the fine label"
        assert (pixels(record) == images[number].transpose(1, 2, 0)).all()
    assert [records[f"test_{number:05d}"].labels[0] for number in range(2)] == [10, 11]
    held_out = [record.key for record in source.records if record.split == "val200"]
    last = max(range(10), key=lambda number: hashlib.md5(f"train{number}".encode()).digest())
    assert held_out == [f"train_{last:05d}"]


def test_flowers_are_tested_on_the_large_split(tmp_path: Path) -> None:
    splits = {"trnid": [[2, 7]], "valid": [[3]], "tstid": [[1, 4, 5, 6, 8]]}
    stored = np.array([[1, 102, 50, 50, 7, 7, 8, 9]], np.uint8)
    write(
        tmp_path,
        {
            "102flowers.tgz": tar({f"jpg/image_{number:05d}.jpg": picture(number) for number in range(1, 9)}, "w:gz"),
            "imagelabels.mat": mat({"labels": stored}),
            "setid.mat": mat({name: np.array(numbers) for name, numbers in splits.items()}),
        },
    )
    records = loaded(tiny("oxford_flowers102", (2, 1, 5)), tmp_path)
    assert {key: (record.split, record.labels[0]) for key, record in records.items()} == {
        "image_00001.jpg": ("test", 0),
        "image_00002.jpg": ("train800", 101),
        "image_00003.jpg": ("val200", 49),
        "image_00004.jpg": ("test", 49),
        "image_00005.jpg": ("test", 6),
        "image_00006.jpg": ("test", 6),
        "image_00007.jpg": ("train800", 7),
        "image_00008.jpg": ("test", 8),
    }


def test_pets_that_are_no_jpegs_pass_as_published(tmp_path: Path) -> None:
    trainval = "".join(f"Abyssinian_{n} 1 1 1\nbeagle_{n} 2 2 1\n" for n in range(1, 6))
    fakes = {"Abyssinian_5": ("PNG", "RGBA"), "beagle_1": ("GIF", "P")}
    names = [*(line.split()[0] for line in trainval.splitlines()), "beagle_77"]
    images = {f"images/{n}.jpg": picture(i, *fakes.get(n, ("JPEG", "RGB"))) for i, n in enumerate(names)}
    lists = {"annotations/trainval.txt": trainval.encode(), "annotations/test.txt": b"beagle_77 2 2 1\n"}
    write(tmp_path, {"images.tar.gz": tar(images, "w"), "annotations.tar.gz": tar(lists, "w:gz")})
    records = loaded(tiny("oxford_iiit_pet", (8, 2, 1), 2), tmp_path)
    assert len(records) == 11 and records["beagle_77.jpg"].labels == (1,)
    for name, (kind, _) in fakes.items():
        data = records[f"{name}.jpg"].read()
        assert data == images[f"images/{name}.jpg"] and Image.open(io.BytesIO(data)).format == kind
        assert pixels(records[f"{name}.jpg"]).shape == (8, 8, 3)


def test_sun397_needs_the_lists_of_tfds_and_reduces_its_images(tmp_path: Path) -> None:
    large = np.full((400, 600, 3), (200, 40, 10), np.uint8)
    keys = {"tr": ["/a/abbey/sun_a.jpg", "/t/track/outdoor/sun_b.jpg"], "va": ["/a/abbey/sun_c.jpg"]}
    keys |= {"te": ["/a/abbey/sun_d.jpg"]}
    images = {
        "/a/abbey/sun_a.jpg": encoded(large, "JPEG", quality=95),
        "/t/track/outdoor/sun_b.jpg": encoded(large[:40, :50], "PNG"),
        "/a/abbey/sun_c.jpg": encoded(large[:40, :50], "BMP"),
        "/a/abbey/sun_d.jpg": encoded(large[:40, :50], "GIF"),
        "/a/abbey/sun_not_listed.jpg": b"",
    }
    write(tmp_path, {"SUN397.tar.gz": tar({f"SUN397{key}": data for key, data in images.items()}, "w:gz")})
    with pytest.raises(ValueError, match=r"sun397_tfds_tr.txt is missing \(TensorFlow Datasets.*sha256:764d9aa5"):
        loaded(tiny("sun397", (2, 1, 1), 2), tmp_path)
    write(tmp_path, {f"sun397_tfds_{split}.txt": "\n".join(names).encode() for split, names in keys.items()})
    source = read(tiny("sun397", (2, 1, 1), 2), tmp_path)
    assert source.class_names == ("/a/abbey", "/t/track/outdoor")
    records = {record.key: record for record in source.records}
    assert {key: record.labels[0] for key, record in records.items()} == {
        "/a/abbey/sun_a.jpg": 0,
        "/t/track/outdoor/sun_b.jpg": 1,
        "/a/abbey/sun_c.jpg": 0,
        "/a/abbey/sun_d.jpg": 0,
    }
    for key, record in records.items():
        assert Image.open(io.BytesIO(record.read())).format == "JPEG"
        assert pixels(record).shape == ((283, 424, 3) if key == "/a/abbey/sun_a.jpg" else (40, 50, 3))
        assert np.abs(pixels(record).astype(int) - (200, 40, 10)).max() < 12, "red stays red"
    assert pickle.loads(pickle.dumps(records["/a/abbey/sun_d.jpg"])).read() == records["/a/abbey/sun_d.jpg"].read()
    with pytest.raises(ValueError, match="cannot be decoded"):
        reduced(b"no image")
    with pytest.raises(ValueError, match="is empty"):
        reduced(b"")
    write(tmp_path, {"sun397_tfds_te.txt": b"/z/zoo/sun_e.jpg"})
    with pytest.raises(ValueError, match=r"lacks 1 images that the lists of TFDS name, first /z/zoo/sun_e.jpg"):
        loaded(tiny("sun397", (2, 1, 1), 2), tmp_path)
