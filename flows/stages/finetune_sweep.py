"""Sweeps of fine-tuning: points side by side on a dev part of train, then every seed on all of it (paper §3.2).

A point has one worker, so that many run at once; the runs on all of train have all the workers, one after another.
Each keeps its checkpoints, and its dev score once it is done.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from flows.adapters import ray_cluster, storage
from flows.stages import output, progress, results, training
from flows.stages.training import Job
from vit.data.datasets.dev_split import last_percent
from vit.data.shards import Shards
from vit.training.checkpoint import Checkpoints
from vit.training.fit import fit
from vit.training.scoring import score
from vit.training.sweep import Choice, SweepConfig, Wanted, choose, grid, repeated, spread

DEV_INDEX = "dev.parquet"
SUBJECT = "finetune"  # the only one of its sweep
TRAIN, DEV = "train", "dev"  # the splits of that index


@dataclasses.dataclass(frozen=True, kw_only=True)
class DevScore:
    """Of a point."""

    top1: float


def run(job: Job, sweep: SweepConfig, dev_percent: float, work: Path) -> None:
    """Put the model, numbers and curve of the first seed into `work`, the scores of all seeds beside them.

    `metrics.json` has mean and standard deviation over the seeds as `val/top1_mean` and `val/top1_std`.
    """
    choice = chosen(job, sweep, dev_percent)
    tops: dict[int, float] = {}
    for train in repeated(sweep, choice.train):
        scratch, place = job.scratch / f"seed-{train.seed}", job.scratch / f"done-{train.seed}"
        for directory in (scratch, place):
            directory.mkdir(exist_ok=True)
        training.run(dataclasses.replace(job, fit=dataclasses.replace(job.fit, train=train), scratch=scratch), place)
        tops[train.seed] = json.loads((place / "metrics.json").read_text())["val/top1"]
        if len(tops) == 1:
            shutil.copytree(place, work, dirs_exist_ok=True)
    mean, deviation = spread(list(tops.values()))
    metrics = json.loads((work / "metrics.json").read_text())
    output.write_json(work / "metrics.json", metrics | {"val/top1_mean": mean, "val/top1_std": deviation})
    output.write_json(work / output.RUNS, _rows(choice, tops))


def chosen(job: Job, sweep: SweepConfig, dev_percent: float) -> Choice:
    """The best point on the dev part of train; `val` is not looked at."""
    points = grid(sweep, job.fit.train)
    if len(points) > 1:
        _split(training.corpus(job.images, job.kept, "train"), dev_percent, job.scratch / DEV_INDEX)
    return choose({SUBJECT: points}, sweep.rungs, lambda wanted: _dev_scores(job, wanted))[SUBJECT]


def _split(train: Shards, percent: float, index: Path) -> None:
    """Write an index of the training images in which the last `percent` of them, in TFDS's order, are `dev`."""
    table = train.table
    held_out = set(last_percent(table["source_key"].to_pylist(), percent).tolist())
    if not 0 < len(held_out) < len(train):
        raise ValueError(f"dev_percent {percent} of {len(train)} training images leaves none to train or to choose on")
    splits = pa.array([DEV if row in held_out else TRAIN for row in range(len(train))])
    pq.write_table(table.set_column(table.column_names.index("split"), "split", splits), index)


def _dev_scores(job: Job, wanted: Sequence[Wanted[str]]) -> list[float]:
    report = progress.reporter(job.stage, len(wanted))
    scores = {one.name: results.load(_file(job, one), DevScore) for one in wanted}
    items = [(job, one) for one in wanted if scores[one.name] is None]
    for one, found in ray_cluster.map_unordered(score_point, items):
        results.save(_file(job, one), found)
        scores[one.name] = found
        report(sum(score is not None for score in scores.values()), {f"dev/{one.name}": found.top1})
    return [found.top1 for one in wanted if (found := scores[one.name]) is not None]


def score_point(item: tuple[Job, Wanted[str]]) -> tuple[Wanted[str], DevScore]:
    """Train a point where it is called, from its checkpoint on, and score it on the dev images."""
    job, wanted = item
    home = training.corpus(job.images, job.kept, "train").home
    train, dev = (
        Shards(home, job.scratch / DEV_INDEX, splits=(split,), open_store=storage.open) for split in (TRAIN, DEV)
    )
    config = dataclasses.replace(job.fit, train=wanted.train)
    torch.manual_seed(wanted.train.seed)
    model = fit(
        job.build(len(train.class_names)),
        train,
        config,
        checkpoints=Checkpoints(directory=job.scratch / "points" / wanted.name, fingerprint=job.fingerprint),
        report=lambda step, metrics: None,
        val=dev,
    )
    found = score(model, dev, resolution=config.resolution, view=config.augment.evaluation)
    return wanted, DevScore(top1=found["top1"])


def _file(job: Job, wanted: Wanted[str]) -> Path:
    return job.scratch / "points" / f"{wanted.name}.json"


def _rows(choice: Choice, tops: dict[int, float]) -> list[dict[str, Any]]:
    """Every training of the sweep: `name`, `params` and `metrics`."""
    trials = [
        {
            "name": f"dev/lr-{trial.learning_rate:g}-steps-{trial.steps}-part-{trial.fraction:g}",
            "params": {"learning_rate": trial.learning_rate, "steps": trial.steps, "fraction": trial.fraction},
            "metrics": {"dev/top1": trial.top1},
        }
        for trial in choice.trials
    ]
    chosen = {"learning_rate": choice.train.learning_rate, "steps": choice.train.steps}
    return trials + [
        {"name": f"seed-{seed}", "params": chosen | {"seed": seed}, "metrics": {"val/top1": top1}}
        for seed, top1 in tops.items()
    ]
