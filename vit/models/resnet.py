"""BiT's ResNets (arXiv 1912.11370), GroupNorm and standardised weights, alone or as a hybrid's stem; timm's names.

Shapes: B batch, H W sides in pixels or cells, C channels, K classes.
"""

import dataclasses
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from vit.models.standardize import EpsOn, StandardizedConv2d, pad_same

__all__ = ["ResNet", "ResNetConfig", "initialise"]

Flavour: TypeAlias = Literal["v1", "v2"]

NUM_GROUPS = 32
ROOT_WIDTH = 64  # channels of the root block, and of the 3x3 convolutions of the first stage, at width_factor 1
EXPANSION = 4  # channels of a unit's output for each channel of its 3x3 convolution


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Sizes and choices of one network; paper.md §1.6 and §1.7 list those of the paper.

    v1 is what the authors' hybrids use (vision_transformer, models_resnet.py): post-activation, TensorFlow's SAME
    padding. v2 is what the public BiT checkpoints are (big_transfer, bit_pytorch/models.py): pre-activation, padding
    alike on both sides. Raises ValueError with a sentence if a field makes no sense.
    """

    family: Literal["resnet"]  # tells a stored config from a ViT's
    resolution: int  # pixels it is trained and served at; the network itself takes any size
    layers: tuple[int, ...]  # units per stage, (3, 4, 6, 3) for R50; () is the root block only
    width_factor: int  # multiplies every number of channels
    flavour: Flavour
    group_norm_eps: float  # BiT 1e-5; the authors' hybrids 1e-6; timm's hybrids 1e-5
    standardize_eps: float  # BiT 1e-10; the authors' hybrids 1e-5; timm's hybrids 1e-8
    standardize_eps_on: EpsOn  # the authors' hybrids add it to the standard deviation, all others to the variance

    def __post_init__(self) -> None:
        choices = {"family": ("resnet",), "flavour": get_args(Flavour), "standardize_eps_on": get_args(EpsOn)}
        for name, valid in choices.items():
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(map(repr, valid))}")
        for name in ("resolution", "width_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if any(units < 1 for units in self.layers):
            raise ValueError(f"layers {self.layers}: every stage must have at least 1 unit; leave an empty one out")
        for name in ("group_norm_eps", "standardize_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} must be above 0")

    @property
    def stride(self) -> int:
        """Pixels per cell of the last feature map; a side of n pixels gives ceil(n / stride) cells."""
        return 4 * 2 ** max(len(self.layers) - 1, 0)

    @property
    def num_features(self) -> int:
        """C of the last feature map."""
        root = ROOT_WIDTH * self.width_factor
        return root * EXPANSION * 2 ** (len(self.layers) - 1) if self.layers else root


class ResNet(nn.Module):
    """Images B 3 H W, scaled to [-1, 1], to logits B K; to features B C if num_classes is 0.

    Any H and W do; `config.resolution` is what the network is made for.
    """

    def __init__(self, config: ResNetConfig, num_classes: int, *, head_bias: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.stem = Root(config)
        self.stages = nn.Sequential(*(Stage(config, stage) for stage in range(len(config.layers))))
        self.norm = GroupNormReLU(config, config.num_features) if config.flavour == "v2" else nn.Identity()
        self.head = Head(config.num_features, num_classes, head_bias) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Keep only each unit's input for the backward pass and compute the rest again: a third more work."""
        for stage in self.stages.children():
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the head sees, the mean over all cells of the feature map: B C."""
        return self.forward_features(images).mean(dim=(2, 3))

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map, after the last ReLU (v2: GroupNorm and ReLU): B C ceil(H / stride) ceil(W / stride)."""
        return self.norm(self.stages(self.stem(images)))


class Root(nn.Module):
    """7x7 convolution, (v1: GroupNorm, ReLU,) 3x3 max-pool, both of stride 2: B 3 H W -> B C ceil(H/4) ceil(W/4)."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        width = ROOT_WIDTH * config.width_factor
        self.same = config.flavour == "v1"
        self.conv = _conv(config, 3, width, 7, stride=2)
        self.norm = GroupNormReLU(config, width) if config.flavour == "v1" else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv(images))
        if self.same:
            # Zeros do for the -inf of SAME max-pooling: nothing is below 0 after the ReLU, no window is all padding.
            padded, padding = pad_same(x, 3, 2)
            return F.max_pool2d(padded, 3, 2, padding)
        # Zeros and not -inf, although nothing is rectified yet: so were the public checkpoints trained.
        return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)


class Stage(nn.Module):
    """Units of one width; the first of every stage but the first halves the sides. timm's name: blocks."""

    def __init__(self, config: ResNetConfig, stage: int) -> None:
        super().__init__()
        self.grad_checkpointing = False
        unit = PostActivationUnit if config.flavour == "v1" else PreActivationUnit
        inner = ROOT_WIDTH * config.width_factor * 2**stage
        before = inner * EXPANSION // 2 if stage else inner
        first = unit(config, before, inner, stride=2 if stage else 1)
        rest = [unit(config, inner * EXPANSION, inner, stride=1) for _ in range(1, config.layers[stage])]
        self.blocks = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.blocks.children():
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(unit, x, use_reentrant=False)
            else:
                x = unit(x)
        return x


