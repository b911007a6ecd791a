import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.vit.data.datasets.build import imagenet
from tests.vit.data.datasets.test_cifar import cifar100_files
from tests.vit.data.datasets.test_oxford import pets_archives
from vit.data import datasets
from vit.data.datasets import DATASETS, expected_images, fetch, load, published
from vit.data.shards import Shards
from vit.data.writing import write_source

PUBLISHERS = {"www.cs.toronto.edu", "www.robots.ox.ac.uk", "raw.githubusercontent.com", "huggingface.co"}


@pytest.mark.parametrize("name", DATASETS)
def test_archives_come_from_their_publishers_with_checksums(name: str) -> None:
    for archive in published(name):
        kind, _, digest = archive.digest.partition(":")
        assert len(digest) == {"md5": 32, "sha256": 64, "": 0}[kind]
        if archive.url:
            assert urlsplit(archive.url).scheme == "https" and urlsplit(archive.url).hostname in PUBLISHERS
            assert digest and archive.size and archive.url.endswith("/" + archive.name)
        else:
            assert "https://image-net.org/download" in archive.publisher


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_missing_is_named_with_its_publisher(name: str, tmp_path: Path) -> None:
    for act in (lambda: fetch(name, tmp_path, download=False), lambda: load(name, tmp_path)):
        with pytest.raises(ValueError, match=r"is missing \(") as error:
            act()
        assert any(a.name in str(error.value) and a.publisher in str(error.value) for a in published(name))
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_gets_the_list(tmp_path: Path) -> None:
    for name in ("mnist", "imagenet-v2+dev"):
        with pytest.raises(ValueError, match=r"is no data set; there are imagenet2012, .*, cifar10\+dev, .*vtab/TASK"):
            fetch(name, tmp_path, download=False)


def test_vtab_is_part_of_the_registry(tmp_path: Path) -> None:
    tasks = [name for name in datasets.names() if name.startswith("vtab/")]
    assert len(tasks) == 19 and set(tasks) & set(DATASETS) == set()
    (archive,) = (a for a in published("vtab/svhn") if a.name == "test_32x32.mat")
    with pytest.raises(ValueError, match=f"{archive.name} is missing"):
        fetch("vtab/svhn", tmp_path, download=False)
    assert "cifar10+dev" in datasets.names()


def test_a_data_set_must_be_complete(tmp_path: Path) -> None:
    pets_archives(tmp_path)
    with pytest.raises(ValueError, match="has 3 classes, but oxford-iiit-pets as published has 37"):
        load("oxford-iiit-pets", tmp_path)
    assert len(list(load("oxford-iiit-pets", tmp_path, complete=False).records)) == 7


def test_a_dev_split_by_name(tmp_path: Path) -> None:
    pets_archives(tmp_path)
    by_name = load("oxford-iiit-pets+dev", tmp_path, complete=False)
    by_option = load("oxford-iiit-pets", tmp_path, complete=False, dev=True)
    assert [(r.key, r.split) for r in by_name.records] == [(r.key, r.split) for r in by_option.records]
    assert published("oxford-iiit-pets+dev") == published("oxford-iiit-pets")


def test_missing_images_are_found_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenet(tmp_path)
    small = datasets.Dataset(
        module="imagenet", importer="imagenet2012", num_images={"train": 15, "val": 7}, num_classes=5
    )
    monkeypatch.setitem(DATASETS, "imagenet2012", small)
    assert len(list(load("imagenet2012", tmp_path, splits=("train",)).records)) == 15
    with pytest.raises(ValueError, match="gives 6 images for val, but imagenet2012 as published has 7"):
        list(load("imagenet2012", tmp_path).records)


def test_expected_sizes_with_the_dev_split_of_the_paper() -> None:
    sizes = {name: expected_images(name, {"dev": True}) for name in datasets.PERCENT}
    assert sizes == {
        "imagenet2012": {"train": 1_268_355, "val": 12_812, "test": 50_000},
        "cifar10": {"train": 49_000, "val": 1_000, "test": 10_000},
        "cifar100": {"train": 49_000, "val": 1_000, "test": 10_000},
        "oxford-iiit-pets": {"train": 3_312, "val": 368, "test": 3_669},
        "oxford-flowers102": {"train": 918, "val": 102, "test": 6_149},
    }
    assert expected_images("imagenet21k-fall11", {"num_val": 51_200}) == {"train": 14_145_922, "val": 51_200}


def test_a_data_set_becomes_shards(tmp_path: Path) -> None:
    folder = tmp_path / "cifar"
    for name, data in cifar100_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    source = load("cifar100", folder, complete=False)
    report = write_source(tmp_path / "shards", source, name="cifar100", max_reject_share=0.0, val_fraction=0.1)
    assert report.splits == {"train": 10, "test": 3}
    shards = Shards(tmp_path / "shards", splits=("test",))
    assert shards.labels.tolist() == [2, 0, 1] and shards.image(0).size == (32, 32)


def test_asking_for_one_data_set_imports_no_other() -> None:
    code = (
        "import sys; from vit.data.datasets import published; published('cifar10');"
        "print(*sorted(name[18:] for name in sys.modules if name.startswith('vit.data.datasets.')));"
        "print('scipy' in sys.modules or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["archives", "cifar", "dev_split", "download", "inflate", "False"]
