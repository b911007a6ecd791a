"""Facts about a corpus: counts that add up, a sentence for everything odd, a contact sheet."""

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from tests.vit.data.pictures import encoded, pixels
from vit.data.inspection import SHEET_CLASSES, Corpus, describe, sheet, sheet_of
from vit.data.record import Record, Source
from vit.data.shards import Shards
from vit.data.store import LocalStore
from vit.data.writing import write_source


def picture(number: int, side: int) -> bytes:
    return encoded(Image.fromarray(pixels(number, side, side + 10)))


def corpus(directory: Path, images: list[tuple[int, int, str, int]], *, num_classes: int = 4) -> Corpus:
    """Images as (content, label, split, side)."""
    records = [
        Record(key=f"i{n}", split=split, labels=(label,), read=functools.partial(picture, content, side), ext="png")
        for n, (content, label, split, side) in enumerate(images)
    ]
    names = tuple(f"class {n}" for n in range(num_classes))
    source = Source(name="toy", family="user", class_names=names, records=records)
    write_source(directory, source, name="toy", max_reject_share=0, val_fraction=0.5)
    shards = Shards(directory)
    return Corpus(
        table=shards.table,
        class_names=shards.class_names,
        rejects=["is empty (0 bytes)", "cannot be decoded (x)", "cannot be decoded (y)"],
        read=shards.read,
    )


def test_all_that_is_odd_is_said(tmp_path: Path) -> None:
    images = [(n, 0, "train", 40) for n in range(12)] + [(99, 1, "train", 300), (0, 0, "val", 40), (1, 2, "train", 20)]
    images += [(1, 2, "train", 40)]
    facts = describe(corpus(tmp_path, images))
    assert facts["images"] == 16 and facts["bytes"] > 1000
    assert facts["splits"] == {"train": 15, "val": 1}
    assert facts["classes"] == {"class 0": 13, "class 1": 1, "class 2": 2, "class 3": 0}
    assert facts["width"] == {"min": 30, "median": 50, "max": 310} and facts["height"]["max"] == 300
    assert facts["shorter_side"] == {"below 32": 1, "32 to 63": 14, "256 to 383": 1}
    assert facts["duplicates"] == {"images": 2, "in_other_split": 1, "with_other_labels": 1}
    assert facts["odd"] == [
        "1 of 4 classes have no image: class 3",
        "classes are uneven: class 0 has 13 images, class 1 has 1 (median 2)",
        "1 classes have a single image, which cannot be in train and val: class 1",
        "1 images are smaller than 32 pixels on a side",
        "2 images have the same bytes as another one, 1 of them in another split, 1 under other labels",
        "2 rejected: cannot be decoded",
        "1 rejected: is empty",
    ]


def test_nothing_odd_says_nothing(tmp_path: Path) -> None:
    images = [(n, n % 2, "train", 40) for n in range(10)]
    found = corpus(tmp_path, images, num_classes=2)
    facts = describe(Corpus(table=found.table, class_names=found.class_names, rejects=[], read=found.read))
    assert facts["odd"] == [] and facts["formats"] == {"png": 10}


def test_the_sheet_has_a_row_for_each_of_a_dozen_classes(tmp_path: Path) -> None:
    few = corpus(tmp_path / "few", [(n, n % 2, "train", 40) for n in range(10)], num_classes=2)
    many = corpus(tmp_path / "many", [(n, n, "train", 8) for n in range(40)], num_classes=40)
    small, large = sheet(few), sheet(many)
    assert encoded(sheet_of(tmp_path / "few", lambda place: LocalStore(Path(place)))) == encoded(small)
    assert large.height > SHEET_CLASSES / 3 * small.height / 2 and small.width == large.width
    assert encoded(small) == encoded(sheet(few)) and len(set(np.asarray(small).ravel().tolist())) > 50


def test_an_image_that_cannot_be_read_is_grey(tmp_path: Path) -> None:
    good = corpus(tmp_path, [(n, 0, "train", 40) for n in range(3)], num_classes=1)
    broken = Corpus(table=good.table, class_names=good.class_names, rejects=[], read=lambda row: b"no image")
    assert (np.asarray(sheet(broken).convert("RGB")) == 128).all(axis=2).sum() > 3 * 70 * 70
