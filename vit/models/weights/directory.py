"""Directories of weights as timm and Hugging Face lay them out: `config.json` beside one file or shards of it.

Which network the two describe is for timm.py and huggingface.py to say; here they are only found, read and written.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from vit.models.weights.checkpoint import BadCheckpoint
from vit.models.weights.files import read_tensors, save_safetensors

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in the order in which both libraries look
FILES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".json")  # no directory is called so
MAX_JSON = 64 * 2**20  # bytes; labels of 21,843 classes take 2 MB


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises BadCheckpoint if the file is absent, larger than MAX_JSON or anything but a JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise BadCheckpoint(
                f"{path} is {path.stat().st_size} bytes, too large for a description; is it the right file?"
            )
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read ({error.strerror}); it should lie beside the weights") from error
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} is not valid JSON; download it again") from error
    if not isinstance(values, dict):
        raise BadCheckpoint(f"{path} holds {type(values).__name__} where an object was expected; download it again")
    return cast(dict[str, Any], values)


@contextlib.contextmanager
def well_formed() -> Generator[None]:
    """Within it, a description whose fields are not of the types that they should be is a BadCheckpoint."""
    try:
        yield
    except BadCheckpoint:
        raise
    except (TypeError, AttributeError, KeyError, ValueError, OverflowError) as error:
        raise BadCheckpoint(f"{CONFIG} has a field of a wrong type ({error}); download it again") from error


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a directory, from `model.safetensors`, `pytorch_model.bin` or the shards that an index names.

    Raises BadCheckpoint if there are none, or an index and its shards disagree.
    """
    for name in WEIGHTS:
        if (directory / name).exists():
            return read_tensors(directory / name)
        index = directory / f"{name}.index.json"
        if index.exists():
            return _read_shards(index)
    raise BadCheckpoint(f"{directory} has {CONFIG} but neither {' nor '.join(WEIGHTS)}; put the weights beside it")


def write(directory: Path, tensors: Mapping[str, Tensor], documents: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes `model.safetensors` and JSON files into a new directory, which appears whole or not at all.

    Raises BadCheckpoint if the directory exists and is not empty.
    """
    if directory.suffix in FILES:
        raise BadCheckpoint(
            f"{directory} is named like a file, but a directory is to be written; name it without suffix"
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BadCheckpoint(f"{directory} exists and is not empty; name a new directory")
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, document in documents.items():
        (partial / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    state = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    save_safetensors(partial / WEIGHTS[0], state, {"format": "pt"})  # one entry: safetensors writes more in any order
    partial.replace(directory)


def dtype_name(tensors: Mapping[str, Tensor]) -> str:
    """The widest floating type among tensors as both libraries spell it, "float32" for instance."""
    widest = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors.values()])
    return str(widest).removeprefix("torch.")


def _read_shards(index: Path) -> dict[str, Tensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise BadCheckpoint(f"{index} has no weight_map; download it again")
    shards = cast(dict[str, Any], places)
    tensors: dict[str, Tensor] = {}
    for shard in sorted({str(shard) for shard in shards.values()}):
        if Path(shard).name != shard:
            raise BadCheckpoint(f"{index} names {shard!r}, which is not a file beside it; download it again")
        tensors |= read_tensors(index.parent / shard)
    if differing := sorted(set(shards) ^ set(tensors)):
        raise BadCheckpoint(f"{index} and its shards disagree about {', '.join(differing)}; download them again")
    return tensors
