"""What pre-training and fine-tuning share: a fit on the workers, then the model, its numbers and its curve."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.csv import write_csv
from torch import nn

from flows.adapters import checkpoint_mirror, ray_training, storage
from flows.stages import output, progress
from vit.analysis.figures import training_curve
from vit.data.shards import Shards
from vit.models.build import Model
from vit.models.masked import MaskedPatchPrediction
from vit.models.weights import native
from vit.training import masking, mirror
from vit.training.checkpoint import Checkpoints
from vit.training.distributed import barrier, rank, world_size
from vit.training.fit import FitConfig, fit, timed
from vit.training.flops import training_flops
from vit.training.placement import micro_batch
from vit.training.scoring import score

HISTORY = "history.jsonl"
STEPS, FLOPS = "train/steps", "train/flops"  # in metrics.json: updates that were done, and what they took


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker needs, picklable."""

    stage: str
    build: Callable[[int], Model | MaskedPatchPrediction]  # number of classes -> network to start from
    images: Path  # shards
    kept: Path | None  # directory of deduplicate whose index.parquet says which of them stay; None: all do
    fit: FitConfig
    scratch: Path  # checkpoints and the result, outside the stage's output
    fingerprint: str


def corpus(images: Path, kept: Path | None, split: str) -> Shards:
    """The images of a split that de-duplication left."""
    return Shards(images, kept and kept / "index.parquet", splits=(split,), open_store=storage.open)


def run(job: Job, work: Path) -> None:
    """Train on the workers and put model.safetensors, metrics.* and curves.png into `work`."""
    check_split(corpus(job.images, job.kept, "train"))
    report = timed(progress.reporter(job.stage, job.fit.train.steps), job.fit.train.steps)
    ray_training.run(
        worker,
        job,
        name=f"{job.stage}-{job.fingerprint}",
        storage=job.scratch / "ray",
        report=report,
        fits=functools.partial(micro_batch, job.fit.train.batch_size),
    )
    for file in sorted((job.scratch / "result").iterdir()):
        shutil.copy2(file, work / file.name)
    kept = checkpoint_mirror.configured(f"{job.stage}-{job.fingerprint}")
    if kept is not None:
        mirror.clear(kept, kept.names())


def check_split(shards: Shards) -> None:
    """Raises ValueError if nothing is left to train on, or a class has no training image."""
    if not len(shards):
        raise ValueError(
            "no training images are left after de-duplication; look at the pairs in the report of deduplicate"
        )
    several = shards.label_sets if shards.multi_label else ()
    seen = set(shards.labels.tolist()).union(*several)
    missing = sorted(set(range(len(shards.class_names))) - seen)
    if missing and not shards.listed:
        named = ", ".join(shards.class_names[label] for label in missing[:5])
        raise ValueError(
            f"{len(missing)} classes have no training image, among them {named}; add images or drop the class"
        )


def worker(job: Job, report: ray_training.Report) -> None:
    """What every rank runs: fit, score the validation split; rank 0 leaves the result in the scratch directory."""
    kept = Checkpoints(
        directory=job.scratch / "checkpoints",
        fingerprint=job.fingerprint,
        mirror=checkpoint_mirror.configured(f"{job.stage}-{job.fingerprint}"),
    )
    history = kept.directory / HISTORY

    def record(step: int, metrics: dict[str, float]) -> None:
        line = {"step": step} | {name: value for name, value in metrics.items() if name.startswith("train/")}
        with history.open("a") as file:
            file.write(json.dumps(line) + "\n")
        report(step, metrics)

    train, val = (corpus(job.images, job.kept, split) for split in ("train", "val"))
    _seed(job.fit.train.seed)
    model = fit(
        job.build(len(train.class_names)),
        train,
        job.fit,
        checkpoints=kept,
        report=record,
        val=val,
    )
    found = {f"val/{name}": value for name, value in _validated(model, val, job.fit).items()}
    if rank() == 0:
        report(job.fit.train.steps, found)
        masked = isinstance(model, MaskedPatchPrediction)
        body, class_names = (model.vit, []) if masked else (model, train.class_names)
        assert isinstance(body, Model)
        found |= {"num_train": len(train), "num_val": len(val), "world_size": world_size()}
        _write_result(job, body, class_names, found, per_image=training_flops(model))
    barrier()


def _validated(model: nn.Module, val: Shards, fit: FitConfig) -> dict[str, float]:
    """What the model is worth on the validation split: its answers, or how well it guesses hidden patches."""
    view = fit.augment.evaluation
    if isinstance(model, MaskedPatchPrediction):
        return {"loss": masking.loss(model, val, fit.resolution, view)}
    return score(model, val, resolution=fit.resolution, view=view)


def _write_result(
    job: Job, model: Model, class_names: list[str], metrics: dict[str, Any], *, per_image: float | None
) -> None:
    """`per_image` are the FLOPs of a training step for one image."""
    assert per_image is not None, "it is one of our networks"
    result = job.scratch / "result"
    shutil.rmtree(result, ignore_errors=True)
    result.mkdir()
    view = job.fit.augment.evaluation
    native.save(result / output.MODEL, model, class_names=class_names, evaluation=view)
    rows = _history(job.scratch / "checkpoints" / HISTORY)
    steps = rows[-1]["step"]
    done = {STEPS: steps, FLOPS: per_image * job.fit.train.batch_size * steps, "train/loss": rows[-1]["train/loss"]}
    output.write_json(result / "metrics.json", metrics | done)
    write_csv(pa.Table.from_pylist(rows), result / "metrics.csv")
    top1 = metrics.get("val/top1")
    title = f"validation loss {metrics['val/loss']:.4g}" if top1 is None else f"validation top-1 {top1:.1%}"
    training_curve(rows, f"{job.stage}: {title}", result / "curves.png")


def _history(path: Path) -> list[dict[str, Any]]:
    """One row per logged step; what a resumed run did again replaces what it had done."""
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "train/loss" in row:
            rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def _seed(seed: int) -> None:
    """Same initial weights on every rank and in every attempt."""
    import torch

    torch.manual_seed(seed)
