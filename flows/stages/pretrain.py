"""Pre-train a network from scratch on the de-duplicated corpus (paper §3.1, §4.1, Table 3)."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic

from flows.stages import output, scratch, training
from vit.data.augment import AugmentConfig
from vit.models import variants
from vit.models.build import Model, ModelConfig, build
from vit.training.fit import FitConfig
from vit.training.loop import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The network and how it is trained."""

    model: Annotated[ModelConfig, pydantic.Discriminator("family")]
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
            build=functools.partial(network, config),
            images=images,
            kept=kept,
            fit=FitConfig(resolution=config.model.resolution, train=config.train, augment=config.augment),
            scratch=directory,
            fingerprint=fingerprint,
        )
        training.run(job, work)
    return out


def network(config: PretrainConfig, num_classes: int) -> Model:
    """The untrained network."""
    return build(config.model, num_classes, head_bias=config.head_bias)


def expand(model: Mapping[str, Any]) -> dict[str, Any]:
    """A section `variant: ViT-B/16, resolution: 224, …` with every field of that network filled in.

    What the section says wins over the variant. Raises ValueError with the nearest valid names for an unknown variant.
    """
    rest = dict(model)
    name, resolution = rest.pop("variant"), rest.get("resolution")
    if type(resolution) is not int:
        raise ValueError(f"resolution must be a whole number of pixels beside variant {name!r}, not {resolution!r}")
    return variants.settings(str(name), resolution) | rest
