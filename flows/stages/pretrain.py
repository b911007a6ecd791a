"""Pre-train a Vision Transformer from scratch on the de-duplicated corpus (paper §3.1, §4.1, Table 3)."""

import dataclasses
import functools
from pathlib import Path

from flows.stages import output, scratch, training
from vit.data.augment import AugmentConfig
from vit.models.vit import ViT, ViTConfig
from vit.training.fit import FitConfig
from vit.training.loop import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The network and how it is trained."""

    model: ViTConfig
    head_bias: float  # initial bias of the head: -10 with the sigmoid loss (VT#2)
    train: TrainConfig
    augment: AugmentConfig


def pretrain(config: PretrainConfig, *, images: Path, kept: Path, out: Path) -> Path:
    """Train on the workers; goes on from its own checkpoints after any interruption."""
    inputs = {"images": images, "kept": kept}
    with (
        scratch.directory(out, "pretrain", config, inputs) as (directory, fingerprint),
        output.writing(out, "pretrain", config, inputs) as work,
    ):
        job = training.Job(
            stage="pretrain",
            build=functools.partial(build, config),
            images=images,
            kept=kept,
            fit=FitConfig(resolution=config.model.resolution, train=config.train, augment=config.augment),
            scratch=directory,
            fingerprint=fingerprint,
        )
        training.run(job, work)
    return out


def build(config: PretrainConfig, num_classes: int) -> ViT:
    """The untrained network."""
    return ViT(config.model, num_classes, head_bias=config.head_bias)
