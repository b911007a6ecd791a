"""Score a model: transfer it to every task with 1,000 examples each, beside the same from random weights."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from flows.adapters import storage
from flows.stages import output, scratch
from flows.stages.transfers import Piece, Result, Subject, score_all
from vit.analysis.analyse import EXAMPLES, analyse
from vit.analysis.figures import task_scores
from vit.data.augment import AugmentConfig
from vit.data.loader import evaluation_batches
from vit.data.shards import Shards
from vit.data.views import View
from vit.evaluation.probing import ProbeConfig, Probed
from vit.evaluation.vtab import GROUPS, TransferConfig, means
from vit.models import load
from vit.models.vit import ViT
from vit.training.config import TrainConfig
from vit.training.distributed import device


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The transfer protocol, the same for every task (paper Table 4, VTAB row)."""

    resolution: int  # pixels
    train: TrainConfig
    augment: AugmentConfig
    probes: ProbeConfig


def evaluate(config: EvaluateConfig, *, images: Path, dedup: Path, model: Path, out: Path) -> Path:
    """Write scores.json, scores.png and looks inside the network; transfers run side by side on the workers.

    Test images that `dedup` found in the corpus are scored, and left out of a second number, as in BiT's Table 7.
    """
    inputs = {"images": images, "dedup": dedup, "model": model}
    with (
        scratch.directory(out, "evaluate", config, inputs) as (directory, _),
        output.writing(out, "evaluate", config, inputs) as work,
    ):
        suite = json.loads((images / "tasks" / "tasks.json").read_text())
        if not suite["tasks"]:
            raise ValueError(f"{images}/tasks/tasks.json names no task to evaluate on")
        subject = Subject(
            model=model.resolve(),
            tasks=(images / "tasks").resolve(),
            num_classes={task["name"]: task["num_classes"] for task in suite["tasks"]},
            leaked=leaked_keys(dedup),
        )
        scores = summarise(suite, score_all(subject, pieces(config, list(subject.num_classes)), directory))
        output.write_json(work / "scores.json", scores)
        task_scores(scores, work / "scores.png")
        corpus = Shards(images / "corpus", splits=("val",), open_store=storage.open)
        look_inside(model / output.MODEL, corpus, config.augment.evaluation, work)
    return out


def pieces(config: EvaluateConfig, tasks: Sequence[str]) -> list[Piece]:
    """Every task by frozen features, from the model and from random weights."""
    protocol = TransferConfig(resolution=config.resolution, train=config.train, augment=config.augment)
    ways: list[dict[str, Any]] = [
        {"pretrained": True, "probes": config.probes},
        {"pretrained": True},
        {"pretrained": False},
    ]
    return [Piece(task=task, transfer=protocol, **way) for task in tasks for way in ways]


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


def summarise(suite: dict[str, Any], results: Mapping[str, Result]) -> dict[str, Any]:
    """The content of scores.json (ARCHITECTURE.md) from results by the names of their pieces."""
    groups = {task["name"]: task["group"] for task in suite["tasks"]}
    families = {task["name"]: task["family"] for task in suite["tasks"]}
    tuned, untuned, frozen = (of_tasks(results, kind, groups) for kind in ("vtab", "vtab_random_init", "frozen"))
    trained = means({task: score.top1 for task, score in tuned.items()}, groups)
    random = means({task: score.top1 for task, score in untuned.items()}, groups)
    return {
        "family": suite["family"],
        "tasks": {
            task: {
                "group": group,
                "family": families[task],
                "top1": tuned[task].top1,
                "top1_random_init": untuned[task].top1,
                "chance": tuned[task].chance,
                "num_test": tuned[task].num_test,
                "top1_clean": tuned[task].top1_clean,
                "num_clean": tuned[task].num_clean,
                "frozen": probed(frozen[task]),
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
        "frozen_mean_of_tasks": mean_of_probes(list(frozen.values())),
    }


def of_tasks(results: Mapping[str, Result], kind: str, tasks: Iterable[str]) -> dict[str, Any]:
    """By task the result of the piece `kind/TASK`."""
    return {task: results[f"{kind}/{task}"] for task in tasks}


def probed(one: Probed) -> dict[str, Any]:
    """Scores on frozen features as JSON."""
    few = {str(shots): {"top1": mean, "std": deviation} for shots, (mean, deviation) in one.few_shot.items()}
    return {"few_shot": few, "linear": one.linear, "nearest": one.nearest}


def mean_of_probes(tasks: list[Probed]) -> dict[str, float]:
    """Means over tasks by probe: `few_shot_5`, `linear`, `nearest`."""
    columns = [
        {f"few_shot_{shots}": mean for shots, (mean, _) in task.few_shot.items()}
        | {"linear": task.linear, "nearest": task.nearest}
        for task in tasks
    ]
    return {name: float(np.mean([column[name] for column in columns])) for name in columns[0]}
