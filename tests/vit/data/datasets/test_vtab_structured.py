"""CLEVR, DMLab, KITTI, dSprites and smallNORB for VTAB: tiny archives come back, labels at the edges of their bins."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.vit.data.datasets.build import picture, tar, write
from tests.vit.data.datasets.vtab_archives import example, loaded, pixels, scenes, tfrecord, tiny, zipped
from vit.data.datasets.vtab import kitti, read
from vit.data.datasets.vtab.tfrecord import example as parsed
from vit.data.datasets.vtab.tfrecord import masked_crc
from vit.data.datasets.vtab.thresholds import bin_of

DEPTHS = [  # nearest, label: a bin holds its upper bound, and 8.00000001 is 8 in float32
    (8.0, 0),
    (8.00000001, 0),
    (8.0001, 1),
    (8.5, 1),
    (9.0, 2),
    (9.5, 3),
    (10.0, 4),
    (10.01, 5),
    (0.5, 0),
    (99.0, 5),
]


@pytest.mark.parametrize(("depth", "label"), DEPTHS)
def test_a_bin_holds_its_upper_bound(depth: float, label: int) -> None:
    assert bin_of(depth, (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)) == label


def test_a_distance_below_all_bins_has_no_class() -> None:
    for distance in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"is not above 0\.0"):
            bin_of(distance, (0.0, 8.0))


def clevr_archive(directory: Path) -> list[list[float]]:
    """Ten scenes of 3 … 10 objects; the nearest object is the last."""
    rows = [[50.0] * (2 + number % 8) + [depth] for number, (depth, _) in enumerate(DEPTHS)]
    files = {f"images/train/CLEVR_train_{n:06d}.png": picture(n, "PNG", "RGBA") for n in range(len(rows))}
    files |= {"images/val/CLEVR_val_000000.png": picture(99, "PNG", "RGBA"), "images/test/CLEVR_test_000000.png": b""}
    files |= {"scenes/CLEVR_train_scenes.json": scenes("train", rows), "README.txt": b""}
    files |= {"scenes/CLEVR_val_scenes.json": scenes("val", [[9.2] * 10])}
    write(directory, {"CLEVR_v1.0.zip": zipped({f"CLEVR_v1.0/{name}": data for name, data in files.items()})})
    return rows


def test_clevr_counts_and_measures(tmp_path: Path) -> None:
    rows = clevr_archive(tmp_path / "clevr")
    counted = loaded(tiny("clevr_count", (9, 1, 1)), tmp_path)
    measured = loaded(tiny("clevr_dist", (9, 1, 1)), tmp_path)
    for number, row in enumerate(rows):
        key = f"CLEVR_train_{number:06d}.png"
        assert counted[key].labels == (len(row) - 3,)
        assert measured[key].labels == (DEPTHS[number][1],)
        assert counted[key].read() == picture(number, "PNG", "RGBA") and pixels(counted[key]).shape == (8, 8, 3)
    tested = counted["CLEVR_val_000000.png"]
    assert (tested.split, tested.labels) == ("test", (7,)), "the published validation split is the test"
    assert measured["CLEVR_val_000000.png"].labels == (3,)


def test_clevr_scenes_that_are_damaged_or_without_image_are_named(tmp_path: Path) -> None:
    task = tiny("clevr_count", (9, 1, 1))
    good = {"images/val/CLEVR_val_000000.png": picture(0), "scenes/CLEVR_val_scenes.json": scenes("val", [[9.2] * 3])}
    for data, message in [
        (scenes("train", [[9.0] * 4])[:-9], "is no list of scenes"),
        (b'{"scenes": [7]}', "is no list of scenes"),
        (b"{}", "is no list of scenes"),
        (scenes("train", [[9.0] * 2]), r"CLEVR_train_000000.png has 2 objects, not 3 … 10"),
        (
            scenes("train", [[9.0] * 4]),
            r"lacks 1 of the images of its scenes, first images/train/CLEVR_train_000000.png",
        ),
    ]:
        write(tmp_path / "CLEVR_v1.0", good | {"scenes/CLEVR_train_scenes.json": data})
        with pytest.raises(ValueError, match=message):
            loaded(task, tmp_path)


VALUES = "0.00 0 -1.5 1.0 2.0 3.0 4.0 1.5 1.6 3.7 0.5 1.7 {z} 0.1"
SCENERY = [  # lines of a label file, label
    ([], 3),
    (["Car 8.00"], 0),
    (["Car 8.01"], 1),
    (["Car 30.0", "Van 20.00"], 1),
    (["Truck 20.01"], 2),
    (["Pedestrian 2.0", "Tram 3.0", "Cyclist 1.0", "Misc 1.0", "Person_sitting 1.0"], 3),
    (["DontCare -1000.0"], 3),
]


def kitti_archives(directory: Path, drives: int = 25) -> dict[int, str]:
    """Two images of each drive; returns the drive of each image."""
    mapping = [f"2011_09_26 2011_09_26_drive_{n % drives:04d}_sync {n // drives:010d}" for n in range(2 * drives)]
    order = np.random.default_rng(0).permutation(2 * drives) + 1
    texts = ["".join(f"{line.split()[0]} {VALUES.format(z=line.split()[1])}\n" for line in rows) for rows, _ in SCENERY]
    names = [f"{number:06d}" for number in range(2 * drives)]
    images = {f"training/image_2/{name}.png": picture(int(name), "PNG") for name in reversed(names)}
    images["testing/image_2/000000.png"] = b"not labelled"
    rows = {f"training/label_2/{name}.txt": texts[int(name) % len(texts)].encode() for name in names}
    devkit = {"mapping/train_mapping.txt": "\n".join(mapping).encode(), "readme.txt": b""}
    devkit["mapping/train_rand.txt"] = ",".join(map(str, order)).encode()
    archives = {"data_object_image_2": images, "data_object_label_2": rows, "devkit_object": devkit}
    write(directory, {f"{name}.zip": zipped(files) for name, files in archives.items()})
    return {number: mapping[row - 1].split()[1] for number, row in enumerate(order)}


def test_kitti_keeps_drives_together_and_looks_for_vehicles(tmp_path: Path) -> None:
    drive_of = kitti_archives(tmp_path)
    records = loaded(tiny("kitti", (42, 4, 4)), tmp_path)
    for number in range(50):
        record = records[f"{number:06d}.png"]
        assert record.labels == (SCENERY[number % len(SCENERY)][1],)
        assert record.read() == picture(number, "PNG")
    drives = {
        split: {drive_of[int(r.key[:6])][17:21] for r in records.values() if r.split == split}
        for split in ("train800", "val200", "test")
    }
    # What np.random.seed(123) and two calls of np.random.choice give on the sorted names.
    state = np.random.get_state()
    np.random.seed(123)
    names = [f"{number:04d}" for number in range(25)]
    test = set(np.random.choice(names, 2, replace=False))
    val = set(np.random.choice(sorted(set(names) - test), 2, replace=False))
    np.random.set_state(state)
    assert drives == {"test": test, "val200": val, "train800": set(names) - test - val}


def test_kitti_that_does_not_fit_together_is_named(tmp_path: Path) -> None:
    kitti_archives(tmp_path)
    task = tiny("kitti", (42, 4, 4))
    write(tmp_path, {"data_object_label_2.zip": zipped({"training/label_2/000000.txt": b"Car 1 2\n"})})
    with pytest.raises(ValueError, match=r"data_object_label_2.zip holds no label_2/\d+.txt"):
        loaded(task, tmp_path)
    rows = {f"training/label_2/{number:06d}.txt": b"Car 1 2\n" for number in range(50)}
    write(tmp_path, {"data_object_label_2.zip": zipped(rows)})
    with pytest.raises(ValueError, match="'Car 1 2', which is not 15 fields"):
        loaded(task, tmp_path)
    for order in (b"1,2,999", b"1,0", b"1,,2"):
        devkit = {"mapping/train_mapping.txt": b"a b c\na b d", "mapping/train_rand.txt": order}
        write(tmp_path, {"devkit_object.zip": zipped(devkit)})
        with pytest.raises(ValueError, match=r"the lists in mapping/ of .* do not fit together"):
            loaded(task, tmp_path)
    assert kitti.PERCENT * 2 // 100 == 0, "of few drives one is drawn all the same"
    assert {split: len(found) for split, found in kitti._split({"a": [0], "b": [1], "c": [2]}).items()} == {
        "test": 1,
        "validation": 1,
        "train": 1,
    }


def test_the_checksum_of_tfrecord_is_masked_crc32c() -> None:
    crc = 0xE3069283  # CRC-32C of this text, RFC 3720
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_examples_are_read_packed_or_not() -> None:
    data = example(label=5, image=b"\xff\xd8", filename=b"a.jpg", weight=0.5)
    found = parsed(data)
    assert found["label"] == 5 and "weight" not in found
    start, end = found["image"]
    assert data[start:end] == b"\xff\xd8"
    entry = b"\x0a\x05label\x12\x04\x1a\x02\x08\x07"  # the integer as a field of its own
    assert parsed(b"\x0a" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry) == {"label": 7}
    for cut in range(1, len(data)):
        try:
            assert len(parsed(data[:cut])) < 4
        except ValueError:
            continue


def dmlab_files(directory: Path, train: bytes | None = None) -> None:
    frames = [example(image=picture(n), filename=f"video_{n}_5_976.jpg".encode(), label=n % 6) for n in range(12)]
    files = {"dmlab-train.tfrecord-00000-of-00002": train if train is not None else tfrecord(frames[:3])}
    files |= {"dmlab-train.tfrecord-00001-of-00002": tfrecord(frames[3:6]), "dmlab-train.txt": b""}
    files |= {"dmlab-validation.tfrecord": tfrecord(frames[6:8]), "dmlab-test.tfrecord": tfrecord(frames[8:])}
    write(directory, {"dmlab.tar.gz": tar(files, "w:gz")})


def test_dmlab_is_read_from_tfrecords(tmp_path: Path) -> None:
    dmlab_files(tmp_path)
    source = read(tiny("dmlab", (6, 2, 4)), tmp_path)
    records = {record.key: record for record in source.records}
    assert len(records) == 12 and source.keep_order
    for number in range(12):
        record = records[f"video_{number}_5_976.jpg"]
        assert record.labels == (number % 6,) and record.read() == picture(number)
        assert record.split == ("train800" if number < 6 else "val200" if number < 8 else "test")
    assert pickle.loads(pickle.dumps(records["video_3_5_976.jpg"])).read() == picture(3)


def test_damaged_tfrecords_are_named(tmp_path: Path) -> None:
    good = tfrecord([example(image=b"i", filename=b"a.jpg", label=1)])
    flipped = bytes([good[0] ^ 1]) + good[1:]
    huge = struct.pack("<Q", 1 << 40)
    for data, message in [
        (good[:-1], "dmlab-train.tfrecord-00000-of-00002 .* is no TFRecord file or damaged at byte 0"),
        (good + good[:5], f"damaged at byte {len(good)}"),
        (flipped, "damaged at byte 0"),
        (huge + struct.pack("<I", masked_crc(huge)), "damaged at byte 0"),
        (tfrecord([b"\x0a\xff"]), "the record at byte 12 .* is no image with filename and label"),
        (tfrecord([example(image=b"i", label=1)]), r"its features are image, label"),
        (tfrecord([example(image=b"i", filename=b"a.jpg", label=6)]), "its label is 6"),
    ]:
        dmlab_files(tmp_path, data)
        with pytest.raises(ValueError, match=message):
            loaded(tiny("dmlab", (6, 2, 4)), tmp_path)
