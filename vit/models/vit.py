"""The Vision Transformer of arXiv 2010.11929, with timm's state-dict names.

Shapes: B batch, N tokens, D width, H heads, P patch side, G grid side (resolution / P).
"""

import dataclasses
import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-6  # flax default, which the authors do not override


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes of one network; Table 1 of the paper lists B, L and H."""

    resolution: int  # pixels; images are square
    patch_size: int  # pixels
    width: int  # D
    depth: int  # blocks
    num_heads: int
    mlp_dim: int
    pooling: Literal["tok", "gap"]  # class token, or mean of the patch tokens (App. D.3)
    representation: bool  # tanh layer before the head: at pre-training only (§3.1)
    dropout: float  # after every dense layer except qkv, and after adding pos_embed (App. B.1)

    def __post_init__(self) -> None:
        _check_divides(self.resolution, self.patch_size)
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.depth < 1:
            raise ValueError(f"depth {self.depth} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must be at least 0 and below 1")

    @property
    def grid(self) -> int:
        return self.resolution // self.patch_size


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens: B 3 R R -> B N D (§3.1, eq. 1)."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return rearrange(self.proj(images), "b d h w -> b (h w) d")


class Attention(nn.Module):
    """Multi-head self-attention (App. A): B N D -> B N D."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.drop(self.proj(rearrange(x, "b h n d -> b n (h d)")))


class Mlp(nn.Module):
    """Dense, tanh-approximated GELU as the authors have it (jax.nn.gelu), dense: B N D -> B N D."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x), approximate="tanh"))))


class Block(nn.Module):
    """Pre-norm encoder block (eq. 2 and 3): B N D -> B N D."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attn = Attention(config.width, config.num_heads, config.dropout)
        self.norm2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(config.width, config.mlp_dim, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Images B 3 R R, scaled to [-1, 1], to logits B num_classes."""

    def __init__(self, config: ViTConfig, num_classes: int, *, head_bias: float = 0.0) -> None:
        super().__init__()
        self.config = config
        tokens = config.grid**2
        self.patch_embed = PatchEmbed(config.patch_size, config.width)
        if config.pooling == "tok":
            tokens += 1
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, config.width))
        self.pos_drop = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.pre_logits = nn.Linear(config.width, config.width) if config.representation else None
        self.head = nn.Linear(config.width, num_classes)
        initialise(self, head_bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: B D."""
        x = self.norm(self.blocks(self.embed(images)))
        x = x[:, 0] if self.config.pooling == "tok" else x.mean(dim=1)
        return x if self.pre_logits is None else torch.tanh(self.pre_logits(x))

    def embed(self, images: Tensor) -> Tensor:
        """Patch tokens, class token first, plus position embeddings: B N D."""
        x = self.patch_embed(images)
        if self.config.pooling == "tok":
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.pos_drop(x + self.pos_embed)


@torch.no_grad()
def initialise(model: ViT, head_bias: float) -> None:
    """The authors' initialisation (vision_transformer models_vit.py; bounds per q, k, v matrix as MUP found).

    Head weights are zero; its bias is -10 at pre-training with the sigmoid loss, 0 at transfer.
    """
    _lecun_normal(model.patch_embed.proj)
    model.pos_embed.normal_(std=0.02)
    for block in model.blocks.children():
        assert isinstance(block, Block)
        for matrix in block.attn.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(matrix)
        block.attn.qkv.bias.zero_()
        nn.init.xavier_uniform_(block.attn.proj.weight)
        block.attn.proj.bias.zero_()
        for layer in (block.mlp.fc1, block.mlp.fc2):
            nn.init.xavier_uniform_(layer.weight)
            layer.bias.normal_(std=1e-6)
    if model.pre_logits is not None:
        _lecun_normal(model.pre_logits)
    model.head.weight.zero_()
    model.head.bias.fill_(head_bias)


def _lecun_normal(layer: nn.Conv2d | nn.Linear) -> None:
    """Truncated normal with variance 1 / fan_in; jax divides by .8796 so that truncation keeps the variance."""
    std = 1 / math.sqrt(layer.weight[0].numel()) / 0.87962566103423978
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    assert layer.bias is not None
    layer.bias.zero_()


def _check_divides(resolution: int, patch_size: int) -> None:
    if patch_size < 1 or resolution % patch_size or resolution < patch_size:
        low = max(resolution // max(patch_size, 1), 1) * patch_size
        raise ValueError(
            f"resolution {resolution} is not a multiple of patch_size {patch_size}; "
            f"nearest are {low} and {low + patch_size}"
        )
