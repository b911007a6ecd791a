"""VTAB as others prepared it: NOAH's folders and the webdataset shards of the Hugging Face hub."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vit.data.datasets.build import picture, tar, write
from tests.vit.data.datasets.vtab_archives import labels, tiny, zipped
from vit.data.datasets import hf_vtab as hf
from vit.data.datasets import noah as folders
from vit.data.datasets.hf_vtab import hf_vtab
from vit.data.datasets.noah import noah
from vit.data.datasets.vtab.tasks import TASKS
from vit.data.shards import Shards
from vit.data.split import rank_key
from vit.data.writing import write_source

Shrink = Callable[..., None]
SIZES = {"train800": 800, "val200": 200, "test": 3}


@pytest.fixture
def shrink(monkeypatch: pytest.MonkeyPatch) -> Shrink:
    """Makes a task smaller for everyone."""

    def replace(name: str, *counts: int) -> None:
        train, val, test = counts
        monkeypatch.setitem(TASKS, name, tiny(name, (train, val, test)))

    return replace


def noah_files(task: str, num_classes: int, ext: str = "jpg", sizes: dict[str, int] = SIZES) -> dict[str, bytes]:
    """A task as NOAH's script writes it; train800val200 has copies of its own."""
    files: dict[str, bytes] = {}
    data = picture(1, "PNG" if ext == "png" else "JPEG")
    for split, size in [*sizes.items(), ("train800val200", sizes["train800"] + sizes["val200"])]:
        names = [f"images/{split}/{number:06d}.{ext}" for number in range(size)]
        files |= {f"{task}/{name}": data for name in names}
        files[f"{task}/{split}.txt"] = "".join(f"{name} {n % num_classes}\n" for n, name in enumerate(names)).encode()
    return files


@pytest.mark.parametrize(("ext", "family"), [("jpg", "noah-jpeg"), ("png", "lossless")])
def test_noahs_folders_are_read_by_any_of_their_names(tmp_path: Path, shrink: Shrink, ext: str, family: str) -> None:
    shrink("cifar", 45_000, 5_000, 3)
    files = noah_files("cifar100", 100, ext)
    write(tmp_path / "vtab-1k", files | {"cifar100/images/Thumbs.db": b""})
    assert folders.tasks(tmp_path / "vtab-1k") == ["cifar"]
    source = noah(tmp_path / "vtab-1k", "cifar")
    assert (source.name, source.family, len(source.class_names)) == ("vtab/cifar", family, 100)
    for split, size in SIZES.items():
        found = labels(source, split)
        assert len(found) == size and found[f"images/{split}/000002.{ext}"] == 2
    record = list(source.records)[801]
    assert (record.key, record.ext) == (f"images/val200/000001.{ext}", ext)
    assert record.read() == files[f"cifar100/{record.key}"] == pickle.loads(pickle.dumps(record)).read()
    both = noah(tmp_path / "vtab-1k", "cifar100", splits=["train800val200"])
    assert len(labels(both, "train800val200")) == 1000


def test_noahs_folders_are_read_from_a_zip_with_one_list_for_train_and_val(tmp_path: Path, shrink: Shrink) -> None:
    shrink("svhn", 65_931, 7_326, 3)
    files = noah_files("vtab-1k/svhn", 10)
    kept = {name: data for name, data in files.items() if "/train800val200" in name or "/test" in name}
    write(tmp_path, {"vtab-1k.zip": zipped(kept)})
    source = noah(tmp_path / "vtab-1k.zip", "svhn")
    train, val = labels(source, "train800"), labels(source, "val200")
    assert (len(train), len(val), len(labels(source, "test"))) == (800, 200, 3)
    assert min(val) == "images/train800val200/000800.jpg" and max(train) == "images/train800val200/000799.jpg"
    assert next(iter(source.records)).read() == picture(1)


