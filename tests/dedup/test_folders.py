"""`vitflow dedup` on folders: what it finds and leaves, what it refuses, and that interrupted work goes on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from flows.stages.dedup_folders import BadRequest, Request, deduplicate_folders
from tests.dedup.sides import bring, save, tiles
from vit.dedup import itself, prints, scan, within
from vit.dedup.sources import NoImages
from vit.dedup.state import InUse, OtherSettings, State
from vit.dedup.vetoes import BadVetoes

RESULTS = {
    *("pairs.parquet", "vetoed.parquet", "unreadable.parquet", "report.html", "report.json"),
    *("kept.parquet", "kept.txt", "clean.parquet"),
}


def run(home: Path, out: str = "out", **changes: Any) -> dict[str, Any]:
    request = {"train": (str(home / "train"),), "test": (str(home / "pets"), str(home / "cifar10")), "piece": 8}
    return deduplicate_folders(Request(**(request | {"out": home / out} | changes)), lambda *_: None)


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def pairs(out: Path) -> dict[str, tuple[str, str]]:
    rows = pq.read_table(out / "pairs.parquet").to_pylist()
    return {row["train"]: (row["benchmark"], row["test"]) for row in rows}


def lines(out: Path) -> list[dict[str, Any]]:
    path = out / "state" / "manifest.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[str, str]]]:
    home = tmp_path_factory.mktemp("sides")
    known = bring(home)
    run(home)
    return home, known


@pytest.fixture
def home(origin: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of both sides with their times, and no result."""
    shutil.copytree(origin[0], tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("out"))
    return tmp_path


