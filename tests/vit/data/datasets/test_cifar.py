import hashlib
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.vit.data.datasets.build import tar, write
from vit.data.datasets.cifar import cifar10, cifar100
from vit.data.datasets.dev_split import hold_out
from vit.data.order import hash64
from vit.data.pictures import decode
from vit.data.record import Record
from vit.typing import Pixels

FINE = ("apple", "aquarium_fish", "baby")


def images(seed: int, count: int) -> Pixels:
    """uint8 [count, 3, 32, 32], planes as in the files."""
    return (hash64(seed, np.arange(count * 3072)) >> np.uint64(56)).astype(np.uint8).reshape(count, 3, 32, 32)


def binary(planes: Pixels, *labels: list[int]) -> bytes:
    """Records of label bytes and planes."""
    heads = np.array(labels, dtype=np.uint8).T
    return np.hstack([heads, planes.reshape(len(planes), -1)]).tobytes()


TRAIN, TEST = images(1, 10), images(2, 3)
FINE_LABELS, COARSE_LABELS = [2, 0, 1, 1, 0, 2, 2, 1, 0, 0], [7, 3, 5, 5, 3, 7, 7, 5, 3, 3]


def cifar100_files() -> dict[str, bytes]:
    return {
        "cifar-100-binary/coarse_label_names.txt": b"people\nfruit\nfish\n",
        "cifar-100-binary/fine_label_names.txt": "\n".join([*FINE, "", ""]).encode(),
        "cifar-100-binary/test.bin": binary(TEST, [7, 3, 5], [2, 0, 1]),
        "cifar-100-binary/train.bin": binary(TRAIN, COARSE_LABELS, FINE_LABELS),
    }


def cifar10_files() -> dict[str, bytes]:
    """The five train files in an order that is not theirs."""
    folder = "cifar-10-batches-bin/"
    files = {f"{folder}batches.meta.txt": b"airplane\nautomobile\n\n"}
    for number in (5, 3, 1, 2, 4):
        rows = slice(2 * number - 2, 2 * number)
        files[f"{folder}data_batch_{number}.bin"] = binary(TRAIN[rows], [number % 2, 1])
    return files | {f"{folder}test_batch.bin": binary(TEST, [0, 1, 0]), f"{folder}readme.html": b"<html>"}


@pytest.mark.parametrize("packed", [True, False])
def test_cifar100_has_fine_labels_and_every_pixel(packed: bool, tmp_path: Path) -> None:
    if packed:
        write(tmp_path, {"cifar-100-binary.tar.gz": tar(cifar100_files(), "w:gz")})
    else:
        write(tmp_path, cifar100_files())
    source = cifar100(tmp_path)
    records = list(source.records)
    assert source.class_names == FINE and source.keep_order == packed
    assert [record.key for record in records[:2]] == ["train_00000", "train_00001"]
    assert [record.labels[0] for record in records] == [*FINE_LABELS, 2, 0, 1]
    assert Counter(record.split for record in records) == {"train": 10, "test": 3}
    for record, planes in zip(reversed(pickle.loads(pickle.dumps(records))), [*TRAIN, *TEST][::-1], strict=True):
        assert record.ext == "png"
        assert np.array_equal(np.asarray(decode(record.read())), planes.transpose(1, 2, 0))


def test_cifar10_counts_through_its_five_files_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, {"cifar-10-binary.tar.gz": tar(cifar10_files(), "w:gz")})
    source = cifar10(tmp_path)
    records = list(source.records)
    assert source.class_names == ("airplane", "automobile")
    assert [record.labels[0] for record in records] == [1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 0]
    for record, planes in zip(records, [*TRAIN, *TEST], strict=True):
        assert np.array_equal(np.asarray(decode(record.read())), planes.transpose(1, 2, 0))
    assert [record.split for record in cifar10(tmp_path, splits=("test",)).records] == ["test"] * 3


def test_the_dev_split_is_that_of_tfds() -> None:
    records = [Record(key=f"train_{n:05d}", split="train", labels=(0,), read=bytes, ext="png") for n in range(50_000)]
    held_out = [r for r in hold_out(records, 2, lambda r: int(r.key[6:])) if r.split == "val"]
    by_md5 = sorted(range(50_000), key=lambda n: int(hashlib.md5(f"train{n}".encode()).hexdigest(), 16))
    assert by_md5[:3] == [16399, 1680, 47917], "as TFDS publishes them"
    assert [record.key for record in held_out] == [f"train_{n:05d}" for n in sorted(by_md5[49_000:])]


def test_dev_holds_out_of_train_only(tmp_path: Path) -> None:
    write(tmp_path, cifar100_files() | {"cifar-100-binary/train.bin": binary(images(3, 100), [0] * 100, [1] * 100)})
    assert Counter(r.split for r in cifar100(tmp_path, dev=True).records) == {"train": 98, "val": 2, "test": 3}


def test_pickles_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, {"cifar-100-python.tar.gz": b""})
    with pytest.raises(ValueError, match=r"pickles can run code .* get the binary version, cifar-100-binary.tar.gz"):
        cifar100(tmp_path)
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz is missing .*sha256:c4a3"):
        cifar10(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name, data, complaint in [
        ("train.bin", binary(TRAIN, COARSE_LABELS, FINE_LABELS)[:-1], r"train.bin in .* no whole number of images"),
        ("train.bin", b"", r"train.bin in .* no whole number of images"),
        ("train.bin", binary(TRAIN, FINE_LABELS, [3] * 10), r"labels train_00000 3, but has 3 classes"),
    ]:
        write(tmp_path, cifar100_files() | {f"cifar-100-binary/{name}": data})
        with pytest.raises(ValueError, match=complaint):
            cifar100(tmp_path)
    (tmp_path / "cifar-100-binary" / "test.bin").unlink()
    with pytest.raises(ValueError, match=r"holds no test.bin"):
        cifar100(tmp_path)
