"""3,000 damaged files go to the readers: none crashes or hangs, every loss is named, the rest is as written."""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.vit.data.pictures import encoded, pack, pixels, png
from vit.data import shards
from vit.data.checking import check_as_found, serial
from vit.data.decode import decode
from vit.data.hygiene import examine
from vit.data.pictures import UnreadableImage
from vit.data.record import Source
from vit.data.shards import BadShard, Shards
from vit.data.sources.huggingface import huggingface
from vit.data.sources.labels import Columns
from vit.data.sources.webdataset import webdataset

ROUNDS = 500  # for each kind of file
PATIENCE = 2.0  # seconds for one file


def mutations(good: bytes, seed: int) -> Iterator[bytes]:
    """Flipped bits, overwritten bytes, cut ends, lost and repeated pieces, foreign pieces; the same every time."""
    random = np.random.Generator(np.random.PCG64(seed))
    for number in range(ROUNDS):
        data = bytearray(good)
        start, stop = sorted(random.integers(len(data), size=2).tolist())
        match number % 6:
            case 0:
                for place in random.integers(len(data), size=random.integers(1, 9)).tolist():
                    data[place] ^= 1 << int(random.integers(8))
            case 1:
                for place in random.integers(len(data), size=random.integers(1, 9)).tolist():
                    data[place] = int(random.choice([0, 0xFF, 0x7F, 0x80, random.integers(256)]))
            case 2:
                del data[start:]
            case 3:
                del data[start:stop]
            case 4:
                data[start:start] = data[start:stop]
            case _:
                data[start:stop] = random.bytes(stop - start)
        yield bytes(data)


def quickly(function: Callable[[], object]) -> object:
    begin = time.monotonic()
    try:
        return function()
    finally:
        assert time.monotonic() - begin < PATIENCE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG"])
def test_damaged_images(kind: str) -> None:
    picture = Image.fromarray(pixels(0, 40, 56))
    good = encoded(picture, "JPEG", progressive=True) if kind == "progressive" else encoded(picture, kind)
    rejected = 0
    for number, data in enumerate(mutations(good, seed=1)):
        try:
            facts = examine(data, "jpg")
        except UnreadableImage as error:
            assert str(error).startswith(("cannot be decoded (", "is empty (", "is too large (")), number
            rejected += 1
            continue
        assert facts.width > 0 and facts.height > 0
        try:
            view = quickly(lambda data=data: decode(data))
            assert isinstance(view, np.ndarray) and view.shape == (facts.height, facts.width, 3)
        except UnreadableImage:
            pytest.fail(f"mutation {number} passed the check, but training cannot decode it")
    assert ROUNDS // 5 < rejected <= ROUNDS  # every chunk of a PNG has its own checksum


def looked_at(source: Callable[[], Source], name: str, number: int) -> str:
    """What came of a damaged source: an error that names the file, rejects that name the image, or nothing wrong."""

    def look() -> str:
        try:
            checked = check_as_found(source(), map=serial)
        except ValueError as error:
            assert name in str(error) or "image" in str(error), (number, error)
            return "stopped"
        rejects = checked.rejects.to_pylist()
        assert all(reject["key"] and reject["reason"] for reject in rejects), (number, rejects)
        return "rejected" if rejects else "read"

    return str(quickly(look))


@pytest.mark.filterwarnings("ignore")
def test_damaged_tars(tmp_path: Path) -> None:
    members = {
        f"image{n}.{ext}": data for n in range(4) for ext, data in (("png", png(n)), ("cls", b"1"), ("json", b"{}"))
    }
    pack(tmp_path / "x.tar", members)
    seen = set()
    for number, data in enumerate(mutations((tmp_path / "x.tar").read_bytes()[: 26 * 512], seed=2)):
        (tmp_path / "x.tar").write_bytes(data)
        seen.add(looked_at(lambda: webdataset(tmp_path), "x.tar", number))
    assert seen == {"stopped", "rejected", "read"}


@pytest.mark.filterwarnings("ignore")
def test_damaged_parquet(tmp_path: Path) -> None:
    images = [{"bytes": png(number), "path": f"{number}.png"} for number in range(8)]
    pq.write_table(
        pa.table({"image": images, "label": [0, 1] * 4}), tmp_path / "x.parquet", row_group_size=4, compression="none"
    )
    columns, seen = Columns(image=None, label=None, split=None, separator=None), set()
    for number, data in enumerate(mutations((tmp_path / "x.parquet").read_bytes(), seed=3)):
        (tmp_path / "x.parquet").write_bytes(data)
        seen.add(looked_at(lambda: huggingface(tmp_path, columns=columns), "x.parquet", number))
    assert seen == {"stopped", "rejected", "read"}


def test_damaged_shards_of_ours(tmp_path: Path) -> None:
    """Tar, index and manifest in turn: the images come back as written, or BadShard names file and image."""
    examples = [shards.png_example(f"image{n}", "train", n % 2, pixels(n)) for n in range(6)]
    shards.write(tmp_path, examples, name="x", class_names=["a", "b"])
    names = ("x-00000.tar", "index.parquet", "manifest.json")
    good = {name: (tmp_path / name).read_bytes() for name in names}
    damaged = 0
    for number, files in enumerate(zip(*(mutations(good[name], seed) for seed, name in enumerate(names)), strict=True)):
        name = names[number % 3]
        (tmp_path / name).write_bytes(files[number % 3])
        try:
            read = Shards(tmp_path)
            for row in range(len(read)):
                assert read.read(row, verify=True) == examples[row].image
        except BadShard as error:
            assert any(each in str(error) for each in names), (number, error)
            damaged += 1
        (tmp_path / name).write_bytes(good[name])
    assert damaged > ROUNDS // 2


def test_text_of_any_kind_is_no_image() -> None:
    for data in (
        b"\0",
        b"GIF89a",
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBP",
        b"II*\0",
        b"BM",
        b"P6",
        b"%!PS-Adobe-3.0 EPSF",
    ):
        with pytest.raises(UnreadableImage):
            examine(data, "")
        with pytest.raises(UnreadableImage):
            decode(io.BytesIO(data).read())
