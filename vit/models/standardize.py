"""Convolutions with standardised weights (arXiv 1903.10520), as BiT and the hybrids have them; TensorFlow's padding.

Shapes: B batch, H W sides in cells, I and O channels in and out, S kernel side.
"""

import math
from typing import Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit.models.initialisation import lecun_normal_

EpsOn: TypeAlias = Literal["variance", "std"]


class StandardizedConv2d(nn.Conv2d):
    """B I H W -> B O ceil(H / stride) ceil(W / stride), without bias; every filter gets mean 0 and variance 1 first.

    same: TensorFlow's padding, which depends on the input's size; else kernel // 2 zeros on every side. The parameter
    stays as it was trained and is standardised once per forward. A cache for inference would have to notice every way
    of changing a weight (load_state_dict, an optimiser, .to()), which torch.compile's single graph does not allow.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int, same: bool, eps: tuple[float, EpsOn]
    ) -> None:
        padding = 0 if same else kernel // 2
        self.same = same
        self.eps: float = eps[0]
        self.eps_on: EpsOn = eps[1]
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False)

    def reset_parameters(self) -> None:
        """LeCun-normal, the default of flax's Conv, which the authors keep."""
        lecun_normal_(self)

    def forward(self, input: Tensor) -> Tensor:
        weight = standardize(self.weight, self.eps, self.eps_on)
        if not self.same:
            return F.conv2d(input, weight, None, self.stride, self.padding)
        padded, padding = pad_same(input, self.kernel_size[0], self.stride[0])
        return F.conv2d(padded, weight, None, self.stride, padding)


def standardize(weight: Tensor, eps: float, eps_on: EpsOn) -> Tensor:
    """Every filter of O I S S minus its mean, divided by its standard deviation; in float32 or better, result as given.

    variance: (w - mean) / sqrt(var + eps), BiT (big_transfer, bit_jax/models.py, standardize). std: (w - mean) /
    (sqrt(var) + eps), the authors' hybrids (vision_transformer, models_resnet.py, weight_standardize). In both var is
    the population's, divided by I S S and not by one less: jnp.mean of the squares, and jnp.std, whose ddof is 0.
    """
    filters = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))  # O ISS
    if eps_on == "variance":
        # A batch norm whose channels are the filters, as in timm and Hugging Face: rounding then agrees, too.
        filters = F.batch_norm(filters[None], None, None, training=True, eps=eps)
    else:
        filters = filters - filters.mean(dim=1, keepdim=True)
        # The gradient of a norm is 0 at 0, that of a square root is not finite: a constant filter must not give NaN.
        norm = cast(Tensor, torch.linalg.vector_norm(filters, dim=1, keepdim=True))
        filters = filters / (norm / math.sqrt(filters.shape[1]) + eps)
    return filters.view(weight.shape).to(weight.dtype)


def pad_same(images: Tensor, kernel: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Zeros around B C H W as TensorFlow's SAME has them, and what the convolution or pooling has to add itself.

    The zeros are such that ceil(side / stride) windows fit; an odd one comes after (jax.lax.padtype_to_pads).
    """
    (top, bottom), (left, right) = (_same(side, kernel, stride) for side in images.shape[-2:])
    if top == bottom and left == right:
        return images, (top, left)
    return F.pad(images, (left, right, top, bottom)), (0, 0)


def _same(side: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2
