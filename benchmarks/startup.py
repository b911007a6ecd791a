"""What Ray and its workers add to the start of a stage: `python -m benchmarks.startup`.

For `mini` on a corpus of noise: seconds from calling a stage until its first training step is reported, once on two
Ray workers and once in this process (VITFLOW_WORKERS=0), each in a fresh process, the stages one after the other on one
cluster as in a run. `evaluate` hands its tasks to Ray one by one: there the first answer of a task that only imports
what they need is waited for.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 3
STAGES = ("pretrain", "finetune", "evaluate")


def main() -> None:
    """Print a Markdown table."""
    seconds: dict[str, list[dict[str, float]]] = {"2": [], "0": []}
    for _ in range(ROUNDS):
        for workers, found in seconds.items():
            with tempfile.TemporaryDirectory() as directory:
                found.append(one_run(Path(directory), workers))
    print("| stage | two Ray workers | this process | Ray adds |\n|---|---:|---:|---:|")
    total = 0.0
    for stage in STAGES:
        ray, here = (statistics.median(run[stage] for run in seconds[workers]) for workers in ("2", "0"))
        total += ray - here
        print(f"| {stage} | {ray:.1f} s | {here:.1f} s | {ray - here:.1f} s |")
    print(f"| together | | | {total:.1f} s |")


def one_run(directory: Path, workers: str) -> dict[str, float]:
    """Seconds until the first step of each stage, in a fresh process."""
    env = os.environ | {"VITFLOW_WORKERS": workers}
    command = [sys.executable, "-m", "benchmarks.startup", str(directory)]
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


def stages(root: Path) -> dict[str, float]:
    """What a fresh process does."""
    from flows.stages.config import load
    from flows.stages.finetune import finetune
    from flows.stages.pretrain import pretrain

    config = load("mini", [f"{stage}.train.{key}" for stage in STAGES[:2] for key in ("log_every=1", "warmup_steps=0")])
    inputs = corpus(root, config)
    short = {stage: _short(getattr(config, stage)) for stage in STAGES[:2]}
    found = {
        "pretrain": until_first_step(lambda: pretrain(short["pretrain"], **inputs, out=root / "pretrain")),
        "finetune": until_first_step(
            lambda: finetune(short["finetune"], **inputs, backbone=root / "pretrain", out=root / "finetune")
        ),
    }
    return found | {"evaluate": until_first_task()}


def until_first_step(stage: Callable[[], Any]) -> float:
    from flows.stages import progress

    start, first = time.perf_counter(), []

    def listen(event: progress.Progress) -> None:
        if "train/loss" in event.metrics:
            first.append(time.perf_counter())

    with progress.listening(listen):
        stage()
    return first[0] - start


def until_first_task() -> float:
    from flows.adapters import ray_cluster

    start = time.perf_counter()
    tasks = ray_cluster.map_unordered(imports, range(4))
    next(tasks)
    seconds = time.perf_counter() - start
    list(tasks)
    return seconds


def imports(number: int) -> int:
    import vit.evaluation.vtab  # noqa: F401

    return number


def corpus(root: Path, config: Any) -> dict[str, Path]:
    """What prepare and deduplicate leave, of noise."""
    import pyarrow.parquet as pq

    from flows.stages import output
    from vit.data.shards import Shards, png_example, write

    noise = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    with output.writing(root / "prepare", "prepare", config.prepare, {}) as work:
        examples = [png_example(f"key-{i}", "train" if i % 5 else "val", i % 3, noise[i]) for i in range(200)]
        write(work / "corpus", examples, name="corpus", class_names=["a", "b", "c"])
    with output.writing(root / "kept", "deduplicate", config.deduplicate, {}) as work:
        pq.write_table(Shards(root / "prepare/corpus").table, work / "index.parquet")
    return {"images": root / "prepare", "kept": root / "kept"}


def _short(section: Any) -> Any:
    return dataclasses.replace(section, train=dataclasses.replace(section.train, steps=2))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(stages(Path(sys.argv[1]))))
    else:
        main()