def test_noahs_folders_that_are_incomplete_or_of_another_task_are_refused(tmp_path: Path, shrink: Shrink) -> None:
    files = noah_files("svhn", 10)
    write(tmp_path, files)
    with pytest.raises(ValueError, match=r"test in .*svhn has 3 images, svhn has 26032: it is incomplete"):
        noah(tmp_path, "svhn")
    shrink("svhn", 65_931, 7_326, 3)
    for name, text, message in [
        ("val200.txt", files["svhn/val200.txt"] + b"images/val200/000000.jpg 1\n", "val200 in .* has 201 images"),
        ("val200.txt", files["svhn/test.txt"], "val200 in .* has 3 images, svhn has 200"),
        ("test.txt", b"images/test/000000.jpg 10\n" * 3, "the label 10, but svhn has 10 classes"),
        ("test.txt", b"images/test/000000.jpg 1\n" * 3, "name an image twice"),
        ("test.txt", b"images/test/000009.jpg 1\n" * 3, "holds no images/test/000009.jpg"),
        ("test.txt", b"images/test/../../../passwd 1\n", "which is not `images/"),
        ("test.txt", b"/etc/passwd 1\n", "which is not `images/"),
        ("test.txt", b"images/test/000000.jpg cat\n", "which is not `images/"),
    ]:
        write(tmp_path, {f"svhn/{name}": text})
        with pytest.raises(ValueError, match=message):
            noah(tmp_path, "svhn")
        write(tmp_path, {f"svhn/{name}": files[f"svhn/{name}"]})
    with pytest.raises(ValueError, match=r"has no oxford_iiit_pet or oxford_pet or pets or pet with a test.txt"):
        noah(tmp_path, "pets")
    with pytest.raises(ValueError, match="no split 'train'; they have train800, val200, train800val200, test"):
        noah(tmp_path, "svhn", splits=["train"])


def shards(task: str, sizes: dict[str, int], label: Callable[[int], int], per_shard: int = 1) -> dict[str, bytes]:
    """As CLIP_benchmark writes them: a counter over all shards of a split, tars that are not padded with zeros."""
    files: dict[str, bytes] = {}
    for split, size in sizes.items():
        for start in range(0, size, per_shard):
            pairs: dict[str, bytes] = {}
            for number in range(start, min(start + per_shard, size)):
                pairs |= {f"s{number:07d}.cls": str(label(number)).encode()}
                pairs |= {f"s{number:07d}.webp": picture(number, "WEBP")}
            files[f"{task}/{split}/{start // per_shard}.tar"] = tar(pairs)
        files[f"{task}/{split}/nshards.txt"] = f"{-(-size // per_shard)}\n".encode()
    return files


def test_shards_of_the_hub_are_read_in_the_order_of_their_numbers(tmp_path: Path, shrink: Shrink) -> None:
    shrink("eurosat", 12, 4, 3)
    write(tmp_path, shards("wds_vtab-eurosat", {"train": 12, "test": 3}, lambda n: n % 10))
    source = hf_vtab(tmp_path, "eurosat")
    assert (source.name, source.family) == ("vtab/eurosat", "hf")
    records = list(source.records)
    assert [record.key for record in records][9:13] == [
        "train/s0000009",
        "train/s0000010",
        "train/s0000011",
        "test/s0000000",
    ]
    for record in records:
        number = int(record.key[-7:])
        assert record.labels == (number % 10,) and record.read() == picture(number, "WEBP")
        assert record.place is not None
        shard, offset = record.place
        data = (tmp_path / "wds_vtab-eurosat" / shard).read_bytes()[offset:]
        assert data.startswith(record.read())
    report = write_source(tmp_path / "out", source, name="eurosat", max_reject_share=0, val_fraction=0)
    assert report.splits == {"test": 3, "train": 12} and len(Shards(tmp_path / "out")) == 15
    only = hf_vtab(tmp_path / "wds_vtab-eurosat", "eurosat", splits=["test"])
    assert {record.split for record in only.records} == {"test"}


