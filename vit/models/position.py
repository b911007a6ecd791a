"""Position embeddings at another resolution (paper §3.2)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_pos_embed(pos_embed: Tensor, grid: int, *, num_prefix_tokens: int) -> Tensor:
    """Resample [1, N, D] to a grid x grid layout; prefix tokens (the class token) are kept as they are.

    Bilinear with corners aligned, which equals the authors' scipy.ndimage.zoom of order 1
    (vision_transformer checkpoint.py, interpolate_posembed). The same grid gives the same values.
    Raises ValueError if the source grid is not square.
    """
    prefix, patches = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    old = math.isqrt(patches.shape[1])
    if old * old != patches.shape[1]:
        raise ValueError(f"{patches.shape[1]} position embeddings do not form a square grid")
    if old == grid:
        return pos_embed
    image = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=(grid, grid), mode="bilinear", align_corners=True)
    return torch.cat([prefix, image.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)], dim=1)
