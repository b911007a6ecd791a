"""What a run would do before it does anything: which stages, on which data, at which cost, and what is missing here.

Costs are counted (images, steps, exaFLOPs, bytes) or follow from vit.training.scaling (hours); nothing is started.
"""

import dataclasses
import functools
import os
import re
import shutil
import time
from collections.abc import Mapping
from typing import Any

from flows.stages import data_found
from flows.stages.config import Pipeline
from flows.stages.random_init import lasting, steps_for
from flows.stages.run import Run
from vit.models.build import ModelConfig, at_resolution
from vit.training.config import TrainConfig
from vit.training.sweep import SweepConfig, grid, repeated

TRAININGS = ("pretrain", "finetune", "evaluate")
LONG = 24.0  # device-hours without a GPU that are worth a sentence
SLOTS = {"adamw": 2, "adam": 2, "sgd": 1}  # what an optimiser keeps beside each weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """What the trainings are reckoned for."""

    name: str
    number: int
    peak: float  # FLOP/s of one in plain products
    memory: float  # bytes of one
    source: str  # where the peak comes from

    @classmethod
    def named(cls, text: str) -> "Devices":
        """`H100` or `8xH100`; raises ValueError naming the devices whose data sheets are known."""
        from vit.training import scaling

        match = re.fullmatch(r"(?:(\d+)\s*x\s*)?(.+)", text.strip())
        if match is None or match[1] == "0":
            raise ValueError(f"devices {text!r} must look like H100 or 8xH100")
        name = scaling.known(match[2])
        return cls(
            name=name,
            number=int(match[1] or 1),
            peak=scaling.peak(name),
            memory=scaling.MEMORY[name],
            source="from its data sheet",
        )

    @classmethod
    def here(cls) -> "Devices":
        """This machine's GPUs, else its processor, whose speed at plain products is measured now: under a second."""
        import psutil
        import torch

        if torch.cuda.is_available():
            about = torch.cuda.get_device_properties(0)
            return cls(
                name=about.name,
                number=torch.cuda.device_count(),
                peak=_measured(8192, "cuda"),
                memory=float(about.total_memory),
                source="measured here",
            )
        memory = float(psutil.virtual_memory().total)
        name = f"{os.cpu_count()} CPU cores"
        return cls(name=name, number=1, peak=_measured(1024, "cpu"), memory=memory, source="measured here")


def forecast(run: Run, plan: Mapping[str, tuple[str, ...]], devices: Devices) -> dict[str, Any]:
    """Everything that `vitflow run NAME --dry-run` says, ready for JSON."""
    stages = {
        stage: {"state": "would run" if why else "up to date", "because": list(why)} for stage, why in plan.items()
    }
    data = data_found.describe(run.config.prepare)
    costs = {stage: cost(run.config, stage, devices, tasks=data["tasks"]["number"]) for stage in TRAININGS}
    memory = needed_memory(run.config.pretrain.model, run.config.pretrain.train)
    return {
        "pipeline": run.pipeline,
        "overrides": list(run.overrides),
        "stages": stages,
        "data": data,
        "devices": dataclasses.asdict(devices),
        "cost": costs,
        "memory": memory,
        "missing": _missing(run, plan, data, costs, memory, devices),
    }


def work(config: Pipeline, stage: str, *, tasks: int) -> dict[str, float]:
    """Trainings, images, steps and exaFLOPs of a stage, as they are counted; of evaluate, of all its trainings."""
    from vit.models import counting

    trainings = _trainings(config, stage)
    if stage == "evaluate":  # a task also from random weights
        trainings = trainings * 2 * tasks + _transfers(config)
    images = sum(train.steps * train.batch_size for train in trainings)
    exaflops = counting.exaflops(_network(config, stage), images)
    steps = sum(train.steps for train in trainings)
    return {"trainings": len(trainings), "images": images, "steps": steps, "exaflops": exaflops}


def _trainings(config: Pipeline, stage: str) -> list[TrainConfig]:
    section = getattr(config, stage)
    if stage == "pretrain":
        return [section.train]
    return _swept(section.sweep, section.train) + (_untrained(config) if stage == "finetune" else [])


def _untrained(config: Pipeline) -> list[TrainConfig]:
    """Fine-tuning's network from random weights on the budget of both trainings, if asked for."""
    from vit.models import counting

    asked, recipe, tuned = config.finetune.random_init, config.pretrain.train, config.finetune
    if asked is None:
        return []
    trainings = {"pretrain": recipe, "finetune": tuned.train}
    budget = sum(
        counting.exaflops(_network(config, stage), train.steps * train.batch_size) for stage, train in trainings.items()
    )
    steps = steps_for(budget, counting.exaflops(_network(config, "finetune"), 1), recipe.batch_size)
    sweep = dataclasses.replace(tuned.sweep, learning_rates=asked.learning_rates, steps=())
    return _swept(sweep, lasting(recipe, steps))