class Counting:
    """Counts the images that are decoded, and stops with the whole process's usual suddenness after some pieces."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stop_after: int = 10**9) -> None:
        self.images = {True: 0, False: 0}  # test, train
        take, work = prints.take, scan.work

        def counted(encoded: Any, *, complete: bool, **options: Any) -> Any:
            self.images[complete] += len(encoded)
            return take(encoded, complete=complete, **options)

        def stopping(indexed: Any, job: Any) -> Any:
            nonlocal stop_after
            stop_after -= 1
            if stop_after < 0:
                raise KeyboardInterrupt
            return work(indexed, job)

        monkeypatch.setattr(prints, "take", counted)
        monkeypatch.setattr(scan, "work", stopping)


def test_copies_are_found_and_nothing_else(origin: tuple[Path, dict[str, tuple[str, str]]]) -> None:
    home, known = origin
    out = home / "out"
    assert {path.name for path in out.iterdir() if path.is_file()} == RESULTS
    assert pairs(out) == known
    table = pq.read_table(out / "pairs.parquet")
    assert {"test", "train", "tier", "distance", "score", "window", "flip", "benchmark"} <= set(table.column_names)
    tiers = {row["train"]: row["tier"] for row in table.to_pylist()}
    assert tiers.pop("copies/exact.jpg") == "exact-bytes" and set(tiers.values()) == {"near"}
    kept, text = pq.read_table(out / "kept.parquet")["train"].to_pylist(), (out / "kept.txt").read_text().splitlines()
    assert kept == text and len(kept) == 55 and not set(kept) & set(known)
    clean = pq.read_table(out / "clean.parquet").to_pylist()
    assert len(clean) == 24 - 6 and not {(row["benchmark"], row["test"]) for row in clean} & set(known.values())
    report = json.loads((out / "report.json").read_text())
    assert (report["images_in"], report["removed"], report["kept"], report["num_test"]) == (61, 6, 55, 24)
    published = {"name": "Pets", "jft": 600, "imagenet21k": 80, "ilsvrc_train": 58}
    assert report["by_benchmark"]["pets"]["published"] == published
    assert report["by_benchmark"]["cifar10"]["with_duplicate"] == 3


def test_images_stay_where_they_are_and_are_not_touched(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (home / "train").rglob("*")}
    run(home)
    assert before == {path: path.stat().st_mtime_ns for path in (home / "train").rglob("*")}


@pytest.mark.parametrize("workers", [1, 2])
def test_same_bytes_for_any_number_of_workers_and_size_of_pieces(origin: Any, home: Path, workers: int) -> None:
    run(home, workers=workers, piece=1 + 30 * (workers - 1))
    assert results(home / "out") == results(origin[0] / "out")


def test_actions(home: Path) -> None:
    run(home, action="filter-train")
    assert {path.name for path in (home / "out").iterdir() if path.is_file()} == RESULTS - {"clean.parquet"}
    report = run(home, action="filter-test")
    names = {path.name for path in (home / "out").iterdir() if path.is_file()}
    assert names == RESULTS - {"kept.parquet", "kept.txt"} and report["clean"] == {"pets": 9, "cifar10": 9}


@pytest.mark.parametrize("stop", [0, 1, 4, 9, 13])
def test_stopped_anywhere_it_goes_on_and_leaves_the_same_bytes(
    origin: Any, home: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    with monkeypatch.context() as patch:
        Counting(patch, stop_after=stop)
        with pytest.raises(KeyboardInterrupt):
            run(home, workers=1)
    done = lines(home / "out")
    with (home / "out" / "state" / "manifest.jsonl").open("a") as file:
        file.write('{"kind":"scan","piece":"torn')  # killed while it wrote
    with (home / "out" / "state" / "codes.bin").open("ab") as file:
        file.write(b"torn")
    count = Counting(monkeypatch)
    run(home, workers=1)
    assert results(home / "out") == results(origin[0] / "out")
    finished = {kind: sum(line["images"] for line in done if line["kind"] == kind) for kind in ("test", "scan")}
    assert count.images == {True: 24 - finished["test"], False: 61 - finished["scan"]}


def test_a_second_run_decodes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(home)
    count = Counting(monkeypatch)
    run(home)
    assert count.images == {True: 0, False: 0}


def test_a_new_benchmark_decodes_its_images_and_the_candidates(
    origin: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(home, test=(str(home / "pets"),))
    count = Counting(monkeypatch)
    report = run(home)
    assert count.images[True] == 12 and 3 <= count.images[False] <= 12
    assert pairs(home / "out") == origin[1], "all of these show at most the whole test image"
    assert report["by_benchmark"]["cifar10"]["compared_by_stored_codes"] == 61
    assert report["by_benchmark"]["pets"]["compared_by_stored_codes"] == 0
    run(home, rescan=True)
    assert results(home / "out") == results(origin[0] / "out")


def test_new_images_redo_their_piece_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(home)
    sizes = [line["images"] for line in lines(home / "out") if line["kind"] == "scan"]
    save(tiles("chelsea", 12)[11], home / "train" / "grass" / "new.jpg")
    count = Counting(monkeypatch)
    report = run(home)
    assert report["images_in"] == 62 and report["removed"] == 6
    assert count.images[True] == 0 and 1 <= count.images[False] <= max(sizes) + 1 < 61


def test_state_is_small(home: Path) -> None:
    run(home)
    assert (home / "out" / "state" / "codes.bin").stat().st_size == 36 * 61


def test_other_settings_are_not_mixed(home: Path) -> None:
    run(home)
    sentence = r'do not mix: tier.name was "fast", now it is "thorough"; give another --out, or delete'
    with pytest.raises(OtherSettings, match=sentence):
        run(home, tier="thorough")


def test_two_runs_do_not_share_a_directory(home: Path) -> None:
    with State(home / "out" / "state", {}), pytest.raises(InUse, match="another process is at work"):
        run(home)


def test_damaged_codes_are_noticed(home: Path) -> None:
    run(home, test=(str(home / "pets"),))
    codes = home / "out" / "state" / "codes.bin"
    codes.write_bytes(bytes(36 * 61))
    with pytest.raises(OtherSettings, match=r"codes.bin is damaged"):
        run(home)


def test_a_veto_stays(home: Path) -> None:
    veto = home / "veto.csv"
    rows = ["coins/coins 1.jpg,copies/dark.JPEG,different,me,<b>other</b> coins"]
    rows += ["brick/brick 1.jpg,copies/exact.jpg,same,me,checked"]
    veto.write_text("\n".join(["test,train,verdict,who,why", *rows]))
    for _ in range(2):
        report = run(home, veto=veto)
        assert (report["removed"], report["vetoed"], report["by_benchmark"]["cifar10"]["with_duplicate"]) == (5, 1, 2)
        assert "copies/dark.JPEG" not in pairs(home / "out")
        assert "copies/dark.JPEG" in pq.read_table(home / "out" / "kept.parquet")["train"].to_pylist()
    (row,) = pq.read_table(home / "out" / "vetoed.parquet").to_pylist()
    assert (row["train"], row["who"], row["why"]) == ("copies/dark.JPEG", "me", "<b>other</b> coins")
    page = (home / "out" / "report.html").read_text()
    assert "&lt;b&gt;other&lt;/b&gt; coins" in page and "<b>other</b>" not in page
    veto.write_text("a,b\n1,2\n")
    with pytest.raises(BadVetoes, match="has columns a, b; it needs test and train"):
        run(home, veto=veto)


def test_duplicates_inside_a_benchmark_are_reported(home: Path) -> None:
    shutil.copy(home / "pets" / "chelsea" / "chelsea 1.jpg", home / "pets" / "again.jpg")
    save(tiles("brick", 1)[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT), home / "pets" / "mirrored.png")
    report = run(home)
    assert report["by_benchmark"]["pets"]["within"] == 2 and report["by_benchmark"]["cifar10"]["within"] == 0
    page = (home / "out" / "report.html").read_text()
    assert "again.jpg = chelsea/chelsea 1.jpg" in page and "brick/brick 0.jpg = mirrored.png" in page


def test_templates_and_flat_images_are_explained(home: Path) -> None:
    for number in range(within.CROWD + 2):
        image = tiles("gravel", 1)[0]
        image.putpixel((number, 5), (255, 0, 0))
        save(image, home / "scans" / f"{number:02d}.png")
    save(Image.new("RGB", (50, 50), "red"), home / "scans" / "flat-0.png")
    save(Image.new("RGB", (50, 50), "red"), home / "scans" / "flat-1.png")
    report = run(home, test=(str(home / "scans"),))
    assert report["by_benchmark"]["scans"]["within"] == 1, "the two flat ones are equal; the rest is not matched"
    page = (home / "out" / "report.html").read_text()
    assert "templated: more than" in page and "flat: too little structure" in page


@pytest.mark.parametrize("block", [10, 1000])
def test_duplicates_inside_the_training_set(home: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Once each in a group by what is verified; the largest stays. In one block, or in several."""
    monkeypatch.setattr(itself, "BLOCK", block)
    tile = tiles("chelsea", 12)[11]
    save(tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT), home / "train" / "b" / "mirrored.jpg")
    save(tile.resize((192, 192)), home / "train" / "c" / "larger.jpg")
    save(tile.resize((48, 48)), home / "train" / "a" / "smaller.png")
    shutil.copy(home / "train" / "brick" / "brick 5.jpg", home / "train" / "again.jpg")
    report = run(home, itself=True)
    assert (report["groups"], report["repeated"]) == (2, 3)
    rows = pq.read_table(home / "out" / "repeated.parquet").to_pylist()
    found = {row["train"]: row["keeper"] for row in rows}
    assert found == {
        "a/smaller.png": "c/larger.jpg",
        "b/mirrored.jpg": "c/larger.jpg",
        "brick/brick 5.jpg": "again.jpg",
    }
    kept = pq.read_table(home / "out" / "kept.parquet")["train"].to_pylist()
    assert not set(kept) & found.keys() and set(kept) >= {"c/larger.jpg", "again.jpg"} and len(kept) == 55 + 4 - 3
    before = results(home / "out")
    Counting(monkeypatch, stop_after=0)  # nothing is left to do
    run(home, itself=True)
    assert results(home / "out") == before and "c/larger.jpg = " in before["report.html"].decode()


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"train": ("gone",)}, NoImages, "gone is no directory; give one with images"),
        ({"train": ("empty",)}, NoImages, "empty holds no images"),
        ({"test": ("empty",)}, NoImages, "empty holds no images"),
        ({"train": ("train", "train/")}, BadRequest, "was given twice"),
        ({"out": "train/result"}, BadRequest, "lies inside .*train, whose images are read"),
        ({"tier": "slow"}, BadRequest, "there is no tier 'slow'"),
        ({"action": "delete"}, BadRequest, "action is 'delete'; it must be one of"),
        ({"workers": 0}, BadRequest, "at least one is needed"),
        ({"veto": Path("gone.csv")}, BadVetoes, "gone.csv does not exist"),
    ],
)
def test_what_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    monkeypatch.chdir(home)
    (home / "empty").mkdir()
    given = {name: Path(value) if name == "out" else value for name, value in changes.items()}
    with pytest.raises(error, match=sentence):
        run(home, **given)


def test_the_command_line(home: Path) -> None:
    arguments = ["dedup", "--train", f"{home}/train", "--test", f"{home}/pets", "--out", f"{home}/out"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "61, of which 3 show a test image" in done.output and "report.html" in done.output
    again = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(again.stdout)["removed"] == 3
    refused = CliRunner().invoke(app, [*arguments[:-1], f"{home}/train/out"])
    assert refused.exit_code == 2 and refused.output.startswith("error: --out") and refused.output.count("\n") == 1
