"""Score a model: transfer it to every task with 1,000 examples each, beside the same from random weights."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from flows.adapters import ray_cluster
from flows.stages import output, progress
from vit.analysis.figures import task_scores
from vit.data.augment import AugmentConfig
from vit.evaluation.vtab import GROUPS, Score, TransferConfig, means, transfer, untrained
from vit.models.weights.native import transfer as under_new_head
from vit.training.config import TrainConfig
from vit.training.distributed import device


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The transfer protocol, the same for every task (paper Table 4, VTAB row)."""

    resolution: int  # pixels
    train: TrainConfig
    augment: AugmentConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One transfer, picklable."""

    task: str
    num_classes: int
    tasks: Path
    model: Path
    pretrained: bool
    transfer: TransferConfig
    leaked: frozenset[str]  # keys of test images that the corpus shows


def evaluate(config: EvaluateConfig, *, images: Path, dedup: Path, model: Path, out: Path) -> Path:
    """Write scores.json and scores.png; transfers run side by side on the workers.

    Test images that `dedup` found in the corpus are scored, and left out of a second number, as in BiT's Table 7.
    """
    with output.writing(out, "evaluate", config, {"images": images, "dedup": dedup, "model": model}) as work:
        suite = json.loads((images / "tasks" / "tasks.json").read_text())
        if not suite["tasks"]:
            raise ValueError(f"{images}/tasks/tasks.json names no task to evaluate on")
        transfer_config = TransferConfig(
            **{field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        )
        leaked = leaked_keys(dedup)
        jobs = [
            Job(
                task=task["name"],
                num_classes=task["num_classes"],
                tasks=(images / "tasks").resolve(),
                model=model.resolve(),
                pretrained=pretrained,
                transfer=transfer_config,
                leaked=leaked.get(task["name"], frozenset()),
            )
            for task in suite["tasks"]
            for pretrained in (True, False)
        ]
        scores = summarise(suite, _score_all(jobs))
        output.write_json(work / "scores.json", scores)
        task_scores(scores, work / "scores.png")
    return out


def leaked_keys(dedup: Path) -> dict[str, frozenset[str]]:
    """For each task the keys of test images that show what a corpus image shows, before that was removed."""
    pairs = pq.read_table(dedup / "pairs.parquet", columns=["benchmark", "test"]).to_pylist()
    tasks = {pair["benchmark"] for pair in pairs}
    return {task: frozenset(pair["test"] for pair in pairs if pair["benchmark"] == task) for task in tasks}


def _score_all(jobs: list[Job]) -> dict[tuple[str, bool], Score]:
    report = progress.reporter("evaluate", len(jobs))
    scores: dict[tuple[str, bool], Score] = {}
    for job, score in ray_cluster.map_unordered(score_task, jobs):
        scores[job.task, job.pretrained] = score
        kind = "vtab" if job.pretrained else "vtab_random_init"
        report(len(scores), {f"{kind}/{job.task}": score.top1})
    return scores


def score_task(job: Job) -> tuple[Job, Score]:
    """Run one transfer."""
    network = under_new_head(
        job.model / output.MODEL, resolution=job.transfer.resolution, num_classes=job.num_classes, dropout=0.0
    )
    if not job.pretrained:
        network = untrained(network, job.transfer.train.seed)
    torch.manual_seed(job.transfer.train.seed)
    return job, transfer(network.to(device()), job.tasks / job.task, job.transfer, leaked=job.leaked)


def summarise(suite: dict[str, Any], scores: dict[tuple[str, bool], Score]) -> dict[str, Any]:
    """The content of scores.json (ARCHITECTURE.md)."""
    groups = {task["name"]: task["group"] for task in suite["tasks"]}
    families = {task["name"]: task["family"] for task in suite["tasks"]}
    trained = means({task: scores[task, True].top1 for task in groups}, groups)
    random = means({task: scores[task, False].top1 for task in groups}, groups)
    return {
        "family": suite["family"],
        "tasks": {
            task: {
                "group": group,
                "family": families[task],
                "top1": scores[task, True].top1,
                "top1_random_init": scores[task, False].top1,
                "chance": scores[task, True].chance,
                "num_test": scores[task, True].num_test,
                "top1_clean": scores[task, True].top1_clean,
                "num_clean": scores[task, True].num_clean,
            }
            for task, group in groups.items()
        },
        "groups": {
            group: {"top1": trained[group], "top1_random_init": random[group]} for group in GROUPS if group in trained
        },
        "mean_of_tasks": trained["mean_of_tasks"],
        "mean_of_groups": trained["mean_of_groups"],
        "mean_of_tasks_random_init": random["mean_of_tasks"],
        "mean_of_groups_random_init": random["mean_of_groups"],
    }