def _transfers(config: Pipeline) -> list[TrainConfig]:
    """To the benchmarks beside VTAB that are trained on, as evaluate does it."""
    asked = config.evaluate
    found: list[TrainConfig] = []
    for row in (asked.benchmarks[name] for name in config.prepare.benchmarks if name in asked.benchmarks):
        train = dataclasses.replace(asked.train, steps=row.steps, warmup_steps=row.warmup_steps)
        sweep = dataclasses.replace(asked.sweep, steps=(), learning_rates=row.learning_rates)
        found += _swept(sweep, train if asked.protocol == "own" else asked.train)
    return found


def _swept(sweep: SweepConfig, train: TrainConfig) -> list[TrainConfig]:
    """The points of a sweep, none of them given up, and what runs once one is chosen; without a sweep the only one."""
    points = grid(sweep, train)
    return [*(points if len(points) > 1 else ()), *repeated(sweep, train)]


def cost(config: Pipeline, stage: str, devices: Devices, *, tasks: int) -> dict[str, float]:
    """What `work` counts, and the device-hours and bytes of a checkpoint that it takes.

    The head is not counted, since the number of classes is not known before prepare. Device-hours are of the training
    alone: loading that does not keep up, validation and scoring come on top.
    """
    from vit.models import counting
    from vit.training import scaling

    train: TrainConfig = getattr(config, stage).train
    network, counted = _network(config, stage), work(config, stage, tasks=tasks)
    about = scaling.Assumptions(peak=devices.peak)
    number = 1 if stage == "evaluate" else devices.number  # transfers run beside each other, one on each device
    step = scaling.predict(network, number, about, batch=train.batch_size, num_classes=0)
    weights = sum(counting.parameters(network, 0).values())
    return counted | {
        "device_hours": counted["images"] / step.images_per_second * number / 3600,
        "checkpoint_bytes": 4.0 * weights * (1 + SLOTS[train.optimizer]),
    }


@functools.lru_cache(maxsize=64)
def needed_memory(network: ModelConfig, train: TrainConfig) -> dict[str, float]:
    """Bytes of pre-training on one device: what stays (weights, gradients, optimiser) and what each image adds."""
    import torch

    from vit.models import counting

    weights = sum(counting.parameters(network, 0).values())
    kept = counting.activations(network, 0, dtype=getattr(torch, train.precision))
    fixed = 4.0 * weights * (2 + SLOTS[train.optimizer])
    return {"fixed_bytes": fixed + kept.per_step, "bytes_per_image": float(kept.per_image)}


def _network(config: Pipeline, stage: str) -> ModelConfig:
    """The network as a stage trains it; the tanh layer is there at pre-training only (§3.1)."""
    network = config.pretrain.model
    if stage == "pretrain":
        return network
    tuned = at_resolution(network, getattr(config, stage).resolution)
    return dataclasses.replace(tuned, representation=False) if tuned.family == "vit" else tuned


def _missing(
    run: Run,
    plan: Mapping[str, tuple[str, ...]],
    data: Mapping[str, Any],
    costs: Mapping[str, Mapping[str, float]],
    memory: Mapping[str, float],
    devices: Devices,
) -> list[str]:
    """What would stop or starve the run on this machine, as sentences; of stages that are up to date, nothing."""
    sentences: list[str] = []
    if plan["prepare"]:
        sentences += [one["missing"] for one in data.values() if one["missing"]]
    running = [stage for stage in TRAININGS if plan[stage]]
    if "pretrain" in running:
        sentences += _memory_missing(memory, devices)
    hours = sum(costs[stage]["device_hours"] for stage in running)
    if hours > LONG and not _has_gpu() and "RAY_ADDRESS" not in os.environ:
        sentences.append(
            f"there is no GPU on this machine, and on {devices.number} x {devices.name} the trainings take "
            f"{hours:,.0f} device-hours; set RAY_ADDRESS to a cluster with GPUs, or override steps and network"
        )
    free = shutil.disk_usage(run.root).free
    largest = max((costs[stage]["checkpoint_bytes"] for stage in running), default=0.0)
    if 2 * largest > free:
        sentences.append(
            f"the disk of {run.root} has {free / 1e9:,.1f} GB free, but two checkpoints of {largest / 1e9:,.1f} GB lie "
            "beside each other; free some space"
        )
    return sentences


def _memory_missing(memory: Mapping[str, float], devices: Devices) -> list[str]:
    least = memory["fixed_bytes"] + memory["bytes_per_image"]
    if least <= devices.memory:
        return []
    return [
        f"pre-training needs {least / 1e9:,.1f} GB on each device for a single image at a time, but {devices.name} has "
        f"{devices.memory / 1e9:,.1f} GB; VITFLOW_SHARD=1 spreads weights and optimiser over devices, "
        "VITFLOW_RECOMPUTE=1 keeps fewer activations"
    ]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _measured(side: int, device: str) -> float:
    """FLOP/s of a product of two square matrices: bfloat16 on a GPU, float32 on a processor. The best of three."""
    import torch

    kind = torch.bfloat16 if device == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        float((left @ right)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2.0 * side**3 / best
