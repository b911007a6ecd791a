"""Score what was pre-trained: transfer it to every task with 1,000 examples each, beside the same from random weights.

The fine-tuned model is scored on the benchmarks that have its classes, and looked into.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from flows.adapters import storage
from flows.stages import output, scratch
from flows.stages.judging import BenchmarkConfig, Plan, by_task, few_shot_piece, hows, judge, named
from flows.stages.scores import benchmarks, rows, summarise
from flows.stages.suite import AS_IS, DOWNSTREAM, TRANSFERRED
from flows.stages.transfers import Subject
from vit.analysis.analyse import EXAMPLES, analyse
from vit.analysis.figures import task_scores
from vit.data.augment import AugmentConfig
from vit.data.index import read_manifest
from vit.data.loader import evaluation_batches
from vit.data.shards import Shards
from vit.data.store import as_store
from vit.data.views import View
from vit.evaluation.probing import ProbeConfig
from vit.evaluation.vtab import GROUPS, TRAIN_SPLITS
from vit.models import load
from vit.models.vit import ViT
from vit.training.config import TrainConfig
from vit.training.distributed import device
from vit.training.hyperrule import Protocol, TransferConfig
from vit.training.sweep import SweepConfig

DEV_LAST = ("train", "val")  # of a benchmark: val is what the paper holds out of train


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The transfer protocol, the same for every task (paper Table 4, VTAB row)."""

    protocol: Protocol  # own: the numbers below; bit-hyperrule: those of vit/training/hyperrule.py instead
    resolution: int  # pixels
    train: TrainConfig
    augment: AugmentConfig
    probes: ProbeConfig
    sweep: SweepConfig  # for each task by itself, on val200; empty: the paper's global protocol
    benchmarks: Mapping[str, BenchmarkConfig]  # by name, those of prepare.benchmarks that are transferred to


def evaluate(config: EvaluateConfig, *, images: Path, dedup: Path, backbone: Path, model: Path, out: Path) -> Path:
    """Write scores.json, scores.png and looks inside the network; transfers run side by side on the workers.

    Transfers and probes start from the pre-trained `backbone` (paper Sec. 4.1); `model` is what was fine-tuned from it.
    Test images that `dedup` found in the corpus are scored, and left out of a second number, as in BiT's Table 7.
    """
    inputs = {"images": images, "dedup": dedup, "backbone": backbone, "model": model}
    with (
        scratch.directory(out, "evaluate", config, inputs) as (directory, _),
        output.writing(out, "evaluate", config, inputs) as work,
    ):
        suite = json.loads((images / "tasks" / "tasks.json").read_text())
        if not suite["tasks"]:
            raise ValueError(f"{images}/tasks/tasks.json names no task to evaluate on")
        subject = Subject(
            backbone=backbone.resolve(),
            model=model.resolve(),
            tasks=(images / "tasks").resolve(),
            num_classes={task["name"]: task["num_classes"] for task in suite["tasks"]},
            leaked=leaked_keys(dedup),
            downstream=probed(images),
        )
        plan = plan_of(config, suite["tasks"], subject)
        tuned, frozen, few = judge(plan, subject, config.sweep.rungs, directory)
        scores = summarise(suite, by_task(tuned, frozen), benchmarks(suite["tasks"], tuned), few)
        output.write_json(work / "scores.json", scores)
        if any(sweep.is_any for sweep in plan.sweeps.values()):
            output.write_json(work / output.RUNS, rows(tuned))
        task_scores(scores, work / "scores.png")
        corpus = Shards(images / "corpus", splits=("val",), open_store=storage.open)
        look_inside(model / output.MODEL, corpus, config.augment.evaluation, work)
    return out


def probed(images: Path) -> Path | None:
    """The downstream images, if there are some and each has one label, as few-shot probes need it."""
    own = (images / DOWNSTREAM).resolve()
    return own if own.is_dir() and not read_manifest(as_store(own)).get("multi_label") else None


def plan_of(config: EvaluateConfig, suite: Sequence[dict[str, Any]], subject: Subject) -> Plan:
    """VTAB's tasks by one protocol; benchmarks by their rows of Table 4, or answered as the model is."""
    asked = TransferConfig(resolution=config.resolution, train=config.train, augment=config.augment)
    vtab = [task["name"] for task in suite if task["group"] in GROUPS]
    as_is = [task["name"] for task in suite if task["group"] == AS_IS]
    rows_of = named([task["name"] for task in suite if task["group"] == TRANSFERRED], config.benchmarks)
    splits = dict.fromkeys(vtab, TRAIN_SPLITS) | dict.fromkeys(rows_of, DEV_LAST)
    how = hows(config.protocol, asked, subject.tasks, splits)
    sweeps = dict.fromkeys(vtab, config.sweep)
    for name, row in rows_of.items():
        if config.protocol == "own":
            train = dataclasses.replace(how[name].train, steps=row.steps, warmup_steps=row.warmup_steps)
            how[name] = dataclasses.replace(how[name], train=train)
        sweeps[name] = dataclasses.replace(config.sweep, steps=(), learning_rates=row.learning_rates)
    return Plan(
        hows=how | dict.fromkeys(as_is, asked),
        sweeps=sweeps,
        splits=splits,
        networks=[(task, kind) for task in vtab for kind in (True, False)] + [(name, True) for name in rows_of],
        frozen=dict.fromkeys(vtab, config.probes),
        as_is=as_is,
        few_shot=few_shot_piece(asked, config.probes) if subject.downstream and config.probes.shots else None,
    )


def look_inside(model: Path, examples: Shards, view: View, out: Path) -> None:
    """Filters, positions, attention distance and rollout of a Vision Transformer, over validation images."""
    network = load(model)
    if isinstance(network, ViT) and len(examples):
        rows = np.linspace(0, len(examples) - 1, min(EXAMPLES, len(examples))).astype(int)
        resolution = network.config.resolution
        batches = evaluation_batches(examples, rows.tolist(), resolution=resolution, view=view, batch_size=len(rows))
        analyse(network.to(device()), next(batches)[0], out)


def leaked_keys(dedup: Path) -> dict[str, frozenset[str]]:
    """For each task the keys of test images that show what a corpus image shows, before that was removed."""
    pairs = pq.read_table(dedup / "pairs.parquet", columns=["benchmark", "test"]).to_pylist()
    tasks = {pair["benchmark"] for pair in pairs}
    return {task: frozenset(pair["test"] for pair in pairs if pair["benchmark"] == task) for task in tasks}
