"""Where a patch lies: position embeddings of every kind (paper App. D.4) and their change of resolution (§3.2).

The class token counts as a position of its own, before the patches in raster order.
The paper leaves open, and we chose:
- "every" and "shared" add to the residual stream at each block's input; dropout follows the first addition only.
- 2-D: the first half of the width is the column (x), the second the row (y); the class token has its own embedding.
- relative: one table of the 2N-1 offsets p_q - p_k in raster order, shared by all heads; the same scale 1/sqrt(d) as
  content logits; initial values normal with std 0.02 like every other table.

Shapes: L 1 or depth, N tokens, D width, d width of one head, G grid side.
"""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vit.models.config import ViTConfig

POSITION_STD = 0.02  # initial values of every learned table, as the authors have it
TEMPERATURE = 10_000.0  # of the sines, big_vision's posemb_sincos_2d

Method: TypeAlias = Literal["official", "timm", "huggingface"]


def position_shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the position parameters that the whole network holds, by state-dict name."""
    layers = config.depth if config.position_at == "every" else 1
    if config.position == "learned":
        return {"pos_embed": (layers, config.num_tokens, config.width)}
    if config.position == "2d":
        axis = (layers, config.grid, config.width // 2)
        cls = {"pos_embed_cls": (layers, 1, config.width)} if config.num_prefix_tokens else {}
        return {"pos_embed_x": axis, "pos_embed_y": axis, **cls}
    if config.position == "relative" and config.position_at == "shared":
        return {"relative": (2 * config.num_tokens - 1, config.width // config.num_heads)}
    return {}


def table_2d(x: Tensor, y: Tensor, cls: Tensor | None) -> Tensor:
    """Tables of columns and rows [L, G, D/2] and, if any, of the class token [L, 1, D] -> [L, N, D]."""
    layers, grid, half = x.shape
    columns, rows = x[:, None].expand(layers, grid, grid, half), y[:, :, None].expand(layers, grid, grid, half)
    patches = torch.cat([columns, rows], dim=-1).flatten(1, 2)
    return patches if cls is None else torch.cat([cls, patches], dim=1)


def sincos2d(config: ViTConfig) -> Tensor:
    """Fixed sines and cosines [1, N, D] (big_vision, models/vit.py; "Better plain ViT baselines"), float32, on the CPU.

    Quarters of the width: sin x, cos x, sin y, cos y, frequencies falling from 1 to 1 / 10000. The class token gets
    zeros: there it is prepended after the addition.
    """
    quarter = config.width // 4
    frequencies = TEMPERATURE ** -(np.arange(quarter) / (quarter - 1))
    angles = np.arange(config.grid)[:, None] * frequencies
    waves = torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[None].astype(np.float32))
    patches = table_2d(waves, waves, None)
    return F.pad(patches, (0, 0, config.num_prefix_tokens, 0))


def relative_logits(q: Tensor, table: Tensor) -> Tensor:
    """Attention logits of content queries against offset embeddings, for SDPA's attn_mask.

    q [B, H, N, d] and table [2N-1, d], whose row N-1+o belongs to offset o = p_q - p_k -> [B, H, N, N] where
    [.., i, j] = q_i · table[N-1 + i-j] / sqrt(d).
    """
    tokens, width = q.shape[-2:]
    # Row i needs offsets i-0 … i-(N-1): a window that moves one to the left per row once the table is flipped. With
    # 2N columns, rows read as 2N-1 wide move by just that, so every step is a view.
    every_offset = F.linear(q * width**-0.5, F.pad(table.flip(0), (0, 0, 0, 1)))
    moved = every_offset.flatten(-2)[..., tokens - 1 : -1]
    return moved.reshape(*q.shape[:-1], 2 * tokens - 1)[..., :tokens]


def resize_pos_embed(
    pos_embed: Tensor,
    grid: int | tuple[int, int],
    *,
    num_prefix_tokens: int,
    source: tuple[int, int] | None = None,
    method: Method = "official",
) -> Tensor:
    """Resample [L, N, D] to another grid (rows, columns): [L, N', D]; prefix tokens are kept as they are.

    `source` is the present grid; without it, it must be square. A table of one axis is a grid of one row. Methods:
    - official: bilinear, corners aligned, in float64; equals the authors' scipy.ndimage.zoom of order 1
      (vision_transformer checkpoint.py, interpolate_posembed).
    - timm: bicubic with antialiasing, in float32 (layers/pos_embed.py, resample_abs_pos_embed).
    - huggingface: bicubic without antialiasing (transformers, ViTEmbeddings.interpolate_pos_encoding).
    The same grid gives the same tensor. Raises ValueError if `source` does not have as many cells as there are patches.
    """
    prefix, patches = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    rows, columns = _grid_of(patches.shape[1]) if source is None else source
    if rows * columns != patches.shape[1]:
        raise ValueError(
            f"{patches.shape[1]} position embeddings, {num_prefix_tokens} prefix tokens left out, "
            f"are not a grid of {rows} x {columns}"
        )
    target = (grid, grid) if isinstance(grid, int) else grid
    if target == (rows, columns):
        return pos_embed
    image = patches.reshape(patches.shape[0], rows, columns, -1).permute(0, 3, 1, 2)
    resized = _RESAMPLERS[method](image, target).to(patches.dtype)
    return torch.cat([prefix, resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _grid_of(patches: int) -> tuple[int, int]:
    side = math.isqrt(patches)
    if side * side != patches:
        raise ValueError(f"{patches} position embeddings do not form a square grid; say which grid with source=")
    return side, side


def _official(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image.double(), size=size, mode="bilinear", align_corners=True)


def _timm(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image.float(), size=size, mode="bicubic", antialias=True)


def _huggingface(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size=size, mode="bicubic", align_corners=False)


_RESAMPLERS: dict[Method, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "official": _official,
    "timm": _timm,
    "huggingface": _huggingface,
}
