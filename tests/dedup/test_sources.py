"""Odd files on either side: every one is compared or listed, none stops a run; and where images may lie."""

import io
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.stages.dedup_folders import Request, deduplicate_folders
from tests.dedup.sides import save, tiles
from vit.data import shards
from vit.data.shards import Example
from vit.data.store import LocalStore
from vit.dedup.sources import Piece, Root

HOSTILE = '"><img src=x onerror=alert(1)> & \n ü.jpg'


def png(width: int, height: int) -> bytes:
    """A PNG that says it is this large, and holds one row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def odd_files(directory: Path) -> tuple[set[str], set[str]]:
    """Names of readable and of unreadable files written there; the readable ones show tile 0 of chelsea but for one."""
    directory.mkdir(parents=True)
    tile = tiles("chelsea", 1)[0]
    gray = np.asarray(tile.convert("L")).astype(np.uint16) * 257
    tile.convert("CMYK").save(directory / "cmyk.jpg", quality=95)
    Image.fromarray(gray).save(directory / "sixteen.png")
    tile.quantize(64).save(directory / "palette.gif")
    tile.convert("RGBA").save(directory / "alpha.png")
    tile.convert("LA").save(directory / "grayalpha.png")
    tile.save(directory / "animated.webp", save_all=True, append_images=[tile.rotate(90)], quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    tile.save(directory / "orientation.JPG", exif=exif, quality=90)
    Image.new("RGB", (1, 1), "red").save(directory / "one.png")
    whole = io.BytesIO()
    tile.save(whole, "JPEG", quality=95)
    (directory / "truncated.jpg").write_bytes(whole.getvalue()[:900])
    (directory / "empty.jpeg").write_bytes(b"")
    (directory / "text.png").write_text("no image")
    (directory / "bomb.png").write_bytes(png(60_000, 60_000))
    (directory / "folder.jpg").mkdir()
    (directory / "notes.txt").write_text("not looked at")
    (directory / ".hidden.jpg").write_bytes(whole.getvalue())
    good = {"cmyk.jpg", "sixteen.png", "palette.gif", "alpha.png", "grayalpha.png", "animated.webp", "orientation.JPG"}
    return good, {"truncated.jpg", "empty.jpeg", "text.png", "bomb.png"}


def run(home: Path, *tests: str) -> dict[str, Any]:
    names = tuple(str(home / name) for name in tests or ("test",))
    return deduplicate_folders(Request(train=(str(home / "train"),), test=names, out=home / "out"), lambda *_: None)


def unreadable(home: Path, side: str) -> dict[str, str]:
    rows = pq.read_table(home / "out" / "unreadable.parquet").to_pylist()
    return {row["key"]: row["reason"] for row in rows if row["side"] == side}


def test_odd_images_on_both_sides_are_compared_or_listed(tmp_path: Path) -> None:
    good, bad = odd_files(tmp_path / "train" / "odd")
    odd_files(tmp_path / "odd")
    save(tiles("chelsea", 1)[0], tmp_path / "test" / "chelsea.png")
    report = run(tmp_path, "test", "odd")
    found = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert {row["train"] for row in found if row["benchmark"] == "test"} == {f"odd/{name}" for name in good}
    assert unreadable(tmp_path, "train").keys() == {f"odd/{name}" for name in bad}
    assert unreadable(tmp_path, "test").keys() == bad
    assert "decompression bomb" in unreadable(tmp_path, "train")["odd/bomb.png"]
    assert "is empty" in unreadable(tmp_path, "test")["empty.jpeg"]
    assert report["images_in"] == len(good | bad) + 1 and report["unreadable"] == {"train": 4, "test": 4}
    exact = [row for row in found if row["train"] == "odd/one.png"]
    assert [(row["test"], row["tier"]) for row in exact] == [("one.png", "exact-bytes")]
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(name in page for name in bad)


def test_names_may_be_anything(tmp_path: Path) -> None:
    raw = b"caf\xe9.jpg".decode(errors="surrogateescape")
    for name in (HOSTILE, raw, " spaces  .jpg", "a/b/../b/deep.jpg"):
        save(tiles("brick", 2)[1], tmp_path / "train" / name)
    save(tiles("brick", 2)[1], tmp_path / "test <i>" / HOSTILE)
    run(tmp_path, "test <i>")
    found = {row["train"] for row in pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()}
    assert found == {HOSTILE, "caf\\xe9.jpg", " spaces  .jpg", "a/b/deep.jpg"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<img src=x" not in page and "test <i>" not in page and "&quot;&gt;&lt;img src=x" in page


def test_links_out_of_the_directory_are_listed_not_followed(tmp_path: Path) -> None:
    train = tmp_path / "train"
    save(tiles("brick", 1)[0], train / "real.jpg")
    save(tiles("brick", 2)[1], tmp_path / "elsewhere" / "other.jpg")
    (train / "inside.jpg").symlink_to(train / "real.jpg")
    (train / "outside.jpg").symlink_to(tmp_path / "elsewhere" / "other.jpg")
    (train / "folder").symlink_to(tmp_path / "elsewhere")
    (train / "loop").symlink_to(train)
    (train / "nowhere.jpg").symlink_to(train / "gone.jpg")
    save(tiles("brick", 2)[1], tmp_path / "test" / "t.jpg")
    report = run(tmp_path)
    assert report["images_in"] == 2 and report["pairs"] == 0
    assert unreadable(tmp_path, "train").keys() == {"outside.jpg", "folder", "nowhere.jpg"}


def test_foreign_tars_and_our_shards(tmp_path: Path) -> None:
    save(tiles("brick", 2)[1], tmp_path / "test" / "t.jpg")
    data = (tmp_path / "test" / "t.jpg").read_bytes()
    (tmp_path / "train").mkdir()
    with tarfile.open(tmp_path / "train" / "part-0.tar", "w") as tar:
        for name, content in (("a.jpg", data), ("a.cls", b"0"), ("deep/b.PNG", b"oh no")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    whole = (tmp_path / "train" / "part-0.tar").read_bytes()
    (tmp_path / "train" / "part-1.tar").write_bytes(whole[: len(data) + 700])
    report = run(tmp_path)
    found = [row["train"] for row in pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()]
    assert found == ["part-0.tar/a.jpg", "part-1.tar/a.jpg"]
    assert report["images_in"] == 3
    assert "no whole tar" in unreadable(tmp_path, "train")["part-1.tar"]
    assert "part-0.tar/deep/b.PNG" in unreadable(tmp_path, "train")

    image = Example(key="k", split="train", labels=(0,), image=data, ext="jpg", width=96, height=96)
    shards.write(tmp_path / "ours", [image], name="x", class_names=["one"])
    request = Request(train=(str(tmp_path / "ours"),), test=(str(tmp_path / "test"),), out=tmp_path / "out2")
    assert deduplicate_folders(request, lambda *_: None)["removed"] == 1
    assert pq.read_table(tmp_path / "out2" / "pairs.parquet")["train"].to_pylist() == ["k"]


def test_only_the_test_split_of_our_shards_is_a_benchmark(tmp_path: Path) -> None:
    save(tiles("brick", 2)[1], tmp_path / "train" / "t.jpg")
    data = (tmp_path / "train" / "t.jpg").read_bytes()
    examples = [
        Example(key=k, split=k, labels=(0,), image=data, ext="jpg", width=96, height=96) for k in ("test", "val200")
    ]
    shards.write(tmp_path / "task", examples, name="x", class_names=["one"])
    assert run(tmp_path, "task")["num_test"] == 1


def test_a_file_more_changes_one_piece(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number:03d}.jpg").write_bytes(b"x")

    def pieces() -> list[Piece]:
        return list(Root(name="r", store=LocalStore(tmp_path), piece=5).pieces())

    before = pieces()
    assert sum(len(piece.listed) for piece in before) == 60 and len(before) > 5
    (tmp_path / "030a.jpg").write_bytes(b"x")
    after = {piece.fingerprint for piece in pieces()}
    assert len({piece.fingerprint for piece in before} - after) == 1
    (tmp_path / "001.jpg").write_bytes(b"changed")
    assert len(after - {piece.fingerprint for piece in pieces()}) == 1


@pytest.mark.parametrize("name", ["a.jpg", "b.WEBP", "c.tif", "d.jp2", "e.avif"])
def test_any_extension_of_an_image_counts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "readme.md").write_bytes(b"x")
    (piece,) = Root(name="r", store=LocalStore(tmp_path)).pieces()
    assert [member.key for member in piece.listed] == [name]
