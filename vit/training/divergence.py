"""What is remembered about updates that went wrong: which they were, and which images they were made of."""

import json
import os
from pathlib import Path
from typing import Any

from vit.data.augment import AugmentConfig
from vit.data.order import Order, batch
from vit.data.shards import Shards
from vit.training.config import TrainConfig
from vit.training.loop import Diverged

FILE = "diverged.json"


def skipped(directory: Path) -> list[int]:
    """Updates (0-based) of the run with these checkpoints that are left out because they diverged."""
    path = directory / FILE
    return [int(entry["step"]) for entry in json.loads(path.read_text())] if path.is_file() else []


def note(directory: Path, error: Diverged, shards: Shards, train: TrainConfig, augment: AugmentConfig) -> Path:
    """Add an update to those left out, with the keys of its whole global batch; returns the file that says so."""
    order = Order(seed=train.seed, config=augment.order, labels=shards.labels, shard_sizes=shards.shard_sizes)
    samples = batch(order, error.step, batch_size=train.batch_size)
    path = directory / FILE
    entries: list[Any] = json.loads(path.read_text()) if path.is_file() else []
    rows: list[int] = samples.ids.tolist()
    keys = [shards.keys[row] for row in rows]
    entries.append({"step": error.step, "why": str(error), "images": keys, "epochs": samples.epochs.tolist()})
    directory.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{FILE}.writing-{os.getpid()}")
    work.write_text(json.dumps(entries, indent=1) + "\n")
    work.replace(path)
    return path
