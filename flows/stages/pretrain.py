"""Pre-train a network from scratch on the de-duplicated corpus (paper §3.1, §4.1, Table 3)."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic

from flows.stages import output, scratch, training
from vit.data.augment import AugmentConfig
from vit.data.order import hash64
from vit.data.shards import INDEX
from vit.models import variants
from vit.models.build import Model, ModelConfig, build
from vit.models.masked import MaskedPatchPrediction, MaskingConfig
from vit.models.vit import ViT
from vit.training.config import TrainConfig
from vit.training.fit import FitConfig

SUBSET_STREAM = 0x5B5  # keeps these draws apart from other uses of the seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The network and how it is trained."""

    model: Annotated[ModelConfig, pydantic.Discriminator("family")]
    head_bias: float  # initial bias of the head: -10 with the sigmoid loss (VT#2)
    masking: MaskingConfig | None  # learn without labels, by masked patch prediction (§4.6); null: from the labels
    subset: float  # share of the training images, drawn at random by train.seed; the smaller lie in the larger (Fig. 4)
    train: TrainConfig
    augment: AugmentConfig

    def __post_init__(self) -> None:
        if self.masking is not None and (self.model.family != "vit" or self.model.representation):
            raise ValueError("masking needs a ViT with representation false: it trains neither head nor tanh layer")
        if not 0 < self.subset <= 1:
            raise ValueError(f"subset is {self.subset}; it must be above 0 and at most 1, which is all training images")


def pretrain(config: PretrainConfig, *, images: Path, kept: Path, out: Path) -> Path:
    """Train on the workers; goes on from its own checkpoints after any interruption.

    Raises IncompleteInput if a file of `kept` was changed.
    """
    output.verify(kept)
    inputs = {"images": images, "kept": kept}
    with (
        scratch.directory(out, "pretrain", config, inputs) as (directory, fingerprint),
        output.writing(out, "pretrain", config, inputs) as work,
    ):
        job = training.Job(
            stage="pretrain",
            build=functools.partial(network, config),
            images=images / "corpus",
            kept=kept if config.subset == 1 else draw(config, kept, directory / "subset"),
            fit=FitConfig(resolution=config.model.resolution, train=config.train, augment=config.augment),
            scratch=directory,
            fingerprint=fingerprint,
        )
        training.run(job, work)
    return out


def draw(config: PretrainConfig, kept: Path, out: Path) -> Path:
    """Put an index into `out` with so many of the training images that are kept, and all of the validation images.

    Which ones follows from seed and number of images alone, so a run that is resumed has the same.
    """
    table = pq.read_table(kept / INDEX)
    training = np.flatnonzero(pc.equal(table["split"], "train").to_numpy())
    count = max(round(config.subset * len(training)), 1)
    left_out = np.argsort(hash64(SUBSET_STREAM, config.train.seed, np.arange(len(training))), kind="stable")[count:]
    chosen = np.ones(table.num_rows, dtype=bool)
    chosen[training[left_out]] = False
    out.mkdir(exist_ok=True)
    pq.write_table(table.filter(pa.array(chosen)), out / INDEX)
    return out


def network(config: PretrainConfig, num_classes: int) -> Model | MaskedPatchPrediction:
    """The untrained network."""
    if config.masking is not None:
        body = build(config.model, 0)
        assert isinstance(body, ViT)
        return MaskedPatchPrediction(body, config.masking)
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
