"""The Vision Transformer of arXiv 2010.11929 and its hybrids, with timm's state-dict names.

Shapes: B batch, R resolution, N tokens, D width, G grid side, K classes.
"""

from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from vit.models.config import ViTConfig
from vit.models.encoder import Block
from vit.models.initialisation import constant_, lecun_normal_
from vit.models.patch_embed import HybridEmbed, PatchEmbed
from vit.models.pooling import AttentionPool
from vit.models.position import POSITION_STD, position_shapes, sincos2d, table_2d

__all__ = ["ViT", "ViTConfig", "initialise"]

POSITION_NAMES = ("pos_embed", "pos_embed_x", "pos_embed_y", "pos_embed_cls", "relative")


class ViT(nn.Module):
    """Images B 3 R R, scaled to [-1, 1], to logits B K; to features B D if num_classes is 0.

    Raises ValueError if the images are not R x R.
    """

    cls_token: nn.Parameter | None
    pos_embed: Tensor | None
    pos_embed_x: nn.Parameter | None
    pos_embed_y: nn.Parameter | None
    pos_embed_cls: nn.Parameter | None
    relative: nn.Parameter | None

    def __init__(self, config: ViTConfig, num_classes: int, *, head_bias: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.grad_checkpointing = False
        self.stochastic_depth = 0.0
        width = config.width
        self.patch_embed = PatchEmbed(config) if config.stem is None else HybridEmbed(config, config.stem)
        has_class_token = config.num_prefix_tokens > 0
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if has_class_token else None
        self._make_positions()
        self.pos_drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attn_pool = AttentionPool(config) if config.pooling == "map" else None
        self.pre_logits = nn.Sequential()
        if config.representation:
            self.pre_logits.add_module("fc", nn.Linear(width, width))
            self.pre_logits.add_module("act", nn.Tanh())
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        initialise(self, head_bias)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Keep only each block's input for the backward pass and compute the rest again: a third more work."""
        self.grad_checkpointing = enable
        if isinstance(self.patch_embed, HybridEmbed):
            self.patch_embed.set_grad_checkpointing(enable)

    def set_stochastic_depth(self, rate: float) -> None:
        """In training, let images pass by the branches of block i of L with probability rate·i/(L-1) (AugReg §3)."""
        self.stochastic_depth = rate

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: B D."""
        return self.pool(self.encode(self.patches(images)))

    def patches(self, images: Tensor) -> Tensor:
        """Patch embeddings in raster order, without class token and positions: B G² D."""
        if images.shape[-2:] != (self.config.resolution, self.config.resolution):
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]} do not fit a network of resolution "
                f"{self.config.resolution}; resize them, or load the network at their resolution"
            )
        return self.patch_embed(images)

    def encode(self, patches: Tensor) -> Tensor:
        """Patch embeddings B G² D -> the encoder's output after its last LayerNorm, class token first: B N D."""
        x = (
            patches
            if self.cls_token is None
            else torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], 1)
        )
        tables = self.position_tables()
        x = self.pos_drop(x if tables is None else x + tables[0])
        kept = self._kept(x)
        for layer, block in enumerate(self.blocks):
            if layer and tables is not None and self.config.position_at != "stem":
                x = x + tables[layer % len(tables)]
            x = self._through(block, x, None if kept is None else kept[layer])
        return self.norm(x)

    def pool(self, tokens: Tensor) -> Tensor:
        """The encoder's output B N D -> one vector per image, through the representation layer if any: B D."""
        if self.attn_pool is not None:
            return self.pre_logits(self.attn_pool(tokens))
        return self.pre_logits(tokens[:, 0] if self.cls_token is not None else tokens.mean(dim=1))

    def position_tables(self) -> Tensor | None:
        """What is added to the tokens, [1 or depth, N, D]; None if nothing is (none, relative)."""
        if self.pos_embed_x is not None and self.pos_embed_y is not None:
            return table_2d(self.pos_embed_x, self.pos_embed_y, self.pos_embed_cls)
        return self.pos_embed

    def _kept(self, x: Tensor) -> Tensor | None:
        """Stochastic depth: what branches are multiplied by, [depth, 2, B, 1, 1]: zero for some images, and for others
        what keeps the mean (Huang et al. 2016; timm). Drawn for all blocks at once: to the compiler they are alike.
        """
        if not self.stochastic_depth or not self.training:
            return None
        depth = len(self.blocks)
        keep = 1 - torch.linspace(0, self.stochastic_depth, depth, device=x.device).view(depth, 1, 1, 1, 1)
        return torch.bernoulli(keep.expand(depth, 2, len(x), 1, 1)) / keep

    def _through(self, block: nn.Module, x: Tensor, kept: Tensor | None) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(block, x, self.relative, kept, use_reentrant=False)
        return block(x, self.relative, kept)

    def _make_positions(self) -> None:
        shapes = position_shapes(self.config)
        for name in POSITION_NAMES:
            self.register_parameter(name, nn.Parameter(torch.empty(shapes[name])) if name in shapes else None)
        if self.config.position == "sincos2d":
            del self.pos_embed
            device = torch.get_default_device()
            self.register_buffer("pos_embed", sincos2d(self.config).to(device), persistent=False)
            self.register_load_state_dict_post_hook(_compute_sincos2d)


@torch.no_grad()
def initialise(model: ViT, head_bias: float) -> None:
    """The authors' initial values (vision_transformer models_vit.py; paper.md 1.3), also of a model made with to_empty.

    Head weights are zero; its bias is -10 at pre-training with the sigmoid loss, 0 at transfer. Nothing happens to a
    model on the meta device.
    """
    if model.norm.weight.is_meta:  # the first random number there costs four seconds of imports
        return
    model.patch_embed.reset_parameters()
    if model.cls_token is not None:
        model.cls_token.zero_()
    for name in position_shapes(model.config):
        model.get_parameter(name).normal_(std=POSITION_STD)
    if model.config.position == "sincos2d":
        _compute_sincos2d(model)
    for block in model.blocks.children():
        assert isinstance(block, Block)
        block.reset_parameters()
    model.norm.reset_parameters()
    if model.attn_pool is not None:
        model.attn_pool.reset_parameters()
    for layer in model.pre_logits.children():
        if isinstance(layer, nn.Linear):
            lecun_normal_(layer)
    if isinstance(model.head, nn.Linear):
        constant_(model.head, bias=head_bias)


def _compute_sincos2d(model: nn.Module, _: Any = None) -> None:
    """No file holds this table, so it is made wherever the weights now are (a meta model may just have got some)."""
    assert isinstance(model, ViT)
    model.pos_embed = sincos2d(model.config).to(model.norm.weight)
