"""The one door for weights: any file or directory that holds a network of the ViT paper, in anyone's format.

`load` builds the network, `inspect` only says what it is, `convert` writes it in another format. Which format, family
and sizes is found from content, keys and shapes. Nothing is unpickled beyond plain tensors. Formats live in the modules
here: npz, big_vision, bit (the authors'), timm, huggingface, native (ours).
"""

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor

from vit.models.build import Method, Model
from vit.models.resnet import ResNetConfig
from vit.models.weights import big_vision, bit, directory, files, huggingface, native, npz, timm
from vit.models.weights.checkpoint import (
    BadCheckpoint,
    Checkpoint,
    at,
    checked,
    instantiate,
    with_new_head,
)

__all__ = ["BadCheckpoint", "Checkpoint", "convert", "inspect", "load"]

Format: TypeAlias = Literal["timm", "hf", "npz", "native"]
JAX: dict[str, ModuleType] = {"big_vision": big_vision, "npz": npz, "bit": bit}
HUGGING_FACE = "embeddings.patch_embeddings.projection.weight"  # of ViT; BiT's names say less
logger = logging.getLogger("vitflow.weights")


def load(
    path: str | os.PathLike[str], *, resolution: int | None = None, num_classes: int | None = None, **settings: Any
) -> Model:
    """The network of a file or directory, in eval mode and float32: B 3 R R in [-1, 1] -> B num_classes.

    `resolution` in pixels resizes position embeddings (paper §3.2). `num_classes` other than the file's gives a head of
    zeros and drops the representation layer, as for transfer. `settings`: fields of the config that a file cannot say
    (num_heads, gelu, …), grid=(rows, columns) of a position table that is not square, weights="model_ema" of a training
    checkpoint, resize="official" | "timm" | "huggingface" (default: as the file's own library does).
    Raises BadCheckpoint, one sentence with all unknown, missing and mis-shaped keys; ValueError for an argument that
    cannot be.
    """
    checkpoint = inspect(path, resolution=resolution, **settings)
    if num_classes is not None and num_classes != checkpoint.num_classes:
        checkpoint = with_new_head(checkpoint, num_classes)
    for note in checkpoint.notes:
        logger.info("%s: %s", path, note)
    return instantiate(checkpoint)


def inspect(path: str | os.PathLike[str], *, resolution: int | None = None, **settings: Any) -> Checkpoint:
    """What a file or directory holds, at another resolution if one is given; no network is built.

    Settings and errors are those of `load`.
    """
    wanted: Method | None = settings.pop("resize", None)
    if wanted is not None and wanted not in get_args(Method):
        raise ValueError(f"resize {wanted!r} is none of {', '.join(map(repr, get_args(Method)))}")
    path = Path(path)
    try:
        checkpoint, method = _parsed(path, settings, resolution)
        checkpoint = checked(checkpoint)
    except BadCheckpoint as error:
        text = str(error)
        raise BadCheckpoint(text if text.startswith(str(path)) else f"{path}: {text}") from error
    return checkpoint if resolution is None else at(checkpoint, resolution, method=wanted or method)


def convert(path: str | os.PathLike[str], to: Format, out: str | os.PathLike[str], **settings: Any) -> list[str]:
    """Write the network of `path` as `to`: a directory for hf, else a file; returns notes on what that format loses.

    "npz" is the authors' own layout of the network's family: vision_transformer's, for MAP pooling and sines
    big_vision's, for ResNets BiT's. Tensors are only renamed and transposed: there and back is bit-exact.
    Raises BadCheckpoint if the format cannot express the network.
    """
    if to not in get_args(Format):
        raise ValueError(f"there is no format {to!r}; there are {', '.join(get_args(Format))}")
    checkpoint, out = inspect(path, **settings), Path(out)
    notes = list(checkpoint.notes)
    try:
        if to == "native":
            native.write(out, checkpoint)
        elif to == "npz":
            notes += _write_npz(out, checkpoint)
        else:
            notes += (timm if to == "timm" else huggingface).write(checkpoint, out)
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{path} cannot be written as {to}: {error}") from error
    return list(dict.fromkeys(notes))


