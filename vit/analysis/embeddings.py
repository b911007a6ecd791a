"""What the first layer has learned: filters of the patch embedding, likeness of position embeddings (paper Fig. 7)."""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from vit.models.patch_embed import PatchEmbed
from vit.models.vit import ViT


@torch.inference_mode()
def filter_components(model: ViT, number: int = 28) -> tuple[Tensor, Tensor]:
    """The first principal components of the D filters, [k, P, P, 3], and the share of variance of each, [k].

    Filters are centred; a component's sign is that of its largest value. k is at most `number` and what there is.
    Raises ValueError for a hybrid, whose filters do not see pixels.
    """
    if not isinstance(model.patch_embed, PatchEmbed):
        raise ValueError("a hybrid's patch embedding sees features, not pixels: it has no filters to show")
    weight = model.patch_embed.proj.weight.detach().double()
    filters = weight.permute(0, 2, 3, 1).flatten(1)
    centred = filters - filters.mean(dim=0)
    _, values, components = cast(tuple[Tensor, Tensor, Tensor], torch.linalg.svd(centred, full_matrices=False))
    number = min(number, len(values))
    components = components[:number]
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    shown = (components * largest.sign()).reshape(number, *weight.shape[2:], 3)
    return shown, values[:number].square() / values.square().sum().clamp(min=1e-300)


@torch.inference_mode()
def position_similarity(model: ViT) -> Tensor:
    """Cosine of each patch's position embedding with all others', [G, G, G, G]; the class token is left out.

    Raises ValueError where positions are not added to the tokens.
    """
    tables = model.position_tables()
    if tables is None:
        raise ValueError(f"positions of kind {model.config.position!r} are not added to the tokens: nothing to compare")
    table = F.normalize(tables[0, model.config.num_prefix_tokens :].double(), dim=1)
    grid = model.config.grid
    return (table @ table.T).reshape(grid, grid, grid, grid)
