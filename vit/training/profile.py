"""Where the time of an update goes on this machine: waiting for data, forward, backward, optimiser, communication."""

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Generator, Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vit.data.loader import training_batches
from vit.data.shards import Shards
from vit.models.masked import MaskedPatchPrediction
from vit.training import masking
from vit.training.config import TrainConfig
from vit.training.distributed import device, from_rank_0, unwrap, world_size
from vit.training.fit import FitConfig
from vit.training.flops import measured_peak, training_flops
from vit.training.objective import Batch, make_objective
from vit.training.optimizer import make_optimizer
from vit.training.placement import micro_batch, place
from vit.training.update import update

FEWEST, MOST = 3, 50  # updates that are timed
PARTS: tuple[str, ...] = ("data", "forward", "backward", "optimizer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """Medians over the timed updates, in seconds; the parts are timed one after the other, so they may overlap."""

    update: float  # one whole, nobody looking inside
    parts: dict[str, float]  # by PARTS
    communication: float | None  # what the backward pass takes longer than without other ranks; None for a single one
    images_per_second: float  # of whole updates, over all ranks
    mfu: float | None  # of the measured peak; None for a network whose FLOPs are not counted


def batches(shards: Shards, model: nn.Module, config: FitConfig) -> Generator[Batch]:
    """What a training of this network would be given, from its first update on."""
    train = config.train
    stream = training_batches(
        shards,
        first_step=0,
        seed=train.seed,
        resolution=config.resolution,
        config=config.augment,
        batch_size=train.batch_size,
    )
    with contextlib.closing(stream):
        if isinstance(model, MaskedPatchPrediction):
            yield from masking.masked(stream, model, shards, train, config.augment, 0)
        else:
            yield from stream


def profile(network: nn.Module, source: Iterator[Batch], config: TrainConfig, *, seconds: float) -> Profile:
    """Train `network` (in place) for about so many seconds and see where they go; call it on every rank.

    Raises what the switches of vit.training.placement raise if they exclude each other.
    """
    model = place(network.to(device()), config)
    plain = unwrap(model)
    optimizer, objective = make_optimizer(plain, config), make_objective(plain, config)
    size = micro_batch(config.batch_size, world_size())
    model.train()

    def step(mark: Callable[[str], None]) -> None:
        batch = next(source)
        mark("data")
        update(model, optimizer, objective, batch, config, size, mark)

    _timed(step)  # compile, allocate, fill caches
    count = from_rank_0(min(max(round(seconds / 2 / _timed(step)), FEWEST), MOST))
    whole = statistics.median(_timed(step) for _ in range(count))
    parts = _medians([_split(step) for _ in range(count)])
    speed = config.batch_size / whole
    flops = training_flops(plain)
    peak = measured_peak(device(), config.precision)
    return Profile(
        update=whole,
        parts=parts,
        communication=_communication(model, step, parts["backward"], count),
        images_per_second=speed,
        mfu=None if flops is None else speed / world_size() * flops / peak,
    )


def resident(source: Iterator[Batch]) -> Iterator[Batch]:
    """The first batch, again and again: data that is there already."""
    return itertools.repeat(next(source))


def _communication(
    model: nn.Module, step: Callable[[Callable[[str], None]], None], backward: float, count: int
) -> float | None:
    """Of replicas; parameters that are spread (FSDP2) cannot be trained without the other ranks."""
    if not isinstance(model, DistributedDataParallel):
        return None
    with model.no_sync():
        alone = _medians([_split(step) for _ in range(count)])
    return max(backward - alone["backward"], 0.0)


def _timed(step: Callable[[Callable[[str], None]], None]) -> float:
    _synchronise()
    start = time.perf_counter()
    step(lambda part: None)
    _synchronise()
    return time.perf_counter() - start


def _split(step: Callable[[Callable[[str], None]], None]) -> dict[str, float]:
    """Seconds of each part, waiting for the device after each."""
    found = dict.fromkeys(PARTS, 0.0)
    _synchronise()
    last = time.perf_counter()

    def mark(part: str) -> None:
        nonlocal last
        _synchronise()
        now = time.perf_counter()
        found[part] += now - last
        last = now

    step(mark)
    return found


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {part: statistics.median(row[part] for row in rows) for part in PARTS}


def _synchronise() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()
