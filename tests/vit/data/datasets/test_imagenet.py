import hashlib
import io
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.vit.data.datasets.build import (
    SYNSETS,
    TRUTH,
    WNIDS,
    devkit,
    imagenet,
    picture,
    tar,
    val_name,
    write,
)
from vit.data.datasets import imagenet_v2, real
from vit.data.datasets.imagenet import imagenet2012
from vit.data.datasets.imagenet21k import fall11, winter21
from vit.data.record import Record, Source
from vit.data.split import rank_order


def by_key(source: Source) -> dict[str, Record]:
    records = list(source.records)
    found = {record.key: record for record in records}
    assert len(found) == len(records)
    return found


def test_labels_are_positions_of_sorted_wordnet_ids_not_ilsvrc_ids(tmp_path: Path) -> None:
    source = imagenet2012(imagenet(tmp_path))
    found = by_key(source)
    assert source.class_names[:2] == ("n01440764 tench, Tinca tinca", "n02012849 crane")
    assert len(source.class_names) == len(set(source.class_names)) == 5, "two classes are called crane"
    wnid_of = {ilsvrc_id: wnid for ilsvrc_id, wnid, _, _ in SYNSETS}
    for number, ilsvrc_id in enumerate(TRUTH, start=1):
        record = found[val_name(number)]
        assert record.labels == (WNIDS.index(wnid_of[ilsvrc_id]),) and record.split == "val"
        assert record.read() == picture(1000 + number)
    for label, wnid in enumerate(WNIDS):
        record = found[f"{wnid}_2.JPEG"]
        assert (record.labels, record.split, record.ext) == ((label,), "train", "jpeg")
        assert record.read() == picture(100 * label + 2)
    assert Counter(record.split for record in found.values()) == {"train": 15, "val": 6}
    assert not source.keep_order


def unpacked(directory: Path, *, by_class: bool) -> Path:
    """The same images as folders: val flat, or in class folders as most people keep it."""
    archives = imagenet(directory / "archives")
    kit = imagenet2012(archives).class_names
    files = {"ILSVRC2012_devkit_t12.tar.gz": devkit()}
    for record in imagenet2012(archives).records:
        wnid = kit[record.labels[0]].split()[0]
        folder = f"{record.split}/{wnid}" if by_class or record.split == "train" else record.split
        files[f"{folder}/{record.key}"] = record.read()
    return write(directory / "folders", files)


@pytest.mark.parametrize("by_class", [False, True])
def test_folders_give_the_same_records_in_the_same_order(by_class: bool, tmp_path: Path) -> None:
    folders = imagenet2012(unpacked(tmp_path, by_class=by_class))
    archives = imagenet2012(tmp_path / "archives")
    assert folders.class_names == archives.class_names
    for one, other in zip(folders.records, archives.records, strict=True):
        assert (one.key, one.split, one.labels, one.read()) == (other.key, other.split, other.labels, other.read())


def test_a_val_image_in_the_folder_of_another_class_is_found(tmp_path: Path) -> None:
    directory = unpacked(tmp_path, by_class=True)
    (image,) = directory.glob(f"val/*/{val_name(3)}")
    wrong = directory / "val" / next(wnid for wnid in WNIDS if wnid != image.parent.name)
    image.rename(wrong / image.name)
    with pytest.raises(ValueError, match=r"val_00000003.JPEG .* folder of another class: the development kit says n"):
        imagenet2012(directory, splits=("val",))


def test_the_dev_split_is_the_end_of_train_in_tfds_order(tmp_path: Path) -> None:
    source = imagenet2012(imagenet(tmp_path, per_class=20), dev=True)  # 1 % of 100
    records = list(source.records)
    assert Counter(record.split for record in records) == {"train": 99, "val": 1, "test": 6}
    keys = [record.key for record in records if record.split != "test"]
    (val,) = [record.key for record in records if record.split == "val"]
    assert keys[rank_order("train", keys)[-1]] == val
    assert [r.key for r in imagenet2012(tmp_path, dev=True, splits=("val",)).records] == [val]


