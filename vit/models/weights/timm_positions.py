"""Position tables of timm's state dicts: whose rows they are, and how one that is not square becomes so."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vit.models.position import resize_pos_embed
from vit.models.weights.checkpoint import BadCheckpoint

RESOLUTION = 224  # pixels, where there is no table


def has_class_token(tensors: Mapping[str, Tensor], grid: tuple[int, int]) -> bool:
    """Whether there is one, or a position for one: then it is missing."""
    table = tensors.get("pos_embed")
    if (
        "cls_token" in tensors
        or any(name.startswith("attn_pool.") for name in tensors)
        or table is None
        or table.ndim != 3
    ):
        return "cls_token" in tensors
    patches = table.shape[1] - 1
    return patches == math.prod(grid) or (patches > 0 and grid[0] == grid[1] and math.isqrt(patches) ** 2 == patches)


def square(
    state: dict[str, Tensor],
    image_size: tuple[int, int],
    pixels: int,
    has_class_token: bool,
    settings: dict[str, Any],
    notes: list[str],
) -> int:
    """Pixels of one side; takes resolution and grid out of settings, and makes a table square that is not."""
    wanted: int = settings.pop("resolution", 0)
    grid: tuple[int, int] = settings.pop("grid", (-(-image_size[0] // pixels), -(-image_size[1] // pixels)))
    if "pos_embed" not in state or state["pos_embed"].ndim != 3:
        told = image_size[0] if image_size[0] == image_size[1] else 0
        return wanted or told or max(round(RESOLUTION / pixels), 1) * pixels
    _give_class_token_a_position(state, grid[0] * grid[1], notes)
    prefix = int(has_class_token)
    rows, columns = _grid(state["pos_embed"].shape[1] - prefix, grid)
    if rows == columns:
        exact = image_size[0] == image_size[1] and -(-image_size[0] // pixels) == rows  # a hybrid's grid rounds up
        return wanted or (image_size[0] if exact else rows * pixels)
    side = -(-wanted // pixels) or max(rows, columns)
    state["pos_embed"] = resize_pos_embed(
        state["pos_embed"], side, num_prefix_tokens=prefix, source=(rows, columns), method="timm"
    )
    notes.append(f"position embeddings of {rows} x {columns} patches were resized to {side} x {side}, timm's way")
    return wanted or side * pixels


def _grid(patches: int, told: tuple[int, int]) -> tuple[int, int]:
    rows, columns = told
    if rows == columns:  # older descriptions tell the size of the entry point, not of the weights
        rows = columns = math.isqrt(patches)
    if rows * columns != patches:
        raise BadCheckpoint(
            f"pos_embed is for {patches} patches, no grid of {rows} x {columns}; "
            f"pass grid=(rows, columns) if the images were not square"
        )
    return rows, columns


def _give_class_token_a_position(state: dict[str, Tensor], patches: int, notes: list[str]) -> None:
    """timm's no_embed_class: a table for patches only. Zeros before it are the same network."""
    table = state["pos_embed"]
    count = table.shape[1]
    patches_only = count == patches or (count != patches + 1 and math.isqrt(count) ** 2 == count)
    if "cls_token" in state and patches_only:
        state["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
        notes.append("the class token had no position embedding and was given zeros, which is the same network")
