"""Where a Vision Transformer looks: attention distance (paper Fig. 7, Fig. 11) and attention rollout (Fig. 6, 14).

Shapes: B images, H heads, N tokens (the class token first, if there is one), G x G patches.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vit.models.encoder import Attention, Block
from vit.models.position import relative_logits
from vit.models.vit import ViT


@torch.inference_mode()
def attention(model: ViT, images: Tensor) -> list[Tensor]:
    """Attention probabilities of every block for images B 3 R R, float32 [B, H, N, N] each; rows sum to 1."""
    found: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, Tensor | None], _: Tensor) -> None:
        assert isinstance(module, Attention)
        found.append(_probabilities(module, *arguments))

    hooks = [block.attn.register_forward_hook(keep) for block in model.blocks if isinstance(block, Block)]
    try:
        model.eval()
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _probabilities(module: Attention, x: Tensor, relative: Tensor | None = None) -> Tensor:
    q, k, _ = (rearrange(third, "b n (h d) -> b h n d", h=module.num_heads) for third in module.qkv(x).chunk(3, dim=2))
    logits = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    table = relative if module.relative is None else module.relative
    return (logits if table is None else logits + relative_logits(q, table)).softmax(dim=-1)


def attention_distance(probabilities: Tensor, *, patch_pixels: int, num_prefix_tokens: int = 0) -> Tensor:
    """Mean distance in pixels from a patch to what it attends to, [H], over the B images and all patches.

    Distances are those of patch centres, weighted by attention (paper App. D.7). The class token's row and column are
    left out and the rest is not scaled up, as in the public port (keras-io, examples/vision/probing_vits.py); the
    authors' own treatment is not public.
    """
    patches = probabilities[..., num_prefix_tokens:, num_prefix_tokens:]
    side = round(patches.shape[-1] ** 0.5)
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), dim=-1).reshape(-1, 2)
    distance = torch.cdist(place.double(), place.double()) * patch_pixels
    return (patches.double() * distance.to(patches.device)).sum(dim=-1).mean(dim=(0, 2))


def rollout(probabilities: Sequence[Tensor], *, num_prefix_tokens: int = 0) -> Tensor:
    """How much of each patch reaches the output, [B, G, G] (Abnar & Zuidema, arXiv 2005.00928; paper App. D.8).

    Heads are averaged, the identity stands for the residual branch, rows are scaled to 1, and the layers' matrices are
    multiplied, first to last. Read off at the class token, or averaged over all tokens where there is none.
    """
    tokens = probabilities[0].shape[-1]
    identity = torch.eye(tokens, dtype=torch.float64, device=probabilities[0].device)
    joint = identity.expand(len(probabilities[0]), -1, -1)
    for layer in probabilities:
        mixed = layer.double().mean(dim=1) + identity
        joint = mixed / mixed.sum(dim=-1, keepdim=True) @ joint
    seen = joint[:, 0, num_prefix_tokens:] if num_prefix_tokens else joint.mean(dim=1)
    side = round(seen.shape[-1] ** 0.5)
    return seen.reshape(-1, side, side)


def as_mask(seen: Tensor, resolution: int) -> Tensor:
    """Rollout maps [B, G, G] as masks [B, R, R] between 0 and 1, to lay over the images."""
    large = F.interpolate(seen[:, None], size=(resolution, resolution), mode="bicubic", align_corners=False)[:, 0]
    low, high = large.amin(dim=(1, 2), keepdim=True), large.amax(dim=(1, 2), keepdim=True)
    return (large - low) / (high - low).clamp(min=1e-12)