def test_only_the_archives_of_the_splits_are_needed(tmp_path: Path) -> None:
    imagenet(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").unlink()
    assert len(list(imagenet2012(tmp_path, splits=("val",)).records)) == 6
    with pytest.raises(ValueError, match=r"img_train.tar is missing \(ImageNet, .*md5:1d67.*needs an account"):
        imagenet2012(tmp_path)
    with pytest.raises(ValueError, match="has no split 'test'; it has train, val"):
        imagenet2012(tmp_path, splits=("test",))


def test_train_val_and_kit_must_fit_together(tmp_path: Path) -> None:
    directory = imagenet(tmp_path)
    train = directory / "ILSVRC2012_img_train.tar"
    whole = train.read_bytes()
    for files, complaint in [
        ({f"{wnid}.tar": tar({}) for wnid in WNIDS[:-1]}, r"lacks 5 of 5 classes, first n01440764"),
        ({"n99999999.tar": tar({"x.JPEG": b""})}, "of class n99999999, which the development kit does not know"),
        ({"notes.txt": b""}, r"notes.txt in .* belongs to no class"),
    ]:
        train.write_bytes(tar(files))
        with pytest.raises(ValueError, match=complaint):
            imagenet2012(directory)
    train.write_bytes(whole)
    kit = directory / "ILSVRC2012_devkit_t12.tar.gz"
    kit.write_bytes(devkit(TRUTH[:-1]))
    with pytest.raises(ValueError, match="holds 6 val images, but the kit labels 5"):
        imagenet2012(directory)
    kit.write_bytes(devkit([*TRUTH[:-1], 6]))
    with pytest.raises(ValueError, match="holds other ids than 1 … 5"):
        imagenet2012(directory)
    kit.write_bytes(tar({"data/meta.mat": b"MATLAB", "data/ILSVRC2012_validation_ground_truth.txt": b""}, "w:gz"))
    with pytest.raises(ValueError, match=r"meta.mat in .*t12.tar.gz is no readable MATLAB file"):
        imagenet2012(directory)


LISTS = [[2], [], [4, 0], [1], [], [3]]


def real_json(directory: Path, lists: object = LISTS) -> str:
    data = json.dumps(lists).encode()
    (directory / "real.json").write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def test_real_leaves_out_images_that_no_label_fits(tmp_path: Path) -> None:
    sha256 = real_json(imagenet(tmp_path))
    source = real.imagenet_real(tmp_path, sha256=sha256)
    found = by_key(source)
    assert {key: record.labels for key, record in found.items()} == {
        val_name(1): (2,),
        val_name(3): (0, 4),
        val_name(4): (1,),
        val_name(6): (3,),
    }
    assert source.multi_label and {record.split for record in found.values()} == {"test"}
    assert found[val_name(3)].read() == picture(1003), "number n of the list belongs to val image n + 1"


def test_real_json_must_be_the_published_one_and_fit(tmp_path: Path) -> None:
    imagenet(tmp_path)
    real_json(tmp_path)
    with pytest.raises(ValueError, match=f"as published {real.SHA256}"):
        real.imagenet_real(tmp_path)
    for lists, complaint in [(LISTS[1:], "labels 5 images, but the development kit 6"), ([[5]] * 6, "outside 0 … 4")]:
        with pytest.raises(ValueError, match=complaint):
            real.imagenet_real(tmp_path, sha256=real_json(tmp_path, lists))


def v2_files(labels: list[int]) -> dict[str, bytes]:
    folder = "imagenetv2-matched-frequency-format-val"
    return {f"{folder}/{label}/{n:02x}ab.jpeg": picture(10 * label + n) for label in labels for n in range(2)}


@pytest.mark.parametrize("mode", ["w", "w:gz", "folder"])
def test_v2_folders_are_numbers_not_text(mode: str, tmp_path: Path) -> None:
    files = v2_files([0, 1, 10, 100, 2, 999])  # as sorted as text, in which generic readers would count them
    if mode == "folder":
        write(tmp_path, files)
    else:
        (tmp_path / "imagenetv2-matched-frequency.tar.gz").write_bytes(tar(files, mode))
    source = imagenet_v2.matched_frequency(tmp_path)
    found = by_key(source)
    assert {record.labels for record in found.values()} == {(0,), (1,), (2,), (10,), (100,), (999,)}
    assert found["100_01ab.jpeg"].labels == (100,) and found["100_01ab.jpeg"].read() == picture(1001)
    assert {record.split for record in found.values()} == {"test"}
    assert len(source.class_names) == 1000 and source.keep_order == (mode == "w:gz")
    if mode != "w:gz":
        assert [record.labels[0] for record in found.values()] == [0, 0, 1, 1, 2, 2, 10, 10, 100, 100, 999, 999]


@pytest.mark.parametrize("folder", ["n01440764", "1000", "007", "-1"])
def test_v2_folders_that_are_no_classes_are_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "imagenetv2-top-images.tar.gz").write_bytes(tar({f"top/{folder}/x.jpeg": b""}))
    with pytest.raises(ValueError, match=f"{folder}/x.jpeg in .* does not lie in a folder 0 … 999"):
        list(imagenet_v2.top_images(tmp_path).records)
    with pytest.raises(ValueError, match=r"imagenetv2-threshold0.7.tar.gz is missing"):
        imagenet_v2.threshold(tmp_path)


