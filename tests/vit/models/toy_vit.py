"""Networks of the zoo's tests: tiny ones to compute with, those of the paper to count."""

import dataclasses
from typing import Any

import torch

from vit.models.resnet import ResNetConfig
from vit.models.vit import ViT, ViTConfig

TINY = ViTConfig(
    family="vit",
    resolution=32,
    patch_size=8,
    stem=None,
    width=32,
    depth=3,
    num_heads=4,
    mlp_dim=64,
    pooling="tok",
    representation=False,
    position="learned",
    position_at="stem",
    gelu="tanh",
    layer_norm_eps=1e-6,
    dropout=0.0,
)
B16 = dataclasses.replace(TINY, resolution=224, patch_size=16, width=768, depth=12, num_heads=12, mlp_dim=3072)
H14 = dataclasses.replace(B16, patch_size=14, width=1280, depth=32, num_heads=16, mlp_dim=5120)

STEM = ResNetConfig(
    family="resnet",
    resolution=32,
    layers=(1, 1),
    width_factor=1,
    flavour="v1",
    group_norm_eps=1e-6,
    standardize_eps=1e-5,
    standardize_eps_on="std",
)

R50_B16 = dataclasses.replace(B16, patch_size=1, stem=dataclasses.replace(STEM, resolution=224, layers=(3, 4, 9)))
R_TI16 = dataclasses.replace(
    B16,
    patch_size=8,
    stem=dataclasses.replace(STEM, resolution=224, layers=()),
    width=192,
    num_heads=3,
    mlp_dim=768,
)


def randomised(num_classes: int = 5, **fields: Any) -> ViT:
    """A tiny network in which no parameter is zero, so that every one of them matters."""
    torch.manual_seed(0)
    model = ViT(dataclasses.replace(TINY, **fields), num_classes)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()
