"""Augmentation settings for tests: nothing random unless asked for."""

from vit.data.augment import AugmentConfig
from vit.data.mixing import MixConfig
from vit.data.order import OrderConfig
from vit.data.policies import RandAugmentConfig

NO_MIX = MixConfig(mixup=0.0, cutmix=0.0, erasing=0.0)
PLAIN_ORDER = OrderConfig(window=0, repeats=1, balance=0.0)


def augmentation(
    *,
    crop_area: float | None = None,
    flip: bool = False,
    layers: int = 0,
    magnitude: int = 0,
    mix: MixConfig = NO_MIX,
    order: OrderConfig = PLAIN_ORDER,
) -> AugmentConfig:
    """An inception crop if `crop_area` is given."""
    return AugmentConfig(
        crop="none" if crop_area is None else "inception",
        crop_area=crop_area or 1.0,
        flip=flip,
        shrink=False,
        randaugment=RandAugmentConfig(layers=layers, magnitude=magnitude),
        mix=mix,
        order=order,
        evaluation="square",
    )