class PostActivationUnit(nn.Module):
    """v1 bottleneck: ReLU(norm3(conv3(...)) + shortcut). B C H W -> B 4·inner H/stride W/stride, rounded up."""

    def __init__(self, config: ResNetConfig, channels: int, inner: int, *, stride: int) -> None:
        super().__init__()
        outer = inner * EXPANSION
        self.downsample = _projection(config, channels, outer, stride=stride)
        self.conv1 = _conv(config, channels, inner, 1, stride=1)
        self.norm1 = GroupNormReLU(config, inner)
        self.conv2 = _conv(config, inner, inner, 3, stride=stride)
        self.norm2 = GroupNormReLU(config, inner)
        self.conv3 = _conv(config, inner, outer, 1, stride=1)
        self.norm3 = ZeroScaleGroupNorm(NUM_GROUPS, outer, config.group_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.norm1(self.conv1(x))
        y = self.norm2(self.conv2(y))
        y = self.norm3(self.conv3(y))
        return F.relu(y + shortcut, inplace=True)


class PreActivationUnit(nn.Module):
    """v2 bottleneck: conv3(...) + shortcut, each convolution after GroupNorm and ReLU. Shapes as in v1.

    The stride is on the 3x3 convolution; a projected shortcut starts from the normalised input (bit_pytorch/models.py).
    """

    def __init__(self, config: ResNetConfig, channels: int, inner: int, *, stride: int) -> None:
        super().__init__()
        outer = inner * EXPANSION
        self.downsample = _projection(config, channels, outer, stride=stride)
        self.norm1 = GroupNormReLU(config, channels)
        self.conv1 = _conv(config, channels, inner, 1, stride=1)
        self.norm2 = GroupNormReLU(config, inner)
        self.conv2 = _conv(config, inner, inner, 3, stride=stride)
        self.norm3 = GroupNormReLU(config, inner)
        self.conv3 = _conv(config, inner, outer, 1, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.norm2(self.conv1(y))
        y = self.norm3(self.conv2(y))
        return self.conv3(y) + shortcut


class GroupNormReLU(nn.GroupNorm):
    """GroupNorm of 32 groups, then ReLU: B C H W -> B C H W."""

    def __init__(self, config: ResNetConfig, channels: int) -> None:
        super().__init__(NUM_GROUPS, channels, config.group_norm_eps)

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input), inplace=True)


class ZeroScaleGroupNorm(nn.GroupNorm):
    """GroupNorm whose scale starts at zero, so that a unit starts as its shortcut."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Head(nn.Module):
    """Features B C -> logits B K; the layer is a 1x1 convolution because in BiT's and timm's files it is one."""

    def __init__(self, channels: int, num_classes: int, bias: float) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, num_classes, 1)
        self.reset(bias)

    def reset(self, bias: float) -> None:
        """Kernel 0, bias as given."""
        nn.init.zeros_(self.fc.weight)
        if self.fc.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
            nn.init.constant_(self.fc.bias, bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(features[..., None, None]).flatten(1)


def initialise(model: ResNet | Root, head_bias: float) -> None:
    """The initial values of BiT and of the authors' hybrids, as in a new network; also of a model made with to_empty.

    Kernels LeCun-normal, flax's default, which neither changes (big_transfer bit_jax/models.py, vision_transformer
    models_resnet.py); GroupNorm scale 1, but 0 in v1's norm3 (scale_init there), bias 0; head kernel zero. The head's
    bias is -10 at pre-training with the sigmoid loss, 0 at transfer.
    """
    for module in model.modules():
        if isinstance(module, StandardizedConv2d | nn.GroupNorm):
            module.reset_parameters()
        elif isinstance(module, Head):
            module.reset(head_bias)


def _conv(config: ResNetConfig, channels: int, outer: int, kernel: int, *, stride: int) -> StandardizedConv2d:
    eps = config.standardize_eps, config.standardize_eps_on
    return StandardizedConv2d(channels, outer, kernel, stride=stride, same=config.flavour == "v1", eps=eps)


def _projection(config: ResNetConfig, channels: int, outer: int, *, stride: int) -> nn.Sequential | None:
    """The shortcut of a unit that changes the shape; v1 normalises it, v2's input is normalised already."""
    if channels == outer and stride == 1:
        return None
    projection = nn.Sequential()
    projection.add_module("conv", _conv(config, channels, outer, 1, stride=stride))
    if config.flavour == "v1":
        projection.add_module("norm", nn.GroupNorm(NUM_GROUPS, outer, config.group_norm_eps))
    return projection
