"""The transformer encoder's block: self-attention and MLP, each behind a LayerNorm (eq. 2 and 3).

Shapes: B batch, N tokens, D width, H heads, d = D / H head width, M mlp_dim.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vit.models.config import Gelu, ViTConfig
from vit.models.initialisation import xavier_uniform_
from vit.models.position import POSITION_STD, relative_logits

MLP_BIAS_STD = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention (App. A): B N D -> B N D.

    With relative positions it holds `relative` [2N-1, d], or is handed the table that all layers share.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.relative: nn.Parameter | None = None
        if config.position == "relative" and config.position_at == "every":
            self.relative = nn.Parameter(torch.empty(2 * config.num_tokens - 1, config.width // config.num_heads))

    def reset_parameters(self) -> None:
        """The authors' initial values (paper.md 1.3); offsets as other positions, which the paper leaves open."""
        xavier_uniform_(self.qkv, matrices=3)
        xavier_uniform_(self.proj)
        if self.relative is not None:
            nn.init.normal_(self.relative, std=POSITION_STD)

    def forward(self, x: Tensor, relative: Tensor | None = None) -> Tensor:
        # Thirds, not an axis of three: their gradients are then put side by side at once instead of stacked and moved.
        q, k, v = (rearrange(third, "b n (h d) -> b h n d", h=self.num_heads) for third in self.qkv(x).chunk(3, dim=2))
        table = relative if self.relative is None else self.relative
        logits = None if table is None else relative_logits(q, table)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=logits)
        return self.drop(self.proj(rearrange(x, "b h n d -> b n (h d)")))


class Mlp(nn.Module):
    """Dense, GELU, dense, with dropout after the GELU and at the end: B N D -> B N D."""

    def __init__(self, width: int, hidden: int, gelu: Gelu, dropout: float) -> None:
        super().__init__()
        self.approximate = "tanh" if gelu == "tanh" else "none"
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """The authors' initial values (paper.md 1.3)."""
        for layer in (self.fc1, self.fc2):
            xavier_uniform_(layer, bias_std=MLP_BIAS_STD)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x), approximate=self.approximate))))


class Block(nn.Module):
    """Pre-norm encoder block (eq. 2 and 3): B N D -> B N D.

    `kept` [2, B, 1, 1] is what each image's two branches are multiplied by: ViT.set_stochastic_depth.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config.width, config.mlp_dim, config.gelu, config.dropout)

    def reset_parameters(self) -> None:
        """LayerNorms to one and zero, the rest as the authors have it."""
        for module in (self.norm1, self.attn, self.norm2, self.mlp):
            module.reset_parameters()

    def forward(self, x: Tensor, relative: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        branch = self.attn(self.norm1(x), relative)
        x = x + (branch if kept is None else branch * kept[0])
        branch = self.mlp(self.norm2(x))
        return x + (branch if kept is None else branch * kept[1])
