"""The authors' initial values (vision_transformer, models_vit.py), where PyTorch's own differ."""

import math

import torch
from torch import nn

# jax divides by the standard deviation of a normal truncated at two of its own, so that the variance stays.
TRUNCATED_STD = 0.87962566103423978


@torch.no_grad()
def lecun_normal_(layer: nn.Conv2d | nn.Linear) -> None:
    """Kernel: truncated normal with variance 1 / fan_in; bias: 0. Nothing on the meta device."""
    if layer.weight.is_meta:  # the first random number there costs four seconds of imports
        return
    std = 1 / math.sqrt(layer.weight[0].numel()) / TRUNCATED_STD
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
        layer.bias.zero_()


@torch.no_grad()
def xavier_uniform_(layer: nn.Linear, *, matrices: int = 1, bias_std: float = 0.0) -> None:
    """Each of the stacked matrices (q, k, v) by its own fans, not by those of the fused one; bias normal or 0."""
    for matrix in layer.weight.chunk(matrices):
        nn.init.xavier_uniform_(matrix)
    layer.bias.normal_(std=bias_std)


@torch.no_grad()
def constant_(layer: nn.Linear, *, bias: float) -> None:
    """Kernel 0, bias as given: every head of the paper."""
    layer.weight.zero_()
    layer.bias.fill_(bias)
