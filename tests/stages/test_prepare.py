"""The stage prepare: a whole output, the same bytes every time, and sentences for unusable folders."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.stages import output, tasks
from flows.stages.corpora import USUAL
from flows.stages.prepare import SOURCES, Downstream, PrepareConfig, prepare
from flows.stages.progress import listening
from vit.data.shards import Shards, png_example, write
from vit.data.synthetic import mini_vtab

MINI = PrepareConfig(
    seed=0,
    source="mini",
    location=None,
    columns=USUAL,
    classes=None,
    num_val=0,
    merge=False,
    num_images=320,
    val_fraction=0.2,
    planted_fraction=0.25,
    downstream=None,
    max_reject_share=0.0,
    tasks=None,
    benchmarks=(),
)


@pytest.fixture(autouse=True)
def _short_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks with few test images: the whole suite is built in test_synthetic."""
    rows = [task for task in mini_vtab.TASKS if task.name in ("mini_digits", "mini_stain")]
    monkeypatch.setattr(mini_vtab, "TASKS", tuple(dataclasses.replace(task, num_test=100) for task in rows))


def folder_config(folder: Path, **changes: object) -> PrepareConfig:
    return dataclasses.replace(MINI, source="folder", location=str(folder), **changes)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes with five images each, of several formats and depths; mini-VTAB is not drawn beside them."""
    monkeypatch.setattr(tasks, "write_mini", lambda directory: directory.mkdir())
    folder = tmp_path / "pictures"
    for label, name in enumerate(("zebra", "Äpfel & co")):
        (folder / name / "sub.folder").mkdir(parents=True)
        for number in range(5):
            ext = ("png", "JPEG", "webp", "bmp", "jpg")[number]
            place = folder / name / "sub.folder" if number == 2 else folder / name
            Image.new("RGB", (10 + number, 8), (60 * label, 40 * number, 90)).save(place / f"a.{number}.{ext}")
    (folder / "zebra" / ".DS_Store").write_bytes(b"junk")
    return folder


def test_mini_leaves_what_the_contract_says(tmp_path: Path) -> None:
    out = prepare(MINI, out=tmp_path / "out")
    output.verify(out)
    train, val = (Shards(out / "corpus", splits=(split,)) for split in ("train", "val"))
    assert len(train) + len(val) == 320 and len(val) == 64
    assert set(train.labels.tolist()) == set(range(64))
    assert json.loads((out / "tasks" / "tasks.json").read_text()) == {
        "family": "mini",
        "tasks": [
            {"name": "mini_digits", "group": "natural", "num_classes": 10, "family": "mini"},
            {"name": "mini_stain", "group": "specialized", "num_classes": 2, "family": "mini"},
        ],
    }
    sizes = [len(Shards(out / "tasks" / "mini_digits", splits=(split,))) for split in mini_vtab.SPLITS]
    assert sizes == [800, 200, 100]


def test_mini_lists_its_planted_images(tmp_path: Path) -> None:
    out = prepare(MINI, out=tmp_path / "out")
    pairs = pq.read_table(out / "planted.parquet").to_pylist()
    train = Shards(out / "corpus", splits=("train",))
    assert len(pairs) == 80
    for pair in pairs:
        assert pair["key"] in train.keys
        tests = Shards(out / "tasks" / pair["task"], splits=("test",))
        original = tests.read(tests.keys.index(pair["test_key"]))
        assert (train.read(train.keys.index(pair["key"])) == original) == (pair["edit"] == "copy")


def test_the_same_config_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (prepare(MINI, out=tmp_path / name) for name in ("first", "second"))
    other = prepare(dataclasses.replace(MINI, seed=1), out=tmp_path / "other")
    assert output.digest(first) == output.digest(second)
    files, changed = output.read(first)["files"], output.read(other)["files"]
    same = {name for name in files if files[name] == changed[name]}
    assert same - {"source.json"} == {
        name for name in files if name.startswith("tasks/")
    }  # the tasks depend on no seed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"source": "webdatset"}, "source .webdatset. is unknown; did you mean webdataset"),
        ({"source": "folder"}, "source is folder, but location is null"),
        ({"source": "dataset:cifar12", "location": "x"}, r"'dataset:cifar12' is unknown; did you mean cifar1\d+\?"),
        ({"source": "digits", "location": "x"}, "location is x, but source digits has its images itself"),
        ({"tasks": "vtab-1k"}, "source mini hides copies"),
        ({"num_images": 127}, "num_images is 127.*at least 128"),
        ({"val_fraction": 0.0}, "val_fraction is 0.0; it must be more than 0"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"planted_fraction": 0.6}, "planted_fraction is 0.6"),
        ({"max_reject_share": -0.1}, "max_reject_share is -0.1; it must be at least 0"),
        ({"max_reject_share": 1.0}, "max_reject_share is 1.0; it must be .* less than 1"),
    ],
)
def test_bad_values_are_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(MINI, **change)


def test_a_folder_keeps_its_bytes(pictures: Path, tmp_path: Path) -> None:
    out = prepare(folder_config(pictures), out=tmp_path / "out")
    corpus = Shards(out / "corpus")
    assert corpus.class_names == ["zebra", "Äpfel & co"]
    assert corpus.labels.tolist() == [0] * 5 + [1] * 5
    originals = {path.read_bytes() for path in pictures.rglob("a.*")}
    assert {corpus.read(row) for row in range(10)} == originals
    assert sorted(set(corpus.table["ext"].to_pylist())) == ["bmp", "jpeg", "jpg", "png", "webp"]
    assert corpus.table["width"].to_pylist() == [image.width for image in map(corpus.image, range(10))]
    assert np.bincount(Shards(out / "corpus", splits=("val",)).labels).tolist() == [1, 1]
    assert pq.read_table(out / "corpus" / "rejects.parquet").to_pylist() == []
    assert not (out / "planted.parquet").exists()


def test_a_key_stays_when_files_are_added(pictures: Path, tmp_path: Path) -> None:
    before = Shards(prepare(folder_config(pictures), out=tmp_path / "before") / "corpus")
    Image.new("RGB", (4, 4)).save(pictures / "zebra" / "A.0.png")  # differs from a.0.png by case only
    after = Shards(prepare(folder_config(pictures), out=tmp_path / "after") / "corpus")
    assert set(before.keys) < set(after.keys)


def test_digits_never_train_on_a_test_image_of_mini_digits(tmp_path: Path) -> None:
    config = dataclasses.replace(MINI, source="digits", downstream=Downstream(source="digits", location=None))
    out = prepare(config, out=tmp_path / "out")
    splits = {
        (place, split): {Shards(out / place, splits=(split,)).read(row) for row in range(size)}
        for place, split, size in (("corpus", "train", 800), ("corpus", "val", 200), ("downstream", "train", 1000))
    }
    assert splits["downstream", "train"] == splits["corpus", "train"] | splits["corpus", "val"]
    tests = Shards(out / "downstream", splits=("val",))
    same = Shards(out / "tasks" / "mini_digits", splits=("test",))
    assert [tests.read(row) for row in range(100)] == [same.read(row) for row in range(100)]
    assert not splits["downstream", "train"] & {tests.read(row) for row in range(len(tests))}
    assert tests.class_names == [str(digit) for digit in range(10)] and tests.image(0).size == (32, 32)
    assert json.loads((out / "source.json").read_text()) == {}


def test_unreadable_images_are_listed(pictures: Path, tmp_path: Path) -> None:
    whole = (pictures / "zebra" / "a.1.JPEG").read_bytes()
    (pictures / "zebra" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pictures / "zebra" / "notes.txt").write_text("no image")
    out = prepare(folder_config(pictures, max_reject_share=0.2), out=tmp_path / "out")
    assert len(Shards(out / "corpus")) == 10
    rows = pq.read_table(out / "corpus" / "rejects.parquet").to_pylist()
    assert [row["key"] for row in rows] == ["zebra/cut.jpg", "zebra/notes.txt"]
    assert rows[1]["reason"] == "cannot be decoded (no known image format)"


def test_too_many_unreadable_images_stop_the_stage(pictures: Path, tmp_path: Path) -> None:
    (pictures / "zebra" / "empty.jpg").touch()
    with pytest.raises(
        ValueError, match=r"1 or more of 11 images .* max_reject_share is 0\. The first: zebra/empty\.jpg is empty"
    ):
        prepare(folder_config(pictures), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_class_without_images_is_named(pictures: Path, tmp_path: Path) -> None:
    (pictures / "okapi").mkdir()
    with pytest.raises(ValueError, match=r"1 of 3 classes .* first okapi"):
        prepare(folder_config(pictures), out=tmp_path / "out")


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no directory"):
        prepare(folder_config(tmp_path / "nowhere"), out=tmp_path / "out")
    (tmp_path / "one" / "only").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has 1 sub-folders \(only only\); at least two classes"):
        prepare(folder_config(tmp_path / "one"), out=tmp_path / "out")


def test_single_images_leave_nothing_to_validate_with(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "few" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "few" / name / "x.png")
    with pytest.raises(ValueError, match=r"every class .* has a single image"):
        prepare(folder_config(tmp_path / "few"), out=tmp_path / "out")


def test_progress_is_told(pictures: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with listening(lambda event: told.append((event.step, event.total))):
        prepare(folder_config(pictures), out=tmp_path / "out")
    assert told == [(1, 1), (1, 1)]  # pieces of work, checked and then written


def test_a_corpus_by_reference_is_the_same_corpus(pictures: Path, tmp_path: Path) -> None:
    first = prepare(folder_config(pictures), out=tmp_path / "first")
    config = dataclasses.replace(MINI, source="reference", location=str(first / "corpus"))
    second = prepare(config, out=tmp_path / "second")
    assert not list((second / "corpus").glob("*.tar"))
    assert Shards(second / "corpus").digest == Shards(first / "corpus").digest
    again = prepare(dataclasses.replace(config, location=str(second / "corpus")), out=tmp_path / "again")
    assert Shards(again / "corpus").store.uri == str(first / "corpus")
    example = png_example("only", "test", 0, np.zeros((4, 4, 3), np.uint8))
    write(tmp_path / "tests", [example], name="tests", class_names=["one"])
    with pytest.raises(ValueError, match=r"has splits test, but training needs images in train and in val"):
        prepare(dataclasses.replace(config, location=str(tmp_path / "tests")), out=tmp_path / "out")


@pytest.mark.parametrize(("place", "sentence"), [("gone", "is no directory"), ("", "has neither archives of VTAB's")])
def test_tasks_that_are_not_there_are_missed(pictures: Path, tmp_path: Path, place: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=sentence):
        prepare(folder_config(pictures, tasks=str(tmp_path / "empty" / place)), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", [*SOURCES[1:], "dataset:cifar10"])
def test_a_place_that_is_not_there_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        prepare(dataclasses.replace(MINI, source=source, location=str(tmp_path / "nowhere")), out=tmp_path / "out")


def test_downstream_images_lie_beside_the_corpus(pictures: Path, tmp_path: Path) -> None:
    downstream = Downstream(source="folder", location=str(pictures / "zebra" / ".."))
    out = prepare(folder_config(pictures, downstream=downstream), out=tmp_path / "out")
    assert Shards(out / "downstream", splits=("train",)).class_names == ["zebra", "Äpfel & co"]
    assert len(Shards(out / "downstream", splits=("val",))) == 2
    assert not (prepare(folder_config(pictures), out=tmp_path / "plain") / "downstream").exists()
    with pytest.raises(ValueError, match="source 'reference' is unknown"):
        Downstream(source="reference", location="x")
