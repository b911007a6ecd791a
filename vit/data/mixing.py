"""Changes to whole batches, on the device: mixup, CutMix and random erasing, with targets to match.

Partners are neighbours in the global batch (0 with 1, 2 with 3, …), which is shuffled anyway, so that a rank with an
even share needs no image of another rank. Every number is a function of (seed, step) or (seed, epoch, position); the
same on every device, but for the last digits of the noise.

Sources: mixup as the paper's code has it (one coefficient per batch, each image with its mirror place's; vision_
transformer vit_jax/input_pipeline.py), CutMix and the choice between the two as timm's (data/mixup.py), erasing as
timm's (data/random_erasing.py, mode "pixel"), which DeiT trains with.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from vit.data.order import Samples, hash64, uniform64
from vit.typing import Ints

if TYPE_CHECKING:  # loader processes read the config and never need torch
    from torch import Tensor

_MIX_STREAM, _ERASE_STREAM, _NOISE_STREAM = 0x3171, 0xE7A5, 0x4015
ERASED_AREA = (0.02, 1 / 3)  # fraction of the image
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width
ERASE_TRIES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixConfig:
    """What happens to a batch. Targets become soft with mixup or cutmix."""

    mixup: float  # Beta(mixup, mixup) is the share of the partner; 0 is none, AugReg 0.2 to 0.8
    cutmix: float  # Beta(cutmix, cutmix) is the area of the partner; 0 is none; with mixup, half the batches each
    erasing: float  # share of the images that lose a rectangle to noise; 0 is none, DeiT 0.25

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must not be negative")
        if not 0 <= self.erasing <= 1:
            raise ValueError(f"erasing {self.erasing} must be between 0 and 1")

    @property
    def is_mixing(self) -> bool:
        """Whether images are mixed with each other."""
        return bool(self.mixup or self.cutmix)


def mix(images: "Tensor", targets: "Tensor", config: MixConfig, *, seed: int, step: int) -> tuple["Tensor", "Tensor"]:
    """Mixup or CutMix of normalised images [B, 3, R, R] and targets [B, C].

    Raises ValueError if the batch is odd: somebody would have no partner.
    """
    if not config.is_mixing:
        return images, targets
    if len(images) % 2:
        raise ValueError(f"mixup and cutmix pair up the {len(images)} images of each worker: make that number even")
    from scipy.special import betaincinv  # a tenth of a second that runs without mixing need not spend

    choice, share, x, y = (float(u) for u in uniform64(_MIX_STREAM, seed, step, np.arange(4)))
    cut = config.cutmix > 0 and (not config.mixup or choice < 0.5)
    alpha = config.cutmix if cut else config.mixup
    kept = float(betaincinv(alpha, alpha, share))
    if not cut:
        return images.lerp(_partners(images), 1 - kept), targets.lerp(_partners(targets), 1 - kept)
    left, top, right, bottom = cut_box(images.shape[-1], kept, (x, y))
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = _partners(images)[..., top:bottom, left:right]
    replaced = (right - left) * (bottom - top) / images.shape[-1] ** 2
    return mixed, targets.lerp(_partners(targets), replaced)


def cut_box(side: int, kept: float, centre: tuple[float, float]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of CutMix's square, cut off where it leaves the image."""
    half = int(side * math.sqrt(1 - kept)) // 2
    x, y = (int(u * side) for u in centre)
    return max(0, x - half), max(0, y - half), min(side, x + half), min(side, y + half)


def erase(images: "Tensor", samples: Samples, config: MixConfig, *, seed: int) -> "Tensor":
    """Replace a rectangle in some of the normalised images [B, 3, R, R] by normal noise."""
    if not config.erasing:
        return images
    import torch

    side = images.shape[-1]
    boxes = erased_boxes(samples, side, config.erasing, seed=seed)
    rows = np.flatnonzero(boxes[:, 2])
    if not len(rows):
        return images
    left, top, width, height = (
        torch.from_numpy(column).to(images.device)[:, None, None, None] for column in boxes[rows].T
    )
    across = torch.arange(side, device=images.device)
    down = across[:, None]
    inside = (across >= left) & (across < left + width) & (down >= top) & (down < top + height)
    keys = hash64(_NOISE_STREAM, seed, samples.epochs[rows], samples.positions[rows]).astype(np.int64)
    noise = _noise(torch.from_numpy(keys).to(images.device), side)
    index = torch.from_numpy(rows).to(images.device)
    erased = images.clone()
    erased[index] = torch.where(inside, noise.to(images.dtype), images[index])
    return erased


def erased_boxes(samples: Samples, side: int, probability: float, *, seed: int) -> Ints:
    """(left, top, width, height) of what each image loses, int64 [B, 4]; zeros where nothing."""
    draws = uniform64(
        _ERASE_STREAM, seed, samples.epochs[:, None], samples.positions[:, None], np.arange(1 + 4 * ERASE_TRIES)
    )
    boxes = np.zeros((len(draws), 4), np.int64)
    low, high = (math.log(aspect) for aspect in ERASED_ASPECT)
    for row in np.flatnonzero(draws[:, 0] < probability):
        for attempt in range(ERASE_TRIES):
            area, aspect, x, y = draws[row, 1 + 4 * attempt : 5 + 4 * attempt]
            area = (ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0])) * side * side
            aspect = math.exp(low + aspect * (high - low))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < width < side and 0 < height < side:
                boxes[row] = int(x * (side - width + 1)), int(y * (side - height + 1)), width, height
                break
    return boxes


def _partners(batch: "Tensor") -> "Tensor":
    """Each row's neighbour in its place."""
    return batch.reshape(-1, 2, *batch.shape[1:]).flip(1).reshape(batch.shape)


def _noise(keys: "Tensor", side: int) -> "Tensor":
    """Standard normal numbers that follow from int64 keys [K], the same on any device: float32 [K, 3, side, side]."""
    import torch

    place = torch.arange(3 * side * side, device=keys.device).view(3, side, side)
    # splitmix64 as in vit.data.order; int64 wraps, and the mask makes a shift of a negative number logical.
    x = keys[:, None, None, None] + place * _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    uniform = (((x >> 31) ^ x) & 0xFFFFFF).float().add_(0.5).mul_(2.0**-24)
    return torch.erfinv(uniform.mul_(2).sub_(1)).mul_(math.sqrt(2))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