def _parsed(path: Path, settings: dict[str, Any], resolution: int | None) -> tuple[Checkpoint, Method]:
    """The checkpoint as the file has it, and the method by which its own library resizes positions."""
    if path.is_dir():
        return _from_directory(path, settings, resolution)
    weights = settings.pop("weights", None)
    contents = files.read(path, weights=weights)
    is_described = native.claims(contents.metadata)
    if is_described and contents.kind != "npz":
        return _noted(native.parse(contents.tensors, contents.metadata, **settings), contents), "official"
    if resolution is not None and ("grid" in settings or not _has_table(contents.tensors)):
        settings["resolution"] = resolution
    for module in JAX.values():
        if module.claims(contents.tensors):
            told = native.told(contents.metadata) if is_described else None
            fields = told.fields if told else {}
            found: Checkpoint = module.parse(contents.tensors, **fields | settings)
            if told:
                found = dataclasses.replace(found, class_names=told.class_names, evaluation=told.evaluation)
            return _noted(found, contents), "official"
    if any(name.endswith(HUGGING_FACE) for name in contents.tensors):
        if huggingface.claims(path.parent):
            return _noted(huggingface.read(path.parent, **settings), contents), "huggingface"
        raise BadCheckpoint(f"{path} has Hugging Face's names, which need config.json beside the file; put it there")
    if timm.claims(contents.tensors):
        if weights is None and _is_described(path.parent):
            return _noted(timm.read(path, **settings), contents), "timm"
        return _noted(timm.parse(contents.tensors, **settings), contents), "timm"
    first = ", ".join(list(contents.tensors)[:5])
    raise BadCheckpoint(
        f"{path} has the names of no known format (official npz, big_vision, BiT, timm, Hugging Face, native); they "
        f"begin with {first}"
    )


def _from_directory(path: Path, settings: dict[str, Any], resolution: int | None) -> tuple[Checkpoint, Method]:
    if resolution is not None and "grid" in settings:
        settings["resolution"] = resolution
    if huggingface.claims(path):
        return huggingface.read(path, **settings), "huggingface"
    weights = path / directory.WEIGHTS[0]
    if weights.is_file() and native.claims(files.read(weights).metadata):
        return _parsed(weights, settings, resolution)
    if (path / directory.CONFIG).is_file():
        return timm.read(path, **settings), "timm"
    raise BadCheckpoint(
        f"{path} is a directory without config.json or a native model.safetensors; name the file itself"
    )


def _is_described(folder: Path) -> bool:
    """Whether a config.json of timm's hub lies there; stages of our own write a config.json, too."""
    config = folder / directory.CONFIG
    return config.is_file() and "architecture" in directory.read_json(config)


def _noted(checkpoint: Checkpoint, contents: files.Contents) -> Checkpoint:
    return dataclasses.replace(checkpoint, notes=contents.notes + checkpoint.notes)


def _has_table(tensors: dict[str, Tensor]) -> bool:
    return any("pos_embed" in name for name in tensors)


def _jax_module(checkpoint: Checkpoint) -> ModuleType:
    config = checkpoint.config
    if isinstance(config, ResNetConfig):
        return bit
    return big_vision if config.pooling == "map" or config.position == "sincos2d" else npz


def _write_npz(out: Path, checkpoint: Checkpoint) -> list[str]:
    """Write the authors' layout and our description; returns what other readers of the file would assume otherwise."""
    module = _jax_module(checkpoint)
    tensors = module.emit(checkpoint)
    notes = ["class names are kept for vitflow alone"] if checkpoint.class_names else []
    try:
        files.write_npz(out, tensors, native.description(checkpoint))
    except ValueError:
        files.write_npz(out, tensors, native.description(dataclasses.replace(checkpoint, class_names=())))
        notes = ["class names are not kept: an .npz has no room for so many"]
    unseen = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    position = {} if isinstance(checkpoint.config, ResNetConfig) else {"position": checkpoint.config.position}
    assumed: Checkpoint = module.parse(unseen, **position)
    return notes + _differences(dataclasses.asdict(checkpoint.config), dataclasses.asdict(assumed.config))


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    notes: list[str] = []
    for name, value in mine.items():
        if isinstance(value, Mapping) and isinstance(theirs[name], Mapping):
            notes += _differences(cast(Mapping[str, Any], value), theirs[name])
        elif value != theirs[name]:
            notes.append(
                f"{name} {value!r} is kept for vitflow alone; other readers of the .npz assume {theirs[name]!r}"
            )
    return notes