def test_a_thousand_of_the_hubs_train_part_is_chosen_by_md5(tmp_path: Path, shrink: Shrink) -> None:
    shrink("dtd", 1100, 5, 3)
    write(tmp_path, shards("wds_vtab-dtd", {"train": 1100, "test": 3}, lambda n: n % 47, per_shard=400))
    source = hf_vtab(tmp_path, "dtd", splits=["train800", "val200", "test"])
    keys = {split: [r.key for r in source.records if r.split == split] for split in ("train800", "val200", "test")}
    assert {split: len(found) for split, found in keys.items()} == {"train800": 800, "val200": 200, "test": 3}
    expected = sorted((f"train/s{n:07d}" for n in range(1100)), key=lambda key: rank_key("train", key))
    assert keys["train800"] + keys["val200"] == expected[:1000]
    assert all(record.labels == (int(record.key[-7:]) % 47,) for record in source.records)


@pytest.mark.parametrize(("task", "values", "width"), [("dsprites_loc", 32, 2), ("dsprites_ori", 40, 2.5)])
def test_sprites_of_the_hub_have_all_their_values_until_they_are_binned(
    tmp_path: Path, shrink: Shrink, task: str, values: int, width: float
) -> None:
    shrink(task, values, 4, 3)
    name = f"wds_vtab-{hf.NAMES[task]}"
    files = shards(name, {"train": values, "test": 3}, lambda n: n, per_shard=7)
    classes = "".join(f"{number}\n" for number in range(values)).encode()
    write(tmp_path, files | {f"{name}/classnames.txt": classes})
    found = labels(hf_vtab(tmp_path, task), "train")
    assert [found[f"train/s{n:07d}"] for n in range(values)] == [int(n / width) for n in range(values)]
    write(tmp_path, {f"{name}/classnames.txt": b"bin\n" * 16})
    with pytest.raises(ValueError, match=rf"is 16, but {task} has 16 classes"):
        hf_vtab(tmp_path, task)


def test_the_hub_has_no_published_thousand_and_no_sun397(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the hub has no VTAB version of sun397"):
        hf_vtab(tmp_path, "sun397")
    with pytest.raises(ValueError, match="no split 'val', only train"):
        hf_vtab(tmp_path, "dtd", splits=["val"])
    with pytest.raises(
        ValueError, match=r"get it from https://huggingface.co/datasets/clip-benchmark/wds_vtab-flowers"
    ):
        hf_vtab(tmp_path, "flowers")
    assert set(TASKS) - set(hf.NAMES) == {"sun397"}


def test_shards_of_the_hub_that_are_missing_or_damaged_are_named(tmp_path: Path, shrink: Shrink) -> None:
    shrink("dtd", 6, 2, 2)
    good = shards("wds_vtab-dtd", {"train": 6, "test": 2}, lambda n: n, per_shard=2)
    first = "wds_vtab-dtd/train/0.tar"
    for changed, message in [
        ({"wds_vtab-dtd/train/nshards.txt": b"4"}, r"train/3.tar is missing, but .*nshards.txt says that there are 4"),
        ({"wds_vtab-dtd/train/nshards.txt": b"two"}, "nshards.txt is missing or no number"),
        ({"wds_vtab-dtd/train/nshards.txt": b"2"}, "train in .* has 4 images, dtd has 6"),
        ({first: good[first][:700]}, "0.tar is truncated"),
        ({first: tar({"s0000000.cls": b"1"})}, "0.tar has s0000000 without its image"),
        ({first: tar({"s0000000.webp": b"1"})}, "0.tar has s0000000 without its label"),
        ({first: tar({"s0000000.cls": b"cat", "s0000000.png": b"1"})}, "is 'cat', no label"),
        ({first: tar({"s0000000.cls": b"47", "s0000000.png": b"1"})}, "is 47, but dtd has 47 classes"),
    ]:
        write(tmp_path, good | changed)
        with pytest.raises(ValueError, match=message):
            hf_vtab(tmp_path, "dtd")
