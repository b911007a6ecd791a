"""Ten tasks of mini-VTAB by our stage, and naively one after another: `python -m benchmarks.evaluate`, `make bench`.

The work is the same: each task's probes of frozen features, one fine-tuning, its score on the test split. Naively each
task is a process of its own with all cores, which takes the features anew for each probe and decodes each image anew
in each epoch. Ours packs the tasks on the workers and decodes once. Wall time of everything from the start of the
first process to the last score; in turns, so that whatever else the machine does hits both.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import ratio
from flows.adapters import ray_cluster
from flows.stages import output, tasks
from flows.stages.config import load
from flows.stages.evaluate import EvaluateConfig
from flows.stages.transfers import Piece, Subject, score_all
from vit.data.shards import Shards
from vit.data.synthetic.mini_vtab import TASKS
from vit.evaluation.features import features
from vit.evaluation.probes import Standard, few_shot, logistic, nearest
from vit.evaluation.probing import LINEAR_PENALTY, Features
from vit.evaluation.vtab import TRAIN_SPLITS, transfer
from vit.models.build import at_resolution, build
from vit.models.weights import native
from vit.training.hyperrule import TransferConfig

Scores = dict[str, dict[str, float]]  # of each task: tuned, linear, few-shot


def main(arguments: Sequence[str]) -> None:
    """Print a Markdown table, and how far the scores of both ways are apart."""
    options = parse(arguments)
    if options.way:
        print(json.dumps({"naive": naive, "ours": ours}[options.way](options)))
        return
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        seconds, scores = dict[str, list[float]](naive=[], ours=[]), dict[str, Scores]()
        for _ in range(options.rounds):
            for way in seconds:
                start = time.perf_counter()
                scores[way] = started(way, Path(place), options)
                seconds[way].append(time.perf_counter() - start)
    cores = len(os.sched_getaffinity(0))
    print(f"{options.tasks} tasks of mini-VTAB, {options.steps} updates each, {cores} cores, {options.rounds} rounds\n")
    print("| way | seconds | |\n|---|---:|---:|")
    for way, times in seconds.items():
        print(f"| {way} | {statistics.median(times):.0f} | {ratio(seconds['naive'], times)} |")
    apart = {"a probe": 0.0, "a fine-tuning": 0.0}
    for task, own in scores["ours"].items():
        for kind, score in own.items():
            which = "a fine-tuning" if kind == "tuned" else "a probe"
            apart[which] = max(apart[which], abs(score - scores["naive"][task][kind]))
    print("\nlargest difference of " + ", of ".join(f"{which}: {value:.4f}" for which, value in apart.items()))
    print(f"(naive adds with {cores} threads, ours with one: after hundreds of updates that is another network)")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__)
    parser.add_argument("--tasks", type=int, default=len(TASKS))
    parser.add_argument("--steps", type=int, default=load("mini").evaluate.train.steps)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--way", choices=("naive", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="*", default=[], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def write(place: Path) -> None:
    """The tasks, and a network of the demo's shape; what it has learned makes no difference to the time."""
    tasks.write_mini(place / "tasks")
    torch.manual_seed(0)
    network = build(at_resolution(load("mini").pretrain.model, 48), 64)
    (place / "model").mkdir()
    native.save(place / "model" / output.MODEL, network)


def started(way: str, place: Path, options: argparse.Namespace) -> Scores:
    """The scores of one way, in processes of its own."""
    names = [task.name for task in TASKS][: options.tasks]
    found: Scores = {}
    where = {**os.environ, "RAY_worker_niceness": "0"}  # Ray would yield to whatever else runs
    for only in [names] if way == "ours" else [[name] for name in names]:
        command = [sys.executable, "-m", "benchmarks.evaluate", "--way", way, "--place", str(place), "--only", *only]
        done = subprocess.run(
            [*command, "--steps", str(options.steps)], env=where, stdout=subprocess.PIPE, text=True, check=True
        )
        found |= json.loads(done.stdout.splitlines()[-1])
    return found


def section(options: argparse.Namespace) -> EvaluateConfig:
    config = load("mini").evaluate
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=options.steps))


def ours(options: argparse.Namespace) -> Scores:
    """By the stage's own packing, on as many workers as there are cores."""
    classes = {task.name: task.num_classes for task in TASKS}
    model = options.place / "model"
    subject = Subject(backbone=model, model=model, tasks=options.place / "tasks", num_classes=classes, leaked={})
    config = section(options)
    protocol = TransferConfig(resolution=config.resolution, train=config.train, augment=config.augment)
    wanted = [
        Piece(task=task, pretrained=True, transfer=protocol, probes=probes)
        for task in options.only
        for probes in (config.probes, None)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        results: dict[str, Any] = score_all(subject, wanted, Path(scratch))
    ray_cluster.stop()
    return {task: _numbers(results[f"frozen/{task}"], results[f"vtab/{task}"]) for task in options.only}


def naive(options: argparse.Namespace) -> Scores:
    """One task as a script would do it."""
    (task,), config = options.only, section(options)
    directory, seed, view = options.place / "tasks" / task, config.train.seed, config.augment.evaluation
    examples, test = Shards(directory, splits=TRAIN_SPLITS), Shards(directory, splits=("test",))
    num_classes = len(examples.class_names)
    weights = options.place / "model" / output.MODEL
    network = native.transfer(weights, resolution=config.resolution, num_classes=num_classes, dropout=0.0)
    found: dict[str, float] = {}
    for probe in (*(f"few_shot_{shots}" for shots in config.probes.shots), "linear", "nearest"):
        support, tests = (features(network, s, resolution=config.resolution, view=view) for s in (examples, test))
        found[probe] = alone(probe, support, tests, num_classes, range(seed, seed + config.probes.supports))
    protocol = TransferConfig(resolution=config.resolution, train=config.train, augment=config.augment)
    torch.manual_seed(seed)
    tuned = transfer(network, task, protocol, examples=examples, test=test)
    return {task: found | {"tuned": tuned.top1}}


def alone(probe: str, support: Features, tests: Features, num_classes: int, seeds: Sequence[int]) -> float:
    """Top-1 of one probe."""
    if probe == "linear":
        weights = logistic(*support, num_classes, penalty=LINEAR_PENALTY)
        classes = (Standard.of(support[0])(tests[0]) @ weights).argmax(dim=1)
    elif probe == "nearest":
        classes = nearest(*support, tests[0], num_classes)
    else:
        shots = int(probe.removeprefix("few_shot_"))
        return statistics.mean(few_shot(support, tests, num_classes, shots, seeds=seeds))
    return float((classes == tests[1]).double().mean())


def _numbers(frozen: Any, tuned: Any) -> dict[str, float]:
    few = {f"few_shot_{shots}": mean for shots, (mean, _) in frozen.few_shot.items()}
    return {"tuned": tuned.top1, "linear": frozen.linear, "nearest": frozen.nearest, **few}


if __name__ == "__main__":
    main(sys.argv[1:])
