"""Score a model: transfer it to every task with 1,000 examples each, beside the same from random weights."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow.parquet as pq

from flows.adapters import storage
from flows.stages import output, scratch
from flows.stages.scores import Judged, Tuned, rows, summarise
from flows.stages.transfers import Piece, Subject, score_all
from vit.analysis.analyse import EXAMPLES, analyse
from vit.analysis.figures import task_scores
from vit.data.augment import AugmentConfig
from vit.data.loader import evaluation_batches
from vit.data.shards import Shards
from vit.data.views import View
from vit.evaluation.probing import ProbeConfig, Probed
from vit.evaluation.vtab import TRAIN_SPLITS, Score
from vit.models import load
from vit.models.vit import ViT
from vit.training.config import TrainConfig
from vit.training.distributed import device
from vit.training.hyperrule import Protocol, TransferConfig, applied
from vit.training.sweep import SweepConfig, Wanted, choose, grid, repeated

Network: TypeAlias = tuple[str, bool]  # by which task it is judged, and whether it starts from the model


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The transfer protocol, the same for every task (paper Table 4, VTAB row)."""

    protocol: Protocol  # own: the numbers below; bit-hyperrule: those of vit/training/hyperrule.py instead
    resolution: int  # pixels
    train: TrainConfig
    augment: AugmentConfig
    probes: ProbeConfig
    sweep: SweepConfig  # for each task by itself, on val200; empty: the paper's global protocol


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
        judged = judge(config, subject, directory)
        scores = summarise(suite, judged)
        output.write_json(work / "scores.json", scores)
        if config.sweep.is_any:
            output.write_json(work / output.RUNS, rows(judged))
        task_scores(scores, work / "scores.png")
        corpus = Shards(images / "corpus", splits=("val",), open_store=storage.open)
        look_inside(model / output.MODEL, corpus, config.augment.evaluation, work)
    return out


def judge(config: EvaluateConfig, subject: Subject, scratch: Path) -> dict[str, Judged]:
    """By task the frozen features, and the transfers from the model and from random weights, chosen on val200."""
    asked = TransferConfig(resolution=config.resolution, train=config.train, augment=config.augment)
    hows = {
        task: applied(config.protocol, asked, Shards(subject.tasks / task, splits=TRAIN_SPLITS))
        for task in subject.num_classes
    }

    def piece(network: Network, train: TrainConfig, **more: Any) -> Piece:
        transfer = dataclasses.replace(hows[network[0]], train=train)
        return Piece(task=network[0], pretrained=network[1], transfer=transfer, **more)

    def dev_scores(wanted: Sequence[Wanted[Network]]) -> list[float]:
        parts = [piece(one.subject, one.train, on_dev=True, variant=one.name) for one in wanted]
        found = score_all(subject, parts, scratch)
        return [cast(Score, found[part.name]).top1 for part in parts]

    networks = [(task, pretrained) for task in subject.num_classes for pretrained in (True, False)]
    points = {network: grid(config.sweep, hows[network[0]].train) for network in networks}
    choices = choose(points, config.sweep.rungs, dev_scores)
    finals = {
        network: {
            train.seed: piece(network, train, variant=f"seed-{train.seed}" if config.sweep.seeds else "")
            for train in repeated(config.sweep, choices[network].train)
        }
        for network in networks
    }
    frozen = {task: piece((task, True), how.train, probes=config.probes) for task, how in hows.items()}
    done = score_all(subject, [*frozen.values(), *(one for runs in finals.values() for one in runs.values())], scratch)

    def tuned(network: Network) -> Tuned:
        scores = {seed: cast(Score, done[one.name]) for seed, one in finals[network].items()}
        return Tuned(choice=choices[network], scores=scores)

    return {
        task: Judged(
            pretrained=tuned((task, True)), untrained=tuned((task, False)), frozen=cast(Probed, done[one.name])
        )
        for task, one in frozen.items()
    }


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
