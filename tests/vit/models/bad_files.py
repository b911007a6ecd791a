"""Files that no one should load: each function makes one at a path, BAD says what the reader answers."""

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from vit.models.weights import files

GOLDEN = Path(__file__).parents[2] / "golden" / "vit_official_npz.npz"


class Hostile:
    """Unpickling it makes a directory, which proves that code ran."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.proof),)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"head.weight": Hostile(path.with_name("ran"))}, protocol=2))


def newest_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile(path.with_name("ran")), protocol=5))


def oldest_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile(path.with_name("ran")), protocol=0))


def torch_zip(path: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}, "extra": Hostile(path.with_name("ran"))}, path)


def torch_legacy(path: Path) -> None:
    torch.save({"x": Hostile(path.with_name("ran"))}, path, _use_new_zipfile_serialization=False)


def objects_in_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, cls=np.array([Hostile(path.with_name("ran"))], dtype=object))


def expanded(path: Path) -> None:
    torch.save({"x": torch.zeros(1).expand(10**10)}, path)


def meta(path: Path) -> None:
    torch.save({"x": torch.zeros(3, device="meta")}, path)


def no_tensors(path: Path) -> None:
    torch.save({"epoch": 3}, path)


def a_list(path: Path) -> None:
    torch.save([torch.zeros(1)], path)


def deflated_torch(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(1000))


def truncated(path: Path) -> None:
    path.write_bytes(GOLDEN.read_bytes()[:-100])


def truncated_torch(path: Path) -> None:
    torch.save({"x": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def truncated_safetensors(path: Path) -> None:
    save_file({"x": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def flipped(path: Path) -> None:
    data = bytearray(GOLDEN.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def long_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 100 * 10**9) + b'{"x":{"dtype":"F32"')


def nonsense_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 20) + b'{"x":' + bytes(30))


def member(path: Path, data: bytes, name: str = "cls.npy") -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, data)


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def array_larger_than_its_member(path: Path) -> None:
    member(path, npy("{'descr': '<f4', 'fortran_order': False, 'shape': (25000000000,)}", bytes(16)))


def npy_header_of_4_gigabytes(path: Path) -> None:
    member(path, b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{")


def npy_header_of_spaces(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}".ljust(10**6)
    member(path, b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + bytes(16))


def npy_header_of_brackets(path: Path) -> None:
    member(path, npy("[" * 60_000))


def negative_shape(path: Path) -> None:
    member(path, npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}", bytes(16)))


def structured(path: Path) -> None:
    member(path, npy("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (4,)}", bytes(16)))


def another_member(path: Path) -> None:
    files.write_npz(path, {"cls": torch.zeros(1)})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("evil.py", "print()")


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(
            "cls.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (20000000,)}", bytes(20_000_000))
        )


def member_said_to_be_larger_than_the_file(path: Path) -> None:
    files.write_npz(path, {"cls": torch.zeros(4)})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)  # stored and plain size in the directory
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    files.write_npz(path, {"cls": torch.zeros(4)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")


BAD: dict[Callable[[Path], object], str] = {
    plain_pickle: "asks for (posix|nt).mkdir when loaded, which may run code",
    newest_pickle: "no whole PyTorch file of plain tensors",
    oldest_pickle: "is no .npz, safetensors or PyTorch file",
    torch_zip: "asks for (posix|nt).mkdir when loaded, which may run code",
    torch_legacy: "asks for (posix|nt).mkdir when loaded, which may run code",
    objects_in_npz: "cls.npy holds Python objects, which only unpickling could read",
    expanded: "describes 40000000000 bytes of tensors",
    meta: "stores x as no plain tensor",
    no_tensors: r"holds no tensors by name \(its entries are epoch\)",
    a_list: "holds a list, not tensors by name",
    deflated_torch: "compressed archive, which PyTorch never writes",
    truncated: "damaged or truncated archive",
    truncated_torch: "damaged or truncated archive",
    truncated_safetensors: "damaged or truncated safetensors",
    flipped: "damaged or truncated archive .*Bad CRC-32",
    long_header: "claims a header of 100000000000 bytes, but is 27 bytes long",
    nonsense_header: "damaged or truncated safetensors",
    array_larger_than_its_member: r"declares an array of \[25000000000\] x <f4 in cls.npy",
    npy_header_of_4_gigabytes: "no readable NumPy header in cls.npy",
    npy_header_of_spaces: "no readable NumPy header in cls.npy",
    npy_header_of_brackets: "no readable NumPy header in cls.npy",
    negative_shape: r"declares shape \(-1, -4\)",
    structured: "no numbers",
    another_member: "holds 'evil.py', which is no NumPy array",
    bomb: "would inflate from",
    member_said_to_be_larger_than_the_file: "declares members larger than itself|damaged or truncated",
    encrypted: "damaged or truncated archive .*encrypted",
    lfs: "git lfs pull",
    lambda path: path.write_bytes(b""): "is empty",
    lambda path: path.write_text("<!DOCTYPE html><html>"): "a web page",
    lambda path: path.write_bytes(b"\x80\x02"): "no whole PyTorch file",
    lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)): "damaged or truncated archive",
    lambda path: member(path, b"x", "readme.txt"): "is no .npz, safetensors or PyTorch file",
    os.mkfifo: "neither a file nor a directory",
    lambda path: path.symlink_to(path): "cannot be read",
    lambda path: path.mkdir(): "a directory without config.json",
    lambda path: None: r"cannot be read \(No such file",
}
