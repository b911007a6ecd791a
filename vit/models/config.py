"""What a Vision Transformer is: every number and choice of one network, checked once, when it is made."""

import dataclasses
from typing import Literal, TypeAlias, get_args

from vit.models.resnet import ResNetConfig

Pooling: TypeAlias = Literal["tok", "gap", "map"]
Position: TypeAlias = Literal["none", "learned", "2d", "relative", "sincos2d"]
PositionAt: TypeAlias = Literal["stem", "every", "shared"]
Gelu: TypeAlias = Literal["tanh", "erf"]

# Table 8 of the paper measures none and relative in one place only; the places left out here have no meaning.
PLACES: dict[Position, tuple[PositionAt, ...]] = {
    "none": ("stem",),
    "learned": ("stem", "every", "shared"),
    "2d": ("stem", "every", "shared"),
    "relative": ("every", "shared"),
    "sincos2d": ("stem",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes and choices of one network; Table 1 of the paper lists the sizes of B, L and H.

    Raises ValueError with a sentence if two fields do not fit together.
    """

    family: Literal["vit"]  # tells a stored config from a ResNet's
    resolution: int  # pixels; images are square
    patch_size: int  # pixels; for a hybrid, cells of the stem's feature map
    stem: ResNetConfig | None  # hybrid (§3.1): a v1 ResNet without head whose feature map is cut into patches
    width: int  # D
    depth: int  # blocks
    num_heads: int
    mlp_dim: int
    pooling: (
        Pooling  # class token; mean of the patch tokens (App. D.3); attention pooling. Only "tok" has a class token
    )
    representation: bool  # tanh layer before the head: at pre-training only (§3.1)
    position: Position  # none; 1-D in raster order; 2-D; relative 1-D (App. D.4); fixed sines and cosines
    position_at: PositionAt  # once after the stem, an own table at every layer, or one table shared by all layers
    gelu: Gelu  # the authors' tanh approximation (jax.nn.gelu), or timm's and Hugging Face's exact erf
    layer_norm_eps: float  # 1e-6 for the authors and timm, 1e-12 for Hugging Face
    dropout: float  # after adding pos_embed and after every dense layer except qkv (App. B.1)

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_sizes(self)
        _check_position(self)
        if self.stem is not None:
            _check_stem(self.stem, self.resolution)
        _check_patches(self)

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self._cells // self.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """1 with a class token, else 0."""
        return int(self.pooling == "tok")

    @property
    def num_tokens(self) -> int:
        """N: patches and class token."""
        return self.grid**2 + self.num_prefix_tokens

    @property
    def patch_pixels(self) -> int:
        """Side of the square of pixels that one patch stands for, stem included."""
        return self.patch_size * (1 if self.stem is None else self.stem.stride)

    @property
    def _cells(self) -> int:
        # Every stride-2 layer of a v1 stem pads as TensorFlow's SAME does, so an odd side is rounded up.
        return self.resolution if self.stem is None else -(-self.resolution // self.stem.stride)


def _check_choices(config: ViTConfig) -> None:
    choices = {"family": ("vit",), "pooling": get_args(Pooling), "gelu": get_args(Gelu)}
    choices |= {"position": get_args(Position), "position_at": get_args(PositionAt)}
    for name, valid in choices.items():
        value = getattr(config, name)
        if value not in valid:
            raise ValueError(f"{name} {value!r} is none of {', '.join(map(repr, valid))}")


def _check_sizes(config: ViTConfig) -> None:
    for name in ("resolution", "patch_size", "width", "depth", "num_heads", "mlp_dim"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} {getattr(config, name)} must be at least 1")
    if config.width % config.num_heads:
        raise ValueError(f"width {config.width} is not a multiple of num_heads {config.num_heads}")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout {config.dropout} must be at least 0 and below 1")
    if config.layer_norm_eps <= 0:
        raise ValueError(f"layer_norm_eps {config.layer_norm_eps} must be above 0")


def _check_position(config: ViTConfig) -> None:
    places = PLACES[config.position]
    if config.position_at not in places:
        raise ValueError(
            f"position {config.position!r} cannot enter at position_at {config.position_at!r}; "
            f"it can at {' or '.join(map(repr, places))}"
        )
    if config.position == "2d" and config.width % 2:
        raise ValueError(f"position '2d' gives half the width to each axis, so width {config.width} must be even")
    if config.position == "sincos2d" and (config.width % 4 or config.width < 8):
        raise ValueError(f"position 'sincos2d' needs a width of 8 or more and a multiple of 4, not {config.width}")


def _check_stem(stem: ResNetConfig, resolution: int) -> None:
    if stem.resolution != resolution:
        raise ValueError(f"the stem's resolution {stem.resolution} must equal the network's resolution {resolution}")
    if stem.flavour != "v1":
        raise ValueError(f"a hybrid's stem is a ResNet of flavour 'v1', not {stem.flavour!r}")


def _check_patches(config: ViTConfig) -> None:
    cells, patch_size = config._cells, config.patch_size  # pyright: ignore[reportPrivateUsage]
    if cells % patch_size == 0:
        return
    if config.stem is not None:
        raise ValueError(
            f"the stem makes {cells} x {cells} cells of resolution {config.resolution}, "
            f"which is not a multiple of patch_size {patch_size}"
        )
    low = max(cells // patch_size, 1) * patch_size
    raise ValueError(
        f"resolution {cells} is not a multiple of patch_size {patch_size}; nearest are {low} and {low + patch_size}"
    )
