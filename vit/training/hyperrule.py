"""BiT-HyperRule: how to fine-tune a ResNet, from the number and the size of the images alone (arXiv 1912.11370, §3.3).

| images to train on | updates | warm-up | mixup |
|---|---|---|---|
| fewer than 20,000 | 500 | 100 | none |
| fewer than 500,000 | 10,000 | 500 | 0.1 |
| more | 20,000 | 500 | 0.1 |

SGD with momentum 0.9, rate 0.003, batch 512, no decay, a tenth of the rate after 30, 60 and 90 % of the updates.
Images smaller than 96 x 96 are resized to 160 and cropped to 128 pixels, others to 448 and 384; then flips. Warm-up
and the bound of mixup are those of the published code (google-research/big_transfer, bit_hyperrule.py), which differs
from the paper in two things that are the paper's here: it crops to 480 of 512 pixels (the paper does for R152x4 alone),
and its short schedule falls after 40, 60 and 80 %.
"""

import dataclasses
from typing import Literal, TypeAlias

import numpy as np

from vit.data.augment import AugmentConfig
from vit.data.shards import Shards
from vit.training.config import TrainConfig

Protocol: TypeAlias = Literal["own", "bit-hyperrule"]
SMALL, MEDIUM = 20_000, 500_000  # images: below them the short and the middle schedule
SMALL_AREA = 96 * 96  # pixels
MIXUP = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """How to fine-tune on a data set."""

    resolution: int  # pixels
    train: TrainConfig
    augment: AugmentConfig


def applied(protocol: Protocol, config: TransferConfig, examples: Shards) -> TransferConfig:
    """`config` itself if the protocol is its own, else what the rule says of these examples to train on."""
    if protocol == "own":
        return config
    table = examples.table
    area = float(np.median(table["width"].to_numpy().astype(np.int64) * table["height"].to_numpy()))
    return hyperrule(config, num_images=len(examples), area=area)


def hyperrule(config: TransferConfig, *, num_images: int, area: float) -> TransferConfig:
    """The rule for so many images of this typical area in pixels; seed, precision and intervals are the config's."""
    steps, warmup = (500, 100) if num_images < SMALL else (10_000, 500) if num_images < MEDIUM else (20_000, 500)
    resized, resolution = (160, 128) if area < SMALL_AREA else (448, 384)
    train = dataclasses.replace(
        config.train,
        steps=steps,
        batch_size=512,
        optimizer="sgd",
        momentum=0.9,
        loss="softmax",
        label_smoothing=0.0,
        learning_rate=0.003,
        decay="staircase",
        warmup_steps=warmup,
        cooldown_steps=0,
        weight_decay=0.0,
    )
    mix = dataclasses.replace(config.augment.mix, mixup=0.0 if num_images < SMALL else MIXUP, cutmix=0.0)
    area_kept = (resolution / resized) ** 2
    augment = dataclasses.replace(config.augment, crop="square", crop_area=area_kept, flip=True, mix=mix)
    return TransferConfig(resolution=resolution, train=train, augment=augment)
