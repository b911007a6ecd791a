"""From a config to a network, from plain values to a config, and from one resolution to another.

Whatever a config can say is built here and nowhere else, so that formats, variants and transfer agree.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from vit.models.position import Method, resize_pos_embed
from vit.models.resnet import ResNet, ResNetConfig
from vit.models.vit import ViT, ViTConfig

ModelConfig: TypeAlias = ViTConfig | ResNetConfig
Model: TypeAlias = ViT | ResNet
Config = TypeVar("Config", bound=ViTConfig | ResNetConfig)
State: TypeAlias = dict[str, Tensor]


def build(config: ModelConfig, num_classes: int, *, head_bias: float = 0.0) -> Model:
    """A new network: B 3 R R in [-1, 1] -> B num_classes, or the features B D if num_classes is 0."""
    if num_classes < 0:
        raise ValueError(f"num_classes {num_classes} must be 0 (no head) or more")
    if isinstance(config, ViTConfig):
        return ViT(config, num_classes, head_bias=head_bias)
    return ResNet(config, num_classes, head_bias=head_bias)


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """The inverse of json(dataclasses.asdict(config)): lists become tuples, `stem` a config.

    Raises ValueError that names the field if one is unknown (with the nearest), missing, of a wrong type or value.
    """
    family = values.get("family")
    if family == "vit":
        return _read(ViTConfig, values, "")
    if family == "resnet":
        return _read(ResNetConfig, values, "")
    raise ValueError(f"model config: family must be 'vit' or 'resnet', not {family!r}")


def at_resolution(config: Config, resolution: int) -> Config:
    """The same network for square images of another side in pixels. Raises ValueError if its patches do not fit."""
    if isinstance(config, ViTConfig) and config.stem is not None:
        stem = dataclasses.replace(config.stem, resolution=resolution)
        return dataclasses.replace(config, resolution=resolution, stem=stem)
    return dataclasses.replace(config, resolution=resolution)


def resized(state: State, old: ModelConfig, new: ModelConfig, method: Method = "official") -> State:
    """The state dict with its position embeddings for the resolution of `new`; other tensors are the same objects.

    Learned tables go through `resize_pos_embed`, 2-D ones likewise along their own axis. For relative ones the paper
    has no rule; ours is `_resize_offsets`, whatever the method. Raises ValueError if the configs place positions
    differently.
    """
    if not isinstance(old, ViTConfig) or not isinstance(new, ViTConfig):
        return dict(state)
    for field in ("position", "position_at", "pooling"):
        if getattr(old, field) != getattr(new, field):
            raise ValueError(
                f"cannot resize positions between {field} {getattr(old, field)!r} and {getattr(new, field)!r}"
            )
    if old.grid == new.grid:
        return dict(state)
    return {name: _resized_tensor(name, tensor, old, new, method) for name, tensor in state.items()}


def _resized_tensor(name: str, tensor: Tensor, old: ViTConfig, new: ViTConfig, method: Method) -> Tensor:
    if name == "pos_embed":
        return resize_pos_embed(tensor, new.grid, num_prefix_tokens=new.num_prefix_tokens, method=method)
    if name in ("pos_embed_x", "pos_embed_y"):
        row = (1, old.grid)
        return resize_pos_embed(tensor, (1, new.grid), num_prefix_tokens=0, source=row, method=method)
    if name == "relative" or name.endswith(".attn.relative"):
        return _resize_offsets(tensor, old.grid, new.grid, new.num_prefix_tokens)
    return tensor


def _resize_offsets(table: Tensor, old: int, new: int, num_prefix_tokens: int) -> Tensor:
    """[2N-1, C] -> [2N'-1, C], one embedding per offset p_q - p_k of positions in raster order.

    An offset is read as whole rows and at most half a row of columns; both shrink as the grid's side does (corners
    aligned, as the authors resize learned tables) and the old table is read between its four nearest offsets.
    Interpolating over the offsets themselves would turn "one row down" into "half a row to the right".
    """
    tokens = new**2 + num_prefix_tokens
    offsets = torch.arange(1 - tokens, tokens, dtype=torch.float64, device=table.device)
    scale = (old - 1) / (new - 1) if new > 1 else 0.0
    rows = (offsets / new).round()
    columns = (offsets - rows * new) * scale
    rows = rows * scale
    last = table.shape[0] // 2
    resized = torch.zeros(len(offsets), table.shape[1], dtype=torch.float64, device=table.device)
    for row, row_weight in _between(rows):
        for column, column_weight in _between(columns):
            index = (row * old + column).long().clamp(-last, last) + last
            resized += (row_weight * column_weight)[:, None] * table[index].double()
    return resized.to(table.dtype)


def _between(position: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The whole numbers on both sides of each position, and their weights."""
    low = position.floor()
    return [(low, 1 - (position - low)), (low + 1, position - low)]


def _read(kind: type[Config], values: Mapping[str, Any], where: str) -> Config:
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.0)[0]
            raise ValueError(f"model config: unknown field {where + str(name)!r}; the nearest is {near!r}")
    missing = [where + name for name in fields if name not in values]
    if missing:
        raise ValueError(f"model config: {', '.join(missing)} missing")
    return kind(**{name: _typed(hints[name], values[name], where + name) for name in fields})


def _typed(hint: Any, value: Any, where: str) -> Any:
    """The value as the field's type has it; JSON knows neither tuples nor dataclasses."""
    whole = type(value) is int
    if (hint is int and whole) or (hint is bool and isinstance(value, bool)):
        return value
    if hint is float and (whole or isinstance(value, float)):
        return float(value)
    if typing.get_origin(hint) is Literal and value in typing.get_args(hint):
        return value
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        items = tuple(typing.cast(Sequence[Any], value))
        if all(type(item) is int for item in items):
            return items
    if typing.get_origin(hint) is types.UnionType and (value is None or isinstance(value, Mapping)):
        return None if value is None else _read(ResNetConfig, typing.cast(Mapping[str, Any], value), f"{where}.")
    raise ValueError(f"model config: {where} must be {_described(hint)}, not {value!r}")


def _described(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return "a list of whole numbers"
    if typing.get_origin(hint) is types.UnionType:
        return "null or the config of a ResNet"
    return {int: "a whole number", float: "a number", bool: "true or false"}[hint]
