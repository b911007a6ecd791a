"""TFRecord files of tf.Example messages without TensorFlow: where the values lie, so that they can be read in place.

A record is its length (8 bytes), a checksum of that, the data, a checksum of the data. Only the first checksum is
verified: CRC-32C of gigabytes is hours of Python, and the gzip around them has its own. An Example is a protocol
buffer: features (1) → map entry (1) → name (1), feature (2) → bytes (1), floats (2) or integers (3).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from vit.data.datasets.archives import BadArchive, Member

_HEAD = struct.Struct("<QI")  # length and its masked CRC
_MAX_RECORD = 64 << 20  # bytes; an image and its label are far smaller
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


class Span(NamedTuple):
    """Bytes of a message."""

    start: int
    end: int


class Field(NamedTuple):
    """One field of a message: its number, and its integer or where its bytes lie."""

    number: int
    value: int
    span: Span | None


def records(member: Member) -> Iterator[tuple[int, bytes]]:
    """Offset in the file, and data, of each record; raises BadArchive at damage."""
    position = 0
    while position < member.size:
        if position + _HEAD.size > member.size:
            raise _damaged(member, position)
        length, checksum = _HEAD.unpack(member.part(position, _HEAD.size))
        start = position + _HEAD.size
        if checksum != masked_crc(struct.pack("<Q", length)) or not length <= _MAX_RECORD:
            raise _damaged(member, position)
        if start + length + 4 > member.size:
            raise _damaged(member, position)
        yield start, member.part(start, length)
        position = start + length + 4


def example(data: bytes) -> dict[str, Span | int]:
    """The first value of each feature of an Example by name: an integer, or where its bytes lie in `data`.

    Raises ValueError if it is none. Floats are left out.
    """
    found: dict[str, Span | int] = {}
    for features in _spans(data, Span(0, len(data)), 1):
        for entry in _spans(data, features, 1):
            names = list(_spans(data, entry, 1))
            values = [value for feature in _spans(data, entry, 2) for value in _values(data, feature)]
            if names and values:
                found[data[names[0].start : names[0].end].decode()] = values[0]
    return found


def masked_crc(data: bytes) -> int:
    """TFRecord's masked CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _values(data: bytes, feature: Span) -> Iterator[Span | int]:
    for values in _spans(data, feature, 1):
        yield from _spans(data, values, 1)
    for values in _spans(data, feature, 3):
        for field in _fields(data, values):
            yield _varint(data, field.span.start, field.span.end)[0] if field.span else field.value


def _spans(data: bytes, inside: Span, number: int) -> Iterator[Span]:
    for field in _fields(data, inside):
        if field.number == number and field.span is not None:
            yield field.span


def _fields(data: bytes, inside: Span) -> Iterator[Field]:
    position = inside.start
    while position < inside.end:
        tag, position = _varint(data, position, inside.end)
        value, span = 0, None
        if tag & 7 == _VARINT:
            value, position = _varint(data, position, inside.end)
        elif tag & 7 == _BYTES:
            length, position = _varint(data, position, inside.end)
            span = Span(position, position + length)
            position += length
        elif tag & 7 in (_FIXED64, _FIXED32):
            position += 8 if tag & 7 == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {tag & 7} at byte {position}")
        if position > inside.end:
            raise ValueError(f"a field ends at byte {position}, its message at {inside.end}")
        yield Field(tag >> 3, value, span)


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError(f"an integer runs over byte {end}")
        value |= (data[position] & 0x7F) << shift
        position += 1
        if data[position - 1] < 0x80:
            return value, position
    raise ValueError(f"an integer of more than 10 bytes at byte {position}")


def _damaged(member: Member, position: int) -> BadArchive:
    return BadArchive(f"{member.name} in {member.path} is no TFRecord file or damaged at byte {position}; get it again")


def _table() -> tuple[int, ...]:
    table: list[int] = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _table()
