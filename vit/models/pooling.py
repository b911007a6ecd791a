"""Attention pooling: one learned query looks at all tokens (big_vision's MAPHead, timm's AttentionPoolLatent)."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vit.models.config import ViTConfig
from vit.models.encoder import Mlp
from vit.models.initialisation import xavier_uniform_


class AttentionPool(nn.Module):
    """B N D -> B D: attention with the latent as its only query, then an MLP behind a LayerNorm with a skip.

    Names and shapes are timm's: latent [1, 1, D], q, kv, proj, norm, mlp. No dropout, as in big_vision.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.latent = nn.Parameter(torch.empty(1, 1, config.width))
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config.width, config.mlp_dim, config.gelu, dropout=0.0)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Xavier everywhere, per q, k and v; the latent is to jax a matrix of one row."""
        nn.init.xavier_uniform_(self.latent[0])
        xavier_uniform_(self.q)
        xavier_uniform_(self.kv, matrices=2)
        xavier_uniform_(self.proj)
        self.norm.reset_parameters()
        self.mlp.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        q = rearrange(self.q(self.latent), "one n (h d) -> one h n d", h=self.num_heads)
        k, v = (rearrange(half, "b n (h d) -> b h n d", h=self.num_heads) for half in self.kv(x).chunk(2, dim=2))
        x = F.scaled_dot_product_attention(q.expand(x.shape[0], -1, -1, -1), k, v)
        x = self.proj(rearrange(x, "b h n d -> b n (h d)"))
        return (x + self.mlp(self.norm(x)))[:, 0]
