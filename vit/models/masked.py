"""Masked patch prediction: learning without labels from patches that were hidden (paper §4.6 and B.1.2).

Half of the patch embeddings are corrupted: most become a learned mask embedding, some that of another patch, some stay.
From the encoder's output at a corrupted patch, what was there is predicted. The paper leaves open, and we chose:
- the number of corrupted patches is exact per image; each draws its fate by itself, as in BERT;
- the "other patch" is one of the same image, so an example does not depend on who shares its batch;
- losses are means over corrupted patches and, where there are several, over cells or values;
- the mask embedding starts normal with std 0.02, the prediction layer at zero like every head of the authors;
- the class token, if any, takes part and predicts nothing.

Shapes: B batch, N patches, K corrupted patches, D width, P side of a patch in pixels.
"""

import dataclasses
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vit.data.order import hash64
from vit.models.config import ViTConfig
from vit.models.initialisation import constant_
from vit.models.position import POSITION_STD
from vit.models.vit import ViT
from vit.typing import Ints

Target: TypeAlias = Literal["mean_colour", "downsized", "pixels"]
LEVELS = 8  # 3 bits per channel
COLOURS = LEVELS**3
CELLS = 4  # a patch is downsized to CELLS x CELLS
STREAM = 0x6D6173  # keeps these draws apart from other uses of the same seed, epoch and id


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """What is hidden and what is asked; the paper's values in brackets."""

    target: Target  # mean colour, 512 classes (reported); 4 x 4 downsized patch, 16 x 512; L2 on the pixels
    corrupted: float  # share of the patches [0.5]
    masked: float  # share of those that become the mask embedding [0.8]
    replaced: float  # share of those that become another patch's embedding [0.1]; the rest stay

    def __post_init__(self) -> None:
        if not 0 < self.corrupted <= 1:
            raise ValueError(f"corrupted {self.corrupted} must be above 0 and at most 1")
        if min(self.masked, self.replaced) < 0 or self.masked + self.replaced > 1:
            raise ValueError(f"masked {self.masked} and replaced {self.replaced} must be shares that sum to at most 1")


class Corruption(NamedTuple):
    """What happens to the patches of one batch."""

    indices: Tensor  # [B, K] int64, the corrupted patches
    source: Tensor  # [B, N] int64, the patch whose embedding stands here: itself unless replaced
    masked: Tensor  # [B, N] bool, where the mask embedding stands


def draws_from_ids(ids: Ints, epochs: Ints, *, seed: int, num_patches: int) -> Tensor:
    """Uniform numbers in [0, 1), float64 [3, B, N], that depend on seed, epoch and example alone."""
    per_image = hash64(STREAM, seed, epochs, ids)[None, :, None]
    hashes = hash64(per_image, np.arange(3)[:, None, None], np.arange(num_patches))
    return torch.from_numpy((hashes >> np.uint64(11)) * 2.0**-53)


def draws_from_generator(generator: torch.Generator, *, batch_size: int, num_patches: int) -> Tensor:
    """The same from a random generator, on its device."""
    shape = (3, batch_size, num_patches)
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)


def corruption(draws: Tensor, config: MaskingConfig) -> Corruption:
    """Turn uniform numbers [3, B, N] (which patches, what with, which other patch) into a plan."""
    which, fate, elsewhere = draws.unbind()
    patches = draws.shape[2]
    count = max(round(patches * config.corrupted), 1)
    order = which.argsort(dim=1, stable=True)
    corrupted = order.argsort(dim=1) < count
    replaced = corrupted & (fate >= config.masked) & (fate < config.masked + config.replaced)
    here = torch.arange(patches, device=draws.device)
    steps = 1 + (elsewhere * (patches - 1)).long().clamp(max=patches - 2)
    source = torch.where(replaced, (here + steps) % patches, here)
    return Corruption(order[:, :count], source, corrupted & (fate < config.masked))


class MaskedPatchPrediction(nn.Module):
    """A network's body with a mask embedding and a prediction layer: images B 3 R R and a plan to a scalar loss.

    `vit.state_dict()` is the trained body. Raises ValueError if `vit` has layers that this task would not train, or if
    its patches do not tile the image.
    """

    def __init__(self, vit: ViT, config: MaskingConfig) -> None:
        super().__init__()
        _check_body(vit)
        self.vit = vit
        self.config = config
        outputs = {"mean_colour": COLOURS, "downsized": CELLS**2 * COLOURS, "pixels": 3 * vit.config.patch_pixels**2}
        self.mask_token = nn.Parameter(torch.empty(1, 1, vit.config.width))
        self.head = nn.Linear(vit.config.width, outputs[config.target])
        nn.init.normal_(self.mask_token, std=POSITION_STD)
        constant_(self.head, bias=0.0)

    def forward(self, images: Tensor, plan: Corruption) -> Tensor:
        predictions, targets = self.predict(images, plan), patch_targets(images, self.vit.config, self.config.target)
        targets = _take(targets, plan.indices)
        if self.config.target == "pixels":
            return F.mse_loss(predictions.float(), targets)
        return F.cross_entropy(rearrange(predictions, "b k (t c) -> (b k t) c", c=COLOURS), targets.flatten())

    def predict(self, images: Tensor, plan: Corruption) -> Tensor:
        """Outputs for the corrupted patches, B K 512, B K 16·512 (cell by cell) or B K P·P·3."""
        patches = _take(self.vit.patches(images), plan.source)
        patches = torch.where(plan.masked[..., None], self.mask_token.to(patches.dtype), patches)
        encoded = self.vit.encode(patches)[:, self.vit.config.num_prefix_tokens :]
        return self.head(_take(encoded, plan.indices))


def patch_targets(images: Tensor, config: ViTConfig, target: Target) -> Tensor:
    """What there is to predict of images B 3 R R in [-1, 1], for every patch in raster order.

    mean_colour: class of the mean colour, int64 B N 1. downsized: class of each of 4 x 4 areas in raster order, B N 16.
    pixels: B N P·P·3, float, row, column, channel. A class is red·64 + green·8 + blue of 3-bit levels.
    """
    side = config.patch_pixels
    pixels = rearrange(images.float(), "b c (h p) (w q) -> b (h w) c p q", p=side, q=side)
    if target == "pixels":
        return rearrange(pixels, "b n c p q -> b n (p q c)")
    cells = F.adaptive_avg_pool2d(pixels.flatten(0, 1), 1 if target == "mean_colour" else CELLS)
    levels = ((cells + 1) * (LEVELS / 2)).long().clamp(0, LEVELS - 1)
    classes = (levels[:, 0] * LEVELS + levels[:, 1]) * LEVELS + levels[:, 2]
    return classes.reshape(*pixels.shape[:2], -1)


def _take(values: Tensor, indices: Tensor) -> Tensor:
    """Rows of B N X by B K indices: B K X."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[2]))


def _check_body(vit: ViT) -> None:
    config = vit.config
    if vit.num_classes or config.representation or config.pooling == "map":
        raise ValueError(
            "masked patch prediction trains neither head, representation layer nor attention pooling; "
            "make the network with num_classes 0, representation False and pooling 'tok' or 'gap'"
        )
    if config.grid * config.patch_pixels != config.resolution:
        raise ValueError(
            f"{config.grid} patches of {config.patch_pixels} pixels do not tile resolution {config.resolution}; "
            "choose a resolution that the stem's stride divides"
        )
