"""Images to patch tokens, in raster order: directly, or through a ResNet's feature map (§3.1).

Shapes: B batch, R resolution, D width, G grid side, C channels of the feature map.
"""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vit.models.config import ViTConfig
from vit.models.initialisation import lecun_normal_
from vit.models.resnet import ResNet, ResNetConfig, initialise


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens: B 3 R R -> B G² D (eq. 1)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, kernel_size=config.patch_size, stride=config.patch_size)

    def reset_parameters(self) -> None:
        """LeCun-normal kernel, zero bias."""
        lecun_normal_(self.proj)

    def forward(self, images: Tensor) -> Tensor:
        if not images.is_cuda:
            return rearrange(self.proj(images), "b d h w -> b (h w) d")
        # cuDNN convolves slower than one product of the same numbers: 1.04 of ViT-B/16's whole step on an H200.
        height, width = self.proj.kernel_size
        patches = rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=height, q=width)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class HybridEmbed(nn.Module):
    """Patches of a ResNet's feature map to tokens: B 3 R R -> B G² D. timm's names: backbone, proj.

    A ResNet without stages is its root block alone, whose names then stand directly under backbone, as in timm.
    """

    def __init__(self, config: ViTConfig, stem: ResNetConfig) -> None:
        super().__init__()
        resnet = ResNet(stem, 0)
        self.backbone = resnet if stem.layers else resnet.stem
        self.proj = nn.Conv2d(stem.num_features, config.width, kernel_size=config.patch_size, stride=config.patch_size)

    def reset_parameters(self) -> None:
        """LeCun-normal kernel, zero bias, and the ResNet's own initial values."""
        initialise(self.backbone, 0.0)
        lecun_normal_(self.proj)

    def set_grad_checkpointing(self, enable: bool) -> None:
        """The ResNet's units, too, keep only their input for the backward pass."""
        if isinstance(self.backbone, ResNet):
            self.backbone.set_grad_checkpointing(enable)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.backbone.forward_features(images) if isinstance(self.backbone, ResNet) else self.backbone(images)
        return rearrange(self.proj(cells), "b d h w -> b (h w) d")
