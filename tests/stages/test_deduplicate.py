"""The stage from directory to directory: what it leaves behind, and what stops it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

from flows.stages import deduplicate as stage
from flows.stages import output
from flows.stages.deduplicate import DeduplicateConfig, deduplicate
from flows.stages.progress import listening
from vit.data import shards
from vit.data.shards import Example, encode_png, png_example
from vit.dedup import engine, prints, scan, sources

CONFIG = DeduplicateConfig(tier="fast")
CLASSES = ["brick", "grass", "gravel"]
TASKS = {"photo": "chelsea", "cup": "coffee"}


@dataclasses.dataclass(frozen=True)
class Nothing:
    """The config of a stage that has none."""


def tiles(name: str, number: int, size: int = 40) -> list[np.ndarray]:
    picture = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    corners = [(y, x) for y in range(40, 250, size) for x in range(120, 330, size)]
    return [picture[y : y + size, x : x + size] for y, x in corners[:number]]


def corpus_examples() -> list[Example]:
    """Twelve tiles of each class; numbers 3 and 20 are replaced by a mirrored and a plain copy of test images."""
    examples = [
        png_example(f"image-{label}-{i:02d}", "val" if i == 0 else "train", label, pixels)
        for label, name in enumerate(CLASSES)
        for i, pixels in enumerate(tiles(name, 12))
    ]
    mirrored, copied = encode_png(tiles("chelsea", 9)[5][:, ::-1]), encode_png(tiles("coffee", 9)[2])
    examples[3] = dataclasses.replace(examples[3], image=mirrored)
    examples[20] = dataclasses.replace(examples[20], image=copied)
    return examples


def prepared(out: Path, corpus: list[Example], *, broken_test: bool = False) -> Path:
    """What prepare leaves: a corpus, two tasks and the truth about two planted copies."""
    with output.writing(out, "prepare", Nothing(), {}) as work:
        shards.write(work / "corpus", corpus, name="corpus", class_names=CLASSES)
        for task, picture in TASKS.items():
            tests = [png_example(f"test-{i}", "test", 0, pixels) for i, pixels in enumerate(tiles(picture, 9))]
            tests.append(png_example("train-0", "train800", 0, tiles("brick", 1)[0]))  # no test image: may stay
            if broken_test:
                tests[1] = dataclasses.replace(tests[1], image=b"no image")
            shards.write(work / "tasks" / task, tests, name=task, class_names=["one"])
        tasks = [{"name": task, "group": "natural", "num_classes": 1} for task in TASKS]
        output.write_json(work / "tasks" / "tasks.json", {"family": "mini", "tasks": tasks})
        planted = [
            {"key": "image-0-03", "task": "photo", "test_key": "test-5", "edit": "flip"},
            {"key": "image-1-08", "task": "cup", "test_key": "test-2", "edit": "copy"},
        ]
        pq.write_table(pa.Table.from_pylist(planted), work / "planted.parquet")
    return out


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("runs") / "prepare", corpus_examples())


@pytest.fixture(scope="module")
def done(images: Path) -> Path:
    return deduplicate(CONFIG, images=images, out=images.parent / "deduplicate")


def test_what_stays_is_the_corpus_index_less_the_duplicates(images: Path, done: Path) -> None:
    before, after = pq.read_table(images / "corpus" / "index.parquet"), pq.read_table(done / "index.parquet")
    expected = [key for key in before["key"].to_pylist() if key not in ("image-0-03", "image-1-08")]
    assert after["key"].to_pylist() == expected and after.schema.equals(before.schema)
    assert len(shards.Shards(images / "corpus", done / "index.parquet")) == 34


def test_pairs_and_report_say_what_was_found(done: Path) -> None:
    pairs = pq.read_table(done / "pairs.parquet").to_pylist()
    assert [(p["train"], p["benchmark"], p["test"], p["tier"]) for p in pairs] == [
        ("image-0-03", "photo", "test-5", "near"),
        ("image-1-08", "cup", "test-2", "exact-bytes"),
    ]
    assert (pairs[0]["flip"], pairs[0]["window"], pairs[0]["distance"]) == ("mirror", "full", 0)
    report = json.loads((done / "report.json").read_text())
    settings = report.pop("settings")
    assert {"codes", "tier", "versions", "format"} == settings.keys()
    assert {"name", "version", "decoder", "resampler"} <= settings["codes"].keys()
    counts = {"test_images": 9, "with_duplicate": 1, "pairs": 1, "within": None, "compared_by_stored_codes": 0}
    assert report == {
        "images_in": 36,
        "removed": 2,
        "kept": 34,
        "num_test": 18,
        "by_benchmark": {"photo": counts | {"published": None}, "cup": counts | {"published": None}},
        "pairs": 2,
        "vetoed": 0,
        "tier": "fast",
        "unreadable": {"train": 0, "test": 0},
        "planted": {
            "total": 2,
            "found": 2,
            "missed": [],
            "recall": 1.0,
            "precision": 1.0,
            "by_edit": {"copy": [1, 1], "flip": [1, 1]},
        },
    }
    with Image.open(done / "pairs.png") as sheet:
        sheet.load()
        assert sheet.format == "PNG" and sheet.width > 2 * 72 and sheet.height > 72
    page = (done / "report.html").read_text()
    assert page.count("<figure") == 2 and "image-0-03" in page and "http" not in page


def test_a_killed_stage_goes_on_from_its_finished_pieces(
    images: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped when the corpus is searched: the second run decodes nothing, and leaves the same bytes and no scratch."""
    monkeypatch.setattr(stage, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        deduplicate(CONFIG, images=images, out=tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(prints, "take", None)
    assert files(deduplicate(CONFIG, images=images, out=tmp_path / "out")) == files(done)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("workers", [1, 3])
def test_same_bytes_for_any_size_of_pieces_and_number_of_threads(
    images: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(sources, "LONGEST", 7)
    monkeypatch.setattr(scan, "CHUNK", 3)
    monkeypatch.setattr(engine, "here", lambda: engine.threads(workers))
    assert files(deduplicate(CONFIG, images=images, out=tmp_path / "again")) == files(done)


def test_a_second_run_over_what_stays_removes_nothing(images: Path, done: Path, tmp_path: Path) -> None:
    kept = set(pq.read_table(done / "index.parquet")["key"].to_pylist())
    again = prepared(tmp_path / "prepare", [example for example in corpus_examples() if example.key in kept])
    report = json.loads((deduplicate(CONFIG, images=again, out=tmp_path / "out") / "report.json").read_text())
    assert (report["removed"], report["kept"], report["pairs"]) == (0, 34, 0)
    assert report["planted"]["precision"] is None and report["planted"]["found"] == 0


def test_progress_is_told(images: Path, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    with listening(lambda progress: reports.append((progress.step, progress.total))):
        deduplicate(CONFIG, images=images, out=tmp_path / "out")
    assert reports[-1] == (36, 36)


def test_an_unreadable_corpus_image_is_listed_and_does_not_stay(tmp_path: Path) -> None:
    corpus = corpus_examples()
    corpus[5] = dataclasses.replace(corpus[5], image=b"no image")
    out = deduplicate(CONFIG, images=prepared(tmp_path / "prepare", corpus), out=tmp_path / "out")
    report = json.loads((out / "report.json").read_text())
    bad = pq.read_table(out / "unreadable.parquet").to_pylist()
    assert [(row["side"], row["key"]) for row in bad] == [("train", "image-0-05")]
    assert "cannot be decoded" in bad[0]["reason"] and report["unreadable"] == {"train": 1, "test": 0}
    assert (report["removed"], report["kept"]) == (2, 33)
    assert "image-0-05" not in pq.read_table(out / "index.parquet")["key"].to_pylist()


def test_an_unreadable_test_image_stops_the_stage(tmp_path: Path) -> None:
    images = prepared(tmp_path / "prepare", corpus_examples(), broken_test=True)
    with pytest.raises(ValueError, match=r"test image test-1 of task photo cannot be decoded.*prepare again"):
        deduplicate(CONFIG, images=images, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_class_that_loses_all_its_training_images_is_named(tmp_path: Path) -> None:
    corpus = [
        example for example in corpus_examples() if example.label != 1 or example.key in ("image-1-00", "image-1-08")
    ]
    with pytest.raises(ValueError, match=r"1 of 3 classes have no training image left after de-duplication: grass;"):
        deduplicate(CONFIG, images=prepared(tmp_path / "prepare", corpus), out=tmp_path / "out")


def test_an_empty_result_is_an_error(tmp_path: Path) -> None:
    corpus = [corpus_examples()[3], corpus_examples()[20]]
    with pytest.raises(ValueError, match="none of 2 corpus images is left"):
        deduplicate(CONFIG, images=prepared(tmp_path / "prepare", corpus), out=tmp_path / "out")


def test_a_bad_config_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no tier 'slow'; choose one of fast, thorough"):
        DeduplicateConfig(tier="slow")


def test_downstream_validation_images_are_guarded_too(tmp_path: Path) -> None:
    images = prepared(tmp_path / "prepare", corpus_examples())
    pixels = tiles("grass", 12)
    examples = [png_example(f"own-{i}", "val" if i == 3 else "train", 0, pixels[i]) for i in range(9)]
    shards.write(images / "downstream", examples, name="downstream", class_names=["one"])
    out = deduplicate(CONFIG, images=images, out=tmp_path / "deduplicate")
    pairs = [p for p in pq.read_table(out / "pairs.parquet").to_pylist() if p["benchmark"] == "downstream"]
    assert [(p["train"], p["test"]) for p in pairs] == [("image-1-03", "own-3")]  # train may repeat the corpus
