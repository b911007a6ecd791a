"""Class-named folders: flat or below train, val and test, hidden files passed over, mistakes named."""

import os
from pathlib import Path

import pytest

from tests.vit.data.pictures import png
from vit.data.sources.folder import folder
from vit.data.store import LocalStore


def make(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(number))
    return root


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    make(tmp_path, "b/1.png", "a/sub.dir/x.JPG", "a/0", "b/.hidden.png", ".git/a/1.png", "loose.png")
    source = folder(LocalStore(tmp_path))
    assert source.class_names == ("a", "b")
    assert [(r.key, r.split, r.labels, r.ext) for r in source.records] == [
        ("a/0", "", (0,), ""),
        ("a/sub.dir/x.JPG", "", (0,), "jpg"),
        ("b/1.png", "", (1,), "png"),
    ]
    assert next(iter(source.records)).read() == png(2)


def test_folders_of_splits_are_recognised(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.png", "train/b/1.png", "validation/a/2.png", "test/b/3.png", "train/loose.png")
    (tmp_path / "test" / "c").mkdir()
    source = folder(tmp_path)
    assert source.class_names == ("a", "b", "c")
    assert [(r.key, r.split, r.labels) for r in source.records] == [
        ("test/b/3.png", "test", (1,)),
        ("train/a/1.png", "train", (0,)),
        ("train/b/1.png", "train", (1,)),
        ("validation/a/2.png", "val", (0,)),
    ]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make(tmp_path, "train/1.png", "plane/1.png")
    assert folder(tmp_path).class_names == ("plane", "train")


def test_linked_classes_and_names_that_are_no_unicode(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "1.png")
    make(tmp_path / "root", "a/1.png")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
    odd = os.fsencode(tmp_path / "root" / "a") + b"/\xff.png"
    with open(odd, "wb") as file:  # noqa: PTH123 (a name of bytes)
        file.write(png(5))
    source = folder(tmp_path / "root")
    assert source.class_names == ("a", "b")
    records = list(source.records)
    assert [r.labels for r in records] == [(0,), (0,), (1,)] and records[1].read() == png(5)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [((), "is no directory"), (("x.png",), "has 0 sub-folders"), (("only/x.png",), r"has 1 sub-folders \(only only\)")],
)
def test_what_is_no_such_folder_is_named(tmp_path: Path, names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        folder(make(tmp_path / "root", *names))
