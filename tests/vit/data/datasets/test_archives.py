import gzip
import io
import pickle
import re
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from tests.vit.data.datasets.build import picture, tar, write
from vit.data.datasets import archives, inflate
from vit.data.datasets.archives import BadArchive, Member, index, members

LONG = "a/" + "b" * 150 + ".jpg"  # does not fit into a tar header of 1988
FILES = {"z.jpg": picture(1), "a/2.jpg": picture(2), "a/10.jpg": b"", LONG: picture(3) * 40, "ä.txt": b"umlaut"}


def packed(kind: str, directory: Path) -> Path:
    """FILES in an archive whose name says nothing."""
    path = directory / "archive.tar.gz"
    if kind == "folder":
        return write(directory / "folder", FILES)
    if kind.startswith("zip"):
        method = zipfile.ZIP_DEFLATED if kind == "zip deflated" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as file:
            for name, data in FILES.items():
                file.writestr(name, data)
    else:
        path.write_bytes(tar(FILES, "w:gz" if kind == "tar.gz" else "w"))
    return path


KINDS = ["tar", "tar.gz", "zip stored", "zip deflated", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_members_can_be_read_in_any_order_by_any_thread_and_after_pickling(kind: str, tmp_path: Path) -> None:
    place = packed(kind, tmp_path)
    found = list(members(place))
    assert {member.name: member.size for member in found} == {name: len(data) for name, data in FILES.items()}
    if kind != "folder":
        assert [member.name for member in found] == list(FILES)
    assert [member.name for member in members(place)] == [member.name for member in found]
    again: list[Member] = pickle.loads(pickle.dumps(found))[::-1]
    with ThreadPoolExecutor(4) as threads:
        for member, data in zip(again, threads.map(Member.read, again), strict=True):
            assert data == FILES[member.name]
    assert index(place)["z.jpg"].read() == FILES["z.jpg"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_inside_a_tar_is_read_where_it_lies(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "outer"
    path.write_bytes(tar({"n1.tar": tar({"x": b"1", "y": b"22"}), "n2.tar": tar({"z": b"333"})}, mode))
    inner = [(outer.name, member.name, member.read()) for outer in members(path) for member in members(outer)]
    assert inner == [("n1.tar", "x", b"1"), ("n1.tar", "y", b"22"), ("n2.tar", "z", b"333")]
    assert [path] == list(tmp_path.iterdir())


def test_a_member_of_a_tar_costs_one_read(tmp_path: Path) -> None:
    path = tmp_path / "outer"
    path.write_bytes(tar({"n1.tar": tar({"x": b"1"}), "n2.tar": tar({"y": b"22"})}))
    last = [member for outer in members(path) for member in members(outer)][-1]
    data = path.read_bytes()
    assert data[last.offset : last.offset + last.size] == b"22"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_cut_anywhere_is_called_truncated(mode: str, tmp_path: Path) -> None:
    whole = tar({"a": b"a" * 700, "b": b"b" * 512, "c": b""}, mode)
    path = tmp_path / "cut.tar"
    needed = len(whole) if mode == "w:gz" else len(whole.rstrip(b"\0")) // 512 * 512 + 1024  # one block of zeros
    for length in range(0, needed, 1 if mode == "w:gz" else 128):
        path.write_bytes(whole[:length])
        with pytest.raises(BadArchive, match=re.escape(str(path))):
            [member.read() for member in members(path)]


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    whole = bytearray(tar({"a": b"1", "b": b"2", "c": b"3"}))
    whole[1024 + 150] ^= 1  # the checksum of b's header
    (tmp_path / "x.tar").write_bytes(whole)
    with pytest.raises(BadArchive, match="damaged at byte 1024"):
        list(members(tmp_path / "x.tar"))


def test_a_nested_tar_may_lack_its_closing_zeros(tmp_path: Path) -> None:
    inner = tar({"x": b"1" * 512})[:1024]
    (tmp_path / "outer.tar").write_bytes(tar({"inner.tar": inner, "cut.tar": inner[:-1]}))
    whole, cut = members(tmp_path / "outer.tar")
    assert [member.name for member in members(whole)] == ["x"]
    with pytest.raises(BadArchive, match=r"cut.tar in .*outer.tar"):
        list(members(cut))


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "info",
    [
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard", tarfile.LNKTYPE, "a"),
        special("device", tarfile.CHRTYPE),
        special("pipe", tarfile.FIFOTYPE),
        special("/etc/passwd", tarfile.REGTYPE),
        special("a/../../b", tarfile.REGTYPE),
    ],
    ids=lambda info: info.name,
)
def test_what_is_no_file_inside_the_archive_is_refused_by_name(info: tarfile.TarInfo, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar({"a": b"1"}, members=[info]))
    with pytest.raises(BadArchive, match=re.escape(repr(info.name))):
        list(members(path))


def test_a_negative_size_does_not_go_round_in_circles(tmp_path: Path) -> None:
    whole = bytearray(tar({"a": b"1"}))
    whole[124:136] = b"\xff" * 8 + struct.pack(">i", -1024)
    whole[148:156] = b"%06o\0 " % (sum(whole[:148]) + 8 * 32 + sum(whole[156:512]))
    (tmp_path / "x.tar").write_bytes(whole)
    with pytest.raises(BadArchive):
        list(members(tmp_path / "x.tar"))


def test_zips_with_links_passwords_wrong_contents_or_no_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    for info in (link, zipfile.ZipInfo("../up")):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(info, "/etc/passwd")
        with pytest.raises(BadArchive, match=info.filename):
            list(members(path))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", b"content")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"content", b"CONTENT"))
    with pytest.raises(BadArchive, match=r"a in .* is damaged"):
        next(members(path)).read()
    path.write_bytes(whole[:-10])
    with pytest.raises(BadArchive, match="truncated"):
        list(members(path))
    encrypted = bytearray(whole)
    encrypted[whole.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(BadArchive, match="encrypted"):
        list(members(path))


def test_a_name_that_occurs_twice_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar({"a": b"1"}, members=[special("./a", tarfile.REGTYPE)]))
    with pytest.raises(BadArchive, match="holds a twice"):
        index(tmp_path / "x.tar")


def test_a_file_that_shrinks_later_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar({"a": b"1" * 600}))
    (member,) = members(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadArchive, match=r"x.tar is truncated: it ends inside a"):
        member.read()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEP": 1000, "HISTORY": 2000, "SPACING": 3000, "CHECKPOINTS": 5}.items():
        monkeypatch.setattr(inflate, name, value)


@pytest.mark.usefixtures("small_steps")
def test_going_back_in_a_gzip_file_starts_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(picture(seed, side=16) for seed in range(200))
    path = tmp_path / "x.gz"
    cut = len(data) // 3  # two gzip members, and the zeros of a tape behind them
    path.write_bytes(gzip.compress(data[:cut]) + gzip.compress(data[cut:]) + bytes(512))
    stream = inflate.Inflated(str(path))
    assert stream.read(len(data) - 5, 100) == data[-5:]
    assert stream.read(len(data) + 5, 100) == b""
    pieces: list[int] = []
    advance = stream._advance
    monkeypatch.setattr(stream, "_advance", lambda wanted: pieces.append(wanted) or advance(wanted))
    for offset in (50_000, 3, len(data) - 2000, 30_000, 30_500, 29_000, 0):
        pieces.clear()
        assert stream.read(offset, 700) == data[offset : offset + 700]
        assert len(pieces) < 25, "about a fifth of the file lies between two checkpoints"
    assert len(stream._checkpoints) <= 5 and len(stream._window) < 10_000


def test_reading_a_gzip_file_forward_unpacks_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.tar.gz"
    files = {f"{number}.jpg": picture(number) for number in range(50)}
    path.write_bytes(tar(files, "w:gz"))
    restored: list[object] = []
    restore = inflate.Inflated._restore
    monkeypatch.setattr(inflate.Inflated, "_restore", lambda *args: restored.append(args) or restore(*args))
    assert {member.name: member.read() for member in members(path)} == files
    assert len(restored) == 1


def test_damage_in_a_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    whole = bytearray(gzip.compress(tar({"a": picture(1) * 20})))
    whole[len(whole) // 2] ^= 255
    path.write_bytes(whole)
    with pytest.raises(BadArchive, match=r"x.tar.gz is damaged"):
        [member.read() for member in members(path)]


def test_what_is_no_archive_is_called_so(tmp_path: Path) -> None:
    for content in (b"", b"<html>Please log in</html>" * 50, gzip.compress(b"no tar" * 100)):
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(BadArchive, match=r"x.tar is truncated or no tar"):
            list(members(tmp_path / "x.tar"))


def test_a_member_too_large_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_READ", 100)
    (tmp_path / "x.tar").write_bytes(tar({"bomb": bytes(101)}))
    with pytest.raises(BadArchive, match=r"bomb .* claims 101 bytes"):
        next(members(tmp_path / "x.tar")).read()


def mutated(data: bytes, random: Random) -> bytes:
    """With some bytes changed, left out or put in."""
    result = bytearray(data)
    for _ in range(random.choice([1, 2, 5, 40])):
        at, length = random.randrange(len(result)), random.randrange(1, 600)
        change = random.choice(["replace", "replace", "delete", "insert"])
        new = {"replace": random.randbytes(1), "delete": b"", "insert": random.randbytes(length)}[change]
        result[at : at + (length if change == "delete" else 1)] = new
        result = result or bytearray(1)
    return bytes(result)


def test_damaged_archives_are_read_or_refused_by_name(tmp_path: Path) -> None:
    seeds = [packed(kind, tmp_path).read_bytes() for kind in ("tar", "tar.gz", "zip deflated")]
    path, random, refused = tmp_path / "damaged", Random(0), 0
    for number in range(600):
        path.write_bytes(mutated(seeds[number % len(seeds)], random))
        try:
            assert all(len(member.read()) == member.size for member in members(path))
        except BadArchive as error:
            refused += 1
            assert str(path) in str(error)
    assert 300 < refused < 600


def test_the_window_reads_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    with archives._Window(Member("x", 4, str(tmp_path / "x"), 3, "raw")) as window:
        assert (window.read(2), window.tell(), window.read(), window.read()) == (b"34", 2, b"56", b"")
        assert window.seek(1, io.SEEK_SET) == 1 and window.read(9) == b"456"
