"""Fine-tune the pre-trained network at a higher resolution (paper §3.2, Table 4), on the downstream images if any."""

import dataclasses
import functools
from pathlib import Path

from flows.stages import finetune_sweep, output, random_init, scratch, training
from flows.stages.random_init import RandomInitConfig
from vit.data.augment import AugmentConfig
from vit.models.build import Model
from vit.models.weights.native import transfer
from vit.training.config import TrainConfig
from vit.training.fit import FitConfig
from vit.training.hyperrule import Protocol, TransferConfig, applied
from vit.training.sweep import SweepConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Head replaced by one linear layer of zeros, position embeddings resized."""

    protocol: Protocol  # own: the numbers below; bit-hyperrule: those of vit/training/hyperrule.py instead
    resolution: int  # pixels
    dropout: float
    train: TrainConfig
    augment: AugmentConfig
    sweep: SweepConfig  # learning rate and steps chosen on a part of train, then every seed on all of it
    random_init: RandomInitConfig | None  # the same network from random weights on the budget of both; null: without
    dev_percent: float  # of train, to choose on: the paper's are 1 of ImageNet, 2 of CIFAR, 10 of Pets and Flowers

    def __post_init__(self) -> None:
        if not 0 < self.dev_percent < 100:
            raise ValueError(f"dev_percent {self.dev_percent} must be above 0 and below 100")


def finetune(config: FinetuneConfig, *, images: Path, kept: Path, backbone: Path, out: Path) -> Path:
    """Train on the workers from `backbone`; goes on from its own checkpoints after any interruption.

    Raises IncompleteInput if a file of `kept` was changed.
    """
    output.verify(kept)
    inputs = {"images": images, "kept": kept, "backbone": backbone}
    own = (images / "downstream").is_dir()  # images of its own
    with (
        scratch.directory(out, "finetune", config, inputs) as (directory, fingerprint),
        output.writing(out, "finetune", config, inputs) as work,
    ):
        place, index = (images / "downstream", None) if own else (images / "corpus", kept)
        asked = TransferConfig(resolution=config.resolution, train=config.train, augment=config.augment)
        how = applied(config.protocol, asked, training.corpus(place, index, "train"))
        job = training.Job(
            stage="finetune",
            build=functools.partial(network, how.resolution, config.dropout, backbone),
            images=place,
            kept=index,
            fit=FitConfig(resolution=how.resolution, train=how.train, augment=how.augment),
            scratch=directory,
            fingerprint=fingerprint,
        )
        if config.sweep.is_any:
            finetune_sweep.run(job, config.sweep, config.dev_percent, work)
        else:
            training.run(job, work)
        if config.random_init is not None:
            random_init.run(job, config.random_init, config.sweep, config.dev_percent, backbone, work)
    return out


def network(resolution: int, dropout: float, backbone: Path, num_classes: int) -> Model:
    """The pre-trained body under a new head."""
    return transfer(backbone / output.MODEL, resolution=resolution, num_classes=num_classes, dropout=dropout)