def whole(prefix: str = "") -> dict[str, bytes]:
    """Three classes; n00000002's first image is one of n00000001's, too, and of n00000003's."""
    shared = picture(7)
    return {
        f"{prefix}n00000003.tar": tar({"n00000003_9.JPEG": shared, "n00000003_10.JPEG": picture(31)}),
        f"{prefix}n00000001.tar": tar({"n00000001_1.JPEG": picture(11), "n00000001_2.JPEG": shared}),
        f"{prefix}n00000002.tar": tar({"n00000002_1.JPEG": shared}),
    }


def test_imagenet21k_in_both_releases(tmp_path: Path) -> None:
    write(tmp_path, {"fall11_whole.tar": tar(whole())})
    write(tmp_path, {"winter21_whole.tar.gz": tar(whole("winter21_whole/"), "w:gz")})
    fall, winter = fall11(tmp_path), winter21(tmp_path)
    assert fall.class_names == winter.class_names == ("n00000001", "n00000002", "n00000003")
    assert (fall.keep_order, winter.keep_order, fall.multi_label) == (False, True, False)
    one, other = by_key(fall), by_key(winter)
    assert [*one][:2] == ["n00000001/n00000001_1.JPEG", "n00000001/n00000001_2.JPEG"], "sorted"
    assert next(iter(other)) == "n00000003/n00000003_9.JPEG", "in the order of the gzip file"
    for key, record in one.items():
        assert (record.labels, record.split, record.read()) == (other[key].labels, "train", other[key].read())
    assert one["n00000003/n00000003_10.JPEG"].labels == (2,)
    (tmp_path / "winter21_whole.tar.gz").unlink()
    write(tmp_path, {"winter21_whole.tar": tar(whole("winter21_whole/"))})
    assert [*by_key(winter21(tmp_path))] == [*one], "gunzipped"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_equal_images_of_several_classes_become_one_with_several_labels(mode: str, tmp_path: Path) -> None:
    (tmp_path / "fall11_whole.tar").write_bytes(tar(whole(), mode))
    source = fall11(tmp_path, merge=True)
    labels = {record.key.split("/")[1]: record.labels for record in source.records}
    first = "n00000001_2.JPEG" if mode == "w" else "n00000003_9.JPEG"
    assert labels == {"n00000001_1.JPEG": (0,), "n00000003_10.JPEG": (2,), first: (0, 1, 2)}
    assert source.multi_label


def test_imagenet21k_by_a_list_of_classes(tmp_path: Path) -> None:
    (tmp_path / "fall11_whole.tar").write_bytes(tar(whole()))
    listed = tmp_path / "classes.txt"
    listed.write_text("n00000009 not in the archive\nn00000003\nn00000002\n\nn00000001\n")
    source = fall11(tmp_path, class_list=listed)
    assert len(source.class_names) == 4
    assert by_key(source)["n00000001/n00000001_1.JPEG"].labels == (3,)
    listed.write_text("n00000003\nn00000002\n")
    with pytest.raises(ValueError, match="holds class n00000001, which the list of classes has not"):
        list(fall11(tmp_path, class_list=listed).records)
    for text in ("tench", "n00000001\nn00000001", ""):
        listed.write_text(text)
        with pytest.raises(ValueError, match="must list the WordNet ids"):
            fall11(tmp_path, class_list=listed)


def test_imagenet21k_holds_out_the_first_in_md5_order(tmp_path: Path) -> None:
    (tmp_path / "fall11_whole.tar").write_bytes(tar(whole()))
    records = list(fall11(tmp_path, num_val=2).records)
    keys = [record.key for record in records]
    held_out = {record.key for record in records if record.split == "val"}
    assert held_out == {keys[row] for row in rank_order("full", keys)[:2]}
    assert [r.key for r in fall11(tmp_path, num_val=2, splits=("val",)).records] == [k for k in keys if k in held_out]
    with pytest.raises(ValueError, match="num_val is 5, but there are 5 images"):
        list(fall11(tmp_path, num_val=5).records)


def test_imagenet21k_from_folders(tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "fall11_whole.tar").write_bytes(tar(whole()))
    archives = by_key(fall11(tmp_path / "archives"))
    write(tmp_path / "tars" / "fall11_whole", whole())
    for record in archives.values():
        write(tmp_path / "images" / "fall11_whole", {record.key: record.read()})
    for folder in ("tars", "images"):
        found = by_key(fall11(tmp_path / folder))
        assert {key: record.labels for key, record in found.items()} == {k: r.labels for k, r in archives.items()}
        assert all(found[key].read() == record.read() for key, record in archives.items())
    shutil.rmtree(tmp_path / "images")


def test_the_pictures_of_these_tests_differ() -> None:
    images = [Image.open(io.BytesIO(picture(seed))) for seed in range(3)]
    assert {image.size for image in images} == {(8, 8)}
    assert len({image.tobytes() for image in images}) == 3
