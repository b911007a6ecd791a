"""What pre-training is worth: the same network from random weights, for as many FLOPs as both trainings took.

Its recipe is that of pre-training; images, resolution and seeds are those of fine-tuning. Its numbers stand beside
those of the fine-tuned network, under evaluate's name: `val/top1_random_init`. What it learned is not kept.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pydantic

from flows.stages import finetune_sweep, output, progress, training
from flows.stages.progress import RANDOM_INIT
from flows.stages.training import FLOPS, Job
from vit.data.augment import AugmentConfig
from vit.models.build import Model, build
from vit.models.masked import MaskedPatchPrediction
from vit.training.config import TrainConfig
from vit.training.fit import FitConfig
from vit.training.flops import training_flops
from vit.training.sweep import SweepConfig

NAME = "random_init"  # of directories and runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomInitConfig:
    """What pre-training's recipe does not say."""

    learning_rates: Sequence[float]  # peak, for the global batch; of several the best on a dev part of train is taken

    def __post_init__(self) -> None:
        if not self.learning_rates:
            raise ValueError("learning_rates is empty: name one, or several to choose from; random_init: null has none")


def run(job: Job, config: RandomInitConfig, sweep: SweepConfig, dev_percent: float, backbone: Path, work: Path) -> None:
    """Train it, for each seed of `sweep`, and add its numbers to what fine-tuning, `job`, left in `work`.

    Goes on from its own checkpoints. Raises ValueError if `backbone` does not say how much its training took.
    """
    tuned = json.loads((work / "metrics.json").read_text())
    control = untrained(job, backbone, spent(backbone) + tuned[FLOPS])
    done = job.scratch / f"done-{NAME}"
    for directory in (control.scratch, done):
        directory.mkdir(exist_ok=True)
    seeds = sweep.seeds or (job.fit.train.seed,)
    own = SweepConfig(learning_rates=config.learning_rates, steps=(), seeds=seeds, rungs=sweep.rungs)
    with progress.of_random_init():
        finetune_sweep.run(control, own, dev_percent, done)
    found = json.loads((done / "metrics.json").read_text())
    rows = json.loads((done / output.RUNS).read_text())
    found["learning_rate"] = rows[-1]["params"]["learning_rate"]
    output.write_json(work / "metrics.json", tuned | {f"{name}{RANDOM_INIT}": one for name, one in found.items()})
    before = json.loads((work / output.RUNS).read_text()) if (work / output.RUNS).is_file() else []
    output.write_json(work / output.RUNS, before + [row | {"name": f"{NAME}/{row['name']}"} for row in rows])


def untrained(job: Job, backbone: Path, budget: float) -> Job:
    """Fine-tuning's job from random weights, by pre-training's recipe, in the updates that `budget` FLOPs pay for."""
    recipe = output.read(backbone)["config"]
    train = pydantic.TypeAdapter(TrainConfig).validate_python(recipe["train"])
    augment = pydantic.TypeAdapter(AugmentConfig).validate_python(recipe["augment"])
    start = functools.partial(network, job.build, recipe["head_bias"])
    num_classes = len(training.corpus(job.images, job.kept, "train").class_names)
    per_image = training_flops(start(num_classes))
    assert per_image is not None, "it is one of our networks"
    return dataclasses.replace(
        job,
        build=start,
        fit=FitConfig(
            resolution=job.fit.resolution,
            train=lasting(train, steps_for(budget, per_image, train.batch_size)),
            augment=augment,
        ),
        scratch=job.scratch / NAME,
        fingerprint=f"{job.fingerprint}-{NAME}",
    )


def steps_for(budget: float, per_image: float, batch_size: int) -> int:
    """Updates until `budget` FLOPs are spent, at `per_image` for an image; the last may go over: none are missing."""
    return max(1, math.ceil(budget / (per_image * batch_size)))


def lasting(train: TrainConfig, steps: int) -> TrainConfig:
    """The recipe over another number of updates: warm-up and cool-down keep their shares."""
    warmup, cooldown = (part * steps // train.steps for part in (train.warmup_steps, train.cooldown_steps))
    return dataclasses.replace(train, steps=steps, warmup_steps=warmup, cooldown_steps=cooldown)


def network(tuned: Callable[[int], Model | MaskedPatchPrediction], head_bias: float, num_classes: int) -> Model:
    """The network that is fine-tuned, with weights as drawn: of the one that `tuned` gives, its shape alone is used."""
    pretrained = tuned(num_classes)
    assert not isinstance(pretrained, MaskedPatchPrediction), "fine-tuning has labels"
    return build(pretrained.config, num_classes, head_bias=head_bias)


def spent(backbone: Path) -> float:
    """FLOPs of pre-training."""
    metrics = json.loads((backbone / "metrics.json").read_text())
    if FLOPS not in metrics:
        raise ValueError(
            f"{backbone}/metrics.json has no {FLOPS}, so what pre-training took is not known: it is from an older "
            "version; delete the directory and pre-train again, or set finetune.random_init to null"
        )
    return float(metrics[FLOPS])
