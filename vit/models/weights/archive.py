"""NumPy's .npz archives: read without trusting a byte of them, written so that equal tensors give equal bytes.

Reading checks every member's header before any data: sizes declared against the size of the file, how far the archive
inflates, types (numbers only: Python objects would have to be unpickled). JAX stores bfloat16 as two-byte voids.
A zip archive may end in a comment, which NumPy and JAX do not look at: there is room for what the arrays do not say.
"""

import ast
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from vit.models.weights.checkpoint import BadCheckpoint
from vit.typing import Ints

MAX_MEMBERS = 50_000
MAX_HEADER = 65_536  # bytes; a real one takes 128
MAX_DIMENSIONS = 8
MAX_COMMENT = 65_535  # bytes, of a zip archive
MAX_RATIO, SMALL = 20, 16 * 2**20  # an archive may inflate to 20 times its size, or to 16 MiB
NUMBERS = re.compile(r"[<>|=]?(f[248]|[iu][1248]|b1)")
BFLOAT16 = "|V2"
BFLOAT16_NAMES = (BFLOAT16, "<V2")  # as numpy alone and as ml_dtypes spells it
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that zip can express
UNIX = 3  # the system that a member says it was made on; zipfile's own choice differs between machines


class Array(NamedTuple):
    """Where one array lies and what it is, before its data are read."""

    name: str
    info: zipfile.ZipInfo
    descr: str  # numpy's name of the type
    shape: tuple[int, ...]
    fortran_order: bool
    start: int  # bytes of the .npy header


def read(path: Path) -> tuple[dict[str, Tensor], bytes]:
    """Every array of an archive by name, and its comment; the arrays' checksums are verified.

    Raises BadCheckpoint if it is damaged, truncated, inflates absurdly, or holds anything but plain numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(path, archive)
            arrays = [_describe(path, archive, info) for info in archive.infolist()]
            return {array.name: _tensor(path, archive, array) for array in arrays}, archive.comment
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError) as error:
        raise BadCheckpoint(f"{path} is a damaged or truncated archive ({error}); download it again") from error


def write(path: Path, tensors: Mapping[str, Tensor], comment: bytes = b"") -> None:
    """Write tensors as an archive that np.load and jax read, sorted by name, without compression or times.

    The comment has at most MAX_COMMENT bytes.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = comment
        for name in sorted(tensors):
            info = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            info.create_system, info.external_attr = UNIX, 0o644 << 16
            data, descr = _bytes(tensors[name])
            header = {"descr": descr, "fortran_order": False, "shape": tuple(tensors[name].shape)}
            with archive.open(info, "w", force_zip64=data.nbytes > 2**30) as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.write(data.data)


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    infos, size = archive.infolist(), path.stat().st_size
    if len(infos) > MAX_MEMBERS or len({info.filename for info in infos}) < len(infos):
        raise BadCheckpoint(f"{path} has {len(infos)} members, too many or the same twice; it is no file of weights")
    if sum(info.compress_size for info in infos) > size:
        raise BadCheckpoint(f"{path} declares members larger than itself ({size} bytes); download it again")
    total = sum(info.file_size for info in infos)
    if total > max(SMALL, MAX_RATIO * size):
        raise BadCheckpoint(f"{path} would inflate from {size} bytes to {total}; no weights compress so well")
    for info in infos:
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise BadCheckpoint(f"{path} contradicts itself about the size of {info.filename}; download it again")


def _describe(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """The header of a member, checked against the member's size."""
    if not info.filename.endswith(".npy"):
        raise BadCheckpoint(f"{path} holds {info.filename!r}, which is no NumPy array; is it a file of weights?")
    with archive.open(info) as file:
        header, start = _header(file)
    descr, shape, fortran_order = header.get("descr"), header.get("shape"), header.get("fortran_order")
    if not isinstance(shape, tuple) or not isinstance(fortran_order, bool):
        raise BadCheckpoint(f"{path} has no readable NumPy header in {info.filename}; download it again")
    if not isinstance(descr, str) or (descr not in BFLOAT16_NAMES and not NUMBERS.fullmatch(descr)):
        what = "Python objects, which only unpickling could read" if "O" in str(descr) else f"no numbers ({descr})"
        raise BadCheckpoint(f"{path}: {info.filename} holds {what}; it is refused")
    sides = cast(tuple[Any, ...], shape)
    if len(sides) > MAX_DIMENSIONS or not all(type(side) is int and side >= 0 for side in sides):
        raise BadCheckpoint(f"{path} declares shape {sides} in {info.filename}; download it again")
    if start + math.prod(sides) * np.dtype(descr).itemsize != info.file_size:
        raise BadCheckpoint(
            f"{path} declares an array of {list(sides)} x {descr} in {info.filename}, whose member is "
            f"{info.file_size} bytes; download it again"
        )
    return Array(info.filename.removesuffix(".npy"), info, descr, sides, fortran_order, start)


def _header(file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """The dictionary at the start of a .npy file and the bytes up to its end; an empty one if there is none."""
    magic = file.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2):
        return {}, 0
    width = 2 * magic[6]
    length = int.from_bytes(file.read(width), "little")
    if length > MAX_HEADER:
        return {}, 0
    try:
        header: Any = ast.literal_eval(file.read(length).decode("latin1"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}, 0
    return (cast(dict[str, Any], header), 8 + width + length) if isinstance(header, dict) else ({}, 0)


def _tensor(path: Path, archive: zipfile.ZipFile, array: Array) -> Tensor:
    buffer = np.empty(array.info.file_size, dtype=np.uint8)
    with archive.open(array.info) as file:
        if cast(zipfile.ZipExtFile, file).readinto(buffer.data) != len(buffer):
            raise BadCheckpoint(f"{path} ends within {array.info.filename}; download it again")
    dtype = np.dtype(np.int16 if array.descr in BFLOAT16_NAMES else array.descr)
    values = buffer[array.start :]
    if array.start % dtype.itemsize:  # not how NumPy writes, but allowed
        values = values.copy()
    values = values.view(dtype)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    values = values.reshape(array.shape, order="F" if array.fortran_order else "C")
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if array.descr in BFLOAT16_NAMES else tensor


def _bytes(tensor: Tensor) -> tuple[Ints, str]:
    """A tensor's numbers in C order, and numpy's name of their type."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy(), BFLOAT16
    values = tensor.numpy()
    return values, values.dtype.str
