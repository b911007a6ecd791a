"""The first 30 losses of `mini`'s pre-training, on a corpus of the same kind that is drawn in seconds.

`python -m tests.vit.training.golden` writes tests/golden/mini_pretrain.json again: a change of numerics is a decision.
"""

import contextlib
import dataclasses
import json
import tempfile
from pathlib import Path

import torch

from flows.stages.config import load
from flows.stages.pretrain import network
from vit.data.loader import training_batches
from vit.data.shards import Shards
from vit.data.synthetic import corpus
from vit.training.loop import train

FILE = Path(__file__).parents[2] / "golden" / "mini_pretrain.json"
IMAGES, STEPS = 1500, 30


def losses(directory: Path) -> list[float]:
    """Losses of steps 1 to 30 of the schedule of `mini`, each of the whole batch of 64."""
    config = load("mini").pretrain
    corpus.write(directory / "corpus", {"none": []}, seed=0, num_images=IMAGES, val_fraction=0.05, planted_fraction=0.0)
    shards = Shards(directory / "corpus", splits=("train",))
    torch.manual_seed(config.train.seed)
    model, found = network(config, len(shards.class_names)), list[float]()

    def log(step: int, metrics: dict[str, float]) -> None:
        found.append(metrics["train/loss"])
        if step == STEPS:
            raise StopIteration

    every = dataclasses.replace(config.train, log_every=1)
    with contextlib.suppress(StopIteration):
        train(
            model,
            lambda first: training_batches(
                shards,
                resolution=config.model.resolution,
                config=config.augment,
                batch_size=every.batch_size,
                seed=every.seed,
                first_step=first,
            ),
            every,
            state=None,
            log=log,
            save=lambda _: None,
        )
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        FILE.write_text(json.dumps(losses(Path(directory)), indent=1) + "\n")
