"""Reading tensors from a file that may be anything: .npz, safetensors or PyTorch, told apart by content.

Nothing in a file is believed before it is checked against the file's size, and nothing is executed: pickles go through
torch's restricted unpickler alone. Whatever is wrong, the answer is one BadCheckpoint, before any large allocation.
"""

import argparse
import collections
import contextlib
import dataclasses
import os
import re
import warnings
import zipfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import safe_open, save_file
from torch import Tensor

from vit.models.weights import archive
from vit.models.weights.checkpoint import BadCheckpoint

Kind: TypeAlias = Literal["npz", "safetensors", "torch"]
DESCRIPTION = "vitflow"  # where a file holds our description of its network
COMMENT = b"vitflow "
MAX_HEADER = 32 * 2**20  # bytes of a safetensors header; 20,000 tensors and 21,843 class names take 4 MB
MAX_PICKLE = 64 * 2**20  # bytes of a state dict's structure, its tensors not counted
MAX_REUSE = 4  # a file's tensors may be at most so many times its size (tied weights are stored once)
WRAPPERS = ("state_dict", "model", "model_state_dict", "module", "net", "network")  # of training checkpoints
AVERAGES = ("state_dict_ema", "model_ema")  # timm's and DeiT's names for averaged weights
PREFIXES = {"module.": "DistributedDataParallel", "_orig_mod.": "torch.compile"}
KNOWN = {  # first bytes of files that are often taken for weights
    b"version https://git-lfs": "a pointer of Git LFS, not the file it points to; run `git lfs pull`",
    b"<!DOCTYPE": "a web page, not weights; download the raw file",
    b"<html": "a web page, not weights; download the raw file",
    b"\x89HDF": "an HDF5 file (Keras); convert it to one of our formats first",
    b"\x93NUMPY": "a single NumPy array; weights come as .npz",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """The tensors of a file by its own names, memory-mapped where the format allows."""

    kind: Kind
    tensors: dict[str, Tensor]
    metadata: dict[str, str]  # of safetensors; of others, our description of the network if there is one
    notes: tuple[str, ...] = ()  # what was unwrapped or left out


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; raises BadCheckpoint as `read` does."""
    return read(path).tensors


def read(path: Path, *, weights: str | None = None) -> Contents:
    """Read a file of tensors: .npz, safetensors, or a PyTorch file, be it a state dict or a training checkpoint.

    `weights` names the entry of a training checkpoint to take, "model_ema" for instance.
    Raises BadCheckpoint, one sentence, if the file is missing, damaged, truncated, malicious or of another kind.
    """
    kind = _kind(path)
    if kind == "npz":
        tensors, comment = archive.read(path)
        described = comment.startswith(COMMENT)
        text = comment.removeprefix(COMMENT).decode("utf-8", errors="replace")
        return Contents(kind=kind, tensors=tensors, metadata={DESCRIPTION: text} if described else {})
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind == "torch":
        return _read_torch(path, weights)
    raise BadCheckpoint(f"{path} is no .npz, safetensors or PyTorch file; is it the right one, and whole?")


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yields a path beside `path` that takes its place, whole, when the block succeeds, and vanishes when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_npz(path: Path, tensors: Mapping[str, Tensor], description: str = "") -> None:
    """Write an .npz whole or not at all; equal tensors give equal bytes. The description goes into the zip comment.

    Raises ValueError if it is longer than a comment may be.
    """
    comment = COMMENT + description.encode() if description else b""
    if len(comment) > archive.MAX_COMMENT:
        raise ValueError(f"a description of {len(comment)} bytes does not fit into the comment of {path}")
    with replacing(path) as partial:
        archive.write(partial, tensors, comment)


def write_torch(path: Path, tensors: Mapping[str, Tensor], description: str) -> None:
    """Write a PyTorch state dict whole or not at all.

    The description is an attribute of the dict, as `_metadata` is of those that torch makes: whoever loads the weights
    does not see it, and `weights_only` lets it pass.
    """
    plain = collections.OrderedDict(
        (name, tensor.detach().cpu().clone(memory_format=torch.contiguous_format)) for name, tensor in tensors.items()
    )
    setattr(plain, DESCRIPTION, description)
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save(plain, file)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors whole or not at all; equal tensors give equal bytes as long as metadata has one entry.

    safetensors writes several entries in an order that changes with every run.
    """
    state = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    with replacing(path) as partial:
        save_safetensors(partial, state, metadata)


def save_safetensors(path: Path, state: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """safetensors' own writer, whose errors of the disk (it is full, say) are OSErrors, as everybody else's."""
    try:
        save_file(state, path, metadata=dict(metadata))
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def _kind(path: Path) -> Kind | None:
    """The kind of a file by its first bytes, or None; raises BadCheckpoint for kinds that need another sentence."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise BadCheckpoint(f"{path} is neither a file nor a directory; copy its content into a file")
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read ({error.strerror}); check the path") from error
    if not start:
        raise BadCheckpoint(f"{path} is empty; download or write it again")
    if start[8:9] == b"{":  # before all others: its first bytes are a length, which may spell PK or gzip
        return "safetensors"
    for first, what in KNOWN.items():
        if start.startswith(first):
            raise BadCheckpoint(f"{path} is {what}")
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    return "torch" if start[0] == 0x80 else None  # every pickle since protocol 2 starts so


def _kind_of_zip(path: Path) -> Kind | None:
    try:
        with zipfile.ZipFile(path) as opened:
            names = opened.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise BadCheckpoint(f"{path} is a damaged or truncated archive ({error}); download it again") from error
    if any(name.endswith(".npy") for name in names):
        return "npz"
    return "torch" if any(name.endswith("/data.pkl") for name in names) else None


def _read_safetensors(path: Path) -> Contents:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > size - 8:
        raise BadCheckpoint(f"{path} claims a header of {header} bytes, but is {size} bytes long; download it again")
    if header > MAX_HEADER:
        raise BadCheckpoint(f"{path} has a header of {header} bytes, which no weights need")
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
            metadata: dict[str, str] = opened.metadata() or {}
    except Exception as error:  # SafetensorError is no ValueError, and a wrong type raises others
        raise BadCheckpoint(f"{path} is damaged or truncated safetensors ({error}); download it again") from error
    return Contents(kind="safetensors", tensors=tensors, metadata=metadata)


def _read_torch(path: Path, weights: str | None) -> Contents:
    mapped = zipfile.is_zipfile(path)
    if mapped:
        _check_zip(path)
    try:
        # Training scripts store their arguments beside the weights: a Namespace holds data and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # on damaged or hostile bytes the unpickler may raise anything
        if match := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise BadCheckpoint(
                f"{path} is a pickle that asks for {match[1]} when loaded, which may run code; it is refused: "
                "save the state dict alone, best as safetensors"
            ) from error
        raise BadCheckpoint(
            f"{path} is no whole PyTorch file of plain tensors ({type(error).__name__}); download it again, "
            "or save its state dict as safetensors"
        ) from error
    state, notes = _unwrapped(path, loaded, weights)
    _check_tensors(path, state)
    description = getattr(loaded, DESCRIPTION, None)
    metadata = {DESCRIPTION: description} if isinstance(description, str) else {}
    return Contents(kind="torch", tensors=state, metadata=metadata, notes=notes)


def _check_zip(path: Path) -> None:
    """PyTorch stores members uncompressed; anything else is a bomb or not its file."""
    with zipfile.ZipFile(path) as opened:
        infos = opened.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size for info in infos):
        raise BadCheckpoint(f"{path} is a compressed archive, which PyTorch never writes; it is refused")
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise BadCheckpoint(f"{path} declares members larger than itself; download it again")
    if any(info.filename.endswith(".pkl") and info.file_size > MAX_PICKLE for info in infos):
        raise BadCheckpoint(f"{path} has a pickle of more than {MAX_PICKLE} bytes, which no weights need")


def _unwrapped(path: Path, loaded: Any, weights: str | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict inside a training checkpoint under plain names, and notes on what was taken off."""
    notes: list[str] = []
    entries = _entries(path, loaded)
    keys = [weights] if weights is not None else WRAPPERS
    inner = [key for key in keys if isinstance(entries.get(key), Mapping)]
    if weights is not None and not inner:
        raise BadCheckpoint(f"{path} has no entry {weights!r}; its entries are {', '.join(list(entries)[:20])}")
    if inner and (weights is not None or not any(isinstance(value, Tensor) for value in entries.values())):
        others = [key for key in entries if key != inner[0]]
        notes.append(f"taken from entry {inner[0]!r}" + (f"; left out: {', '.join(others)}" if others else ""))
        notes += [f"weights={key!r} would load the averaged weights" for key in AVERAGES if key in others]
        entries = _entries(path, entries[inner[0]])
    tensors = {key: value.detach() for key, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        raise BadCheckpoint(f"{path} holds no tensors by name (its entries are {', '.join(list(entries)[:20])})")
    if rest := [key for key in entries if key not in tensors]:
        notes.append(f"entries that are no tensors were left out: {', '.join(rest[:20])}")
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
        notes.append(f"prefix {prefix!r} of {PREFIXES[prefix]} was taken off every name")
    return tensors, tuple(notes)


def _entries(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BadCheckpoint(f"{path} holds a {type(value).__name__}, not tensors by name; save a state dict")
    return {str(key): item for key, item in cast(Mapping[Any, Any], value).items()}


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A pickle may describe tensors larger than their bytes (strides of zero) or without any."""
    total = 0
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
            raise BadCheckpoint(f"{path} stores {name} as no plain tensor; save a plain state dict")
        total += tensor.numel() * tensor.element_size()
    if total > MAX_REUSE * path.stat().st_size:
        raise BadCheckpoint(f"{path} describes {total} bytes of tensors in {path.stat().st_size}; it is refused")
