"""Settings for tests: nothing random and nothing special unless asked for."""

from typing import Any

from vit.data.augment import AugmentConfig
from vit.data.mixing import MixConfig
from vit.data.order import OrderConfig
from vit.data.policies import RandAugmentConfig
from vit.training.config import TrainConfig

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


def training(**changes: Any) -> TrainConfig:
    """AdamW for eight steps of eight images, as the paper trains; `changes` are fields of TrainConfig."""
    plain: dict[str, Any] = {
        "seed": 3,
        "steps": 8,
        "batch_size": 8,
        "optimizer": "adamw",
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "momentum": 0.9,
        "loss": "softmax",
        "label_smoothing": 0.0,
        "learning_rate": 0.01,
        "decay": "linear",
        "timescale": 10_000,
        "warmup_steps": 2,
        "cooldown_steps": 0,
        "weight_decay": 0.1 if changes.get("optimizer", "adamw") == "adamw" else 0.0,
        "decay_on": "all",
        "grad_clip_norm": 1.0,
        "stochastic_depth": 0.0,
        "precision": "float32",
        "average": 0.0,
        "validate_every": 0,
        "patience": 0,
        "spike_factor": 0.0,
        "rewinds": 0,
        "log_every": 1,
        "save_every": 3,
    }
    return TrainConfig(**plain | changes)
