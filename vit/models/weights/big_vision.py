"""ViT files of big_vision: positions of patches only, MAP pooling, fixed sines, and blocks stacked by lax.scan.

They have Linen's names, most with params/ before them, and pos_embedding at the top without a row for the class
token; a table of fixed sines (sincos2d) is absent. Source: big_vision models/vit.py. Numerics as of the older files.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vit.models.config import ViTConfig
from vit.models.weights import layout, npz
from vit.models.weights.checkpoint import BadCheckpoint, Checkpoint

PREFIX = "params/"
NAMES = dataclasses.replace(npz.LINEN, table="pos_embedding", covers_class=False)


def claims(tensors: Mapping[str, Any]) -> bool:
    """Whether the names are those of a big_vision ViT, flat or scanned."""
    prefix = npz.prefix_of(tensors)
    return prefix is not None and npz.is_big_vision(npz.inside(tensors, prefix))


def parse(tensors: Mapping[str, Tensor], **settings: Any) -> Checkpoint:
    """A ViT from a file of big_vision; settings and errors as of npz.parse.

    A file without a position table is taken for sincos2d; position="none" says otherwise.
    """
    prefix = npz.prefix_of(tensors) or ""
    found = npz.inside(tensors, prefix)
    scanned = any(name.startswith(layout.STACK) for name in found)
    if scanned:
        found = _unstacked(found, prefix)
    names = NAMES
    if table := next((table for table in npz.TABLES if table in found), None):
        covers = _covers_class(found[table], settings.get("grid"))
        names = dataclasses.replace(NAMES, table=table, covers_class=covers)
    spelling = layout.Spelling(prefix=prefix, stacked=scanned)
    origin = f"big_vision .npz, {'scanned' if scanned else 'flat'} blocks"
    return npz.network(found, names, settings, origin, npz.outside(tensors, prefix), spelling)


def emit(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """big_vision's flat layout, with which timm reads it too. A class token's own position is added to the token.

    Raises BadCheckpoint if big_vision has no such network.
    """
    config = checkpoint.config
    if not isinstance(config, ViTConfig) or config.stem is not None:
        raise BadCheckpoint("big_vision's ViT files hold no ResNets or hybrids; write another format")
    if config.position not in ("learned", "sincos2d") or config.position_at != "stem":
        raise BadCheckpoint(
            f"big_vision has no positions {config.position!r} at {config.position_at!r}; write the native format"
        )
    state = dict(checkpoint.state)
    if config.pooling == "tok" and config.position == "learned":
        own = state["pos_embed"][:, :1]
        if not own.is_meta and bool(own.any()):
            state["cls_token"] = state["cls_token"] + own
    tensors = layout.write(npz.rules(config, checkpoint.num_classes, NAMES), state)
    return {PREFIX + name: tensor for name, tensor in tensors.items()}


def _covers_class(table: Tensor, grid: tuple[int, int] | None) -> bool:
    """Whether a table has a row for the class token; until 2022 it had."""
    tokens = table.shape[1] if table.ndim == 3 else 0
    if grid is not None:
        return tokens == grid[0] * grid[1] + 1
    return tokens > 1 and math.isqrt(tokens - 1) ** 2 == tokens - 1


def _unstacked(found: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Scanned blocks have one tensor for all layers, the layer being the first axis."""
    stacks = {name: tensor for name, tensor in found.items() if name.startswith(layout.STACK)}
    depths = {name: tensor.shape[0] if tensor.ndim else 0 for name, tensor in stacks.items()}
    depth = statistics.mode(depths.values())
    if odd := [f"{prefix}{name} {list(stacks[name].shape)}" for name in stacks if depths[name] != depth]:
        raise BadCheckpoint(f"most scanned tensors have {depth} layers, but mis-shaped are {', '.join(odd)}")
    flat = {name: tensor for name, tensor in found.items() if name not in stacks}
    for name, tensor in stacks.items():
        for number, layer in enumerate(torch.unbind(tensor)):
            flat[f"Transformer/encoderblock_{number}/{name.removeprefix(layout.STACK)}"] = layer
    return flat
