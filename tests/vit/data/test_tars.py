"""Members of tar files by offset: everything that tarfile writes is found, everything damaged is named."""

import io
import tarfile
from pathlib import Path

import pytest

from vit.data.tars import BadTar, Member, Writer, members, room

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "folder/" + "x" * 150 + "é/" + "y" * 120 + ".jpg"


def packed(names: list[str], kind: int, **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind, **options) as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = 100 * number
            tar.addfile(member, io.BytesIO(bytes([number]) * member.size))
    return buffer.getvalue()


def found(data: bytes) -> list[Member]:
    return list(members(io.BytesIO(data), len(data)))


@pytest.mark.parametrize("kind", FORMATS)
def test_members_are_those_of_tarfile(kind: str) -> None:
    names = ["a.jpg", "b/c.cls", "d" * 99, "e" * 80 + "/" + "f" * 60] + ([] if kind == "ustar" else [LONG])
    data = packed(names, FORMATS[kind])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [Member(one.name, one.offset_data, one.size) for one in tar.getmembers()]
    assert found(data) == expected and [one.name for one in expected] == names


def test_what_is_no_file_is_passed_over() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "hello"}) as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"entry{kind!r}")
            member.type = kind
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("file"))
    assert [one.name for one in found(buffer.getvalue())] == ["file"]


def test_sizes_beyond_eight_gigabytes_are_understood() -> None:
    member = tarfile.TarInfo("huge")
    member.size = 9 << 30
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        header = member.tobuf(kind)
        assert next(members(io.BytesIO(header), 10 << 30)).size == 9 << 30


def header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "no tar header at byte 0"),
        (b"\x1f\x8b" + header("a", 0), "no tar header at byte 0"),
        (header("a", 0) + b"X" * 512, "no tar header at byte 512"),
        (header("a", 0) + header("b", 0)[:300], "no tar header at byte 512"),
        (header("a", 0) + header("b", 100) + b"x" * 99, "it ends at byte 1123, inside b"),
    ],
)
def test_damage_is_named_with_its_place(data: bytes, sentence: str) -> None:
    with pytest.raises(BadTar, match=sentence):
        found(data)


def test_every_truncation_is_noticed() -> None:
    data = packed(["a", "b", "c"], tarfile.PAX_FORMAT)
    end = max(one.offset + one.size for one in found(data))
    for length in [*range(0, end, 37), *range(0, end, 512)]:
        with pytest.raises(BadTar):
            found(data[:length])


def test_the_room_of_an_image_is_what_the_writer_takes(tmp_path: Path) -> None:
    tar = Writer(tmp_path / "a.tar")
    taken = [0]
    for number, labels in enumerate([(), (3,), (3, 5), (1, 2, 3)]):
        tar.add(f"key{number}", "jpg", b"x" * 700 * number, labels)
        taken.append(tar.size)
        assert taken[-1] - taken[-2] == room(700 * number, len(labels))
    tar.close()
