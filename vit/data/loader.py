"""Batches for the training loop: decoded and augmented ahead of time, in our own sample order, on the device.

uint8 travels to the device, normalising and mixing happen there. Where the work is done changes no pixel and is
therefore environment: VITFLOW_LOADER (threads or processes) and VITFLOW_LOADER_WORKERS (how many per rank; 0 loads in
the training thread).
"""

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from vit.data import workers
from vit.data.augment import AugmentConfig
from vit.data.mixing import erase, mix
from vit.data.order import Order, Samples, batch, samples_at
from vit.data.shards import Shards
from vit.data.views import View
from vit.data.workers import Pending, Recipe
from vit.training.distributed import device, rank, world_size
from vit.typing import Ints, Pixels

MOST_THREADS = 8  # 16 took Python's lock from the thread that trains, and halved ViT-B/16 on an H200 (docs/scaling.md)
AHEAD = 3  # batches being prepared while one is trained on
KINDS = ("threads", "processes")


class Stream(Iterator[tuple[Tensor, Tensor]]):
    """Batches without end, and for how long the device had nothing to do because the next one was not ready."""

    def __init__(self, batches: Callable[["Stream"], Generator[tuple[Tensor, Tensor]]]) -> None:
        self.waited = 0.0  # seconds so far
        self._batches = batches(self)

    def __next__(self) -> tuple[Tensor, Tensor]:
        return next(self._batches)

    def close(self) -> None:
        """End the loader's threads or processes."""
        self._batches.close()


def training_batches(
    shards: Shards, *, resolution: int, config: AugmentConfig, batch_size: int, seed: int, first_step: int
) -> Stream:
    """This rank's share of every batch from `first_step` on, without end: images B 3 R R in [-1, 1], labels B.

    Labels are float targets B C if images are mixed or have several labels. Depends on (seed, step) only: the global
    batch is the same for any number of ranks and workers. Raises UnreadableImage or BadShard naming the image or shard.
    """
    order = Order(seed=seed, config=config.order, labels=shards.labels, shard_sizes=shards.shard_sizes)
    recipe = Recipe(shards=shards, resolution=resolution, seed=seed, augment=config, evaluation=config.evaluation)

    def batches(stream: Stream) -> Generator[tuple[Tensor, Tensor]]:
        samples = _announced(shards, order, batch_size, first_step)
        with contextlib.closing(_loaded(recipe, samples, batch_size // world_size())) as loaded:
            for step, pending in zip(itertools.count(first_step), loaded, strict=False):
                stream.waited += _wait(pending)
                images, targets = _on_device(pending, shards, soft=config.mix.is_mixing)
                images = erase(images, pending.samples, config.mix, seed=seed)
                yield mix(images, targets, config.mix, seed=seed, step=step)

    return Stream(batches)


def evaluation_batches(
    shards: Shards, rows: Sequence[int], *, resolution: int, view: View, batch_size: int = 256
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images of the given rows in order, nothing random: images B 3 R R in [-1, 1], labels B.

    Labels are targets B C, 1 for each of an image's labels, if there may be several.
    """
    recipe = Recipe(shards=shards, resolution=resolution, seed=0, augment=None, evaluation=view)
    ids = np.array(rows, dtype=np.int64)
    batches = (ids[start : start + batch_size] for start in range(0, len(ids), batch_size))
    samples = (Samples(part, np.zeros_like(part), part) for part in batches)
    with contextlib.closing(_loaded(recipe, samples, batch_size)) as loaded:
        for pending in loaded:
            pending.result()
            yield _on_device(pending, shards, soft=False)


def to_input(images: Pixels) -> Tensor:
    """uint8 pixels [B, R, R, 3] to the network's float32 [B, 3, R, R] in [-1, 1], on this rank's device."""
    (pixels,) = _copied(torch.from_numpy(images))
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def worker_count() -> int:
    """Loader threads or processes of this rank: VITFLOW_LOADER_WORKERS, else its share of the cores beside a GPU, and
    of threads MOST_THREADS. On a CPU one: the network needs the cores. Raises ValueError for what is no count.
    """
    text = os.environ.get("VITFLOW_LOADER_WORKERS", "")
    if text:
        if not text.isdecimal():
            raise ValueError(f"VITFLOW_LOADER_WORKERS is {text!r}, but must be a whole number, 0 or more")
        return int(text)
    if device().type == "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", world_size())))
    return share if _kind() == "processes" else min(share, MOST_THREADS)


def _kind() -> str:
    kind = os.environ.get("VITFLOW_LOADER", KINDS[0])
    if kind not in KINDS:
        raise ValueError(f"VITFLOW_LOADER is {kind!r}, but must be one of {', '.join(KINDS)}")
    return kind


def _loaded(recipe: Recipe, batches: Iterator[Samples], batch_size: int) -> Generator[Pending]:
    """The batches in order, their views being made by threads or processes."""
    kind, count = _kind(), worker_count()
    if kind == "processes" and count:
        made = workers.processes(recipe, count, batch_size=batch_size, in_flight=AHEAD + 1)
    else:
        made = workers.threads(recipe, count, _allocate)
    with made as submit:
        yield from workers.ahead(submit, batches, AHEAD if count else 0)


def _announced(shards: Shards, order: Order, batch_size: int, first_step: int) -> Iterator[Samples]:
    """This rank's samples from `first_step` on; the remote shards of them are announced a window before.

    The ranks of a node share its cache, so it fetches what any of them announces, once, and nothing else.
    """
    horizon, announced = max(order.config.window * order.config.repeats, AHEAD * batch_size), -1
    for step in itertools.count(first_step):
        samples = batch(order, step, batch_size=batch_size, rank=rank(), world_size=world_size())
        place = step * batch_size
        if place // horizon != announced:
            announced = place // horizon
            places = np.arange(place, place + 2 * horizon)
            own = places % batch_size // len(samples.ids) == rank()
            shards.prefetch(samples_at(order, places[own]).ids)
        yield samples


def _allocate(shape: tuple[int, int, int, int]) -> Pixels:
    """Page-locked beside a GPU, so that copying does not stop the training thread; torch uses such memory again."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=device().type == "cuda").numpy()


def _wait(pending: Pending) -> float:
    """Wait for a batch; returns the seconds in which the device had nothing else to do."""
    start = time.perf_counter()
    if device().type == "cuda" and not pending.is_ready():
        busy = torch.cuda.Event()
        busy.record()
        while not (pending.is_ready() or busy.query()):
            time.sleep(0.0005)
        start = time.perf_counter()
    pending.result()
    return time.perf_counter() - start


def _on_device(pending: Pending, shards: Shards, *, soft: bool) -> tuple[Tensor, Tensor]:
    ids = pending.samples.ids
    images = to_input(pending.pixels)
    if not (soft or shards.multi_label):
        (labels,) = _copied(torch.from_numpy(shards.labels[ids]))
        return images, labels
    rows, classes = _copied(*(torch.from_numpy(column) for column in _labels(shards, ids)))
    targets = torch.zeros(len(ids), len(shards.class_names), device=device())
    targets[rows, classes] = 1.0
    return images, targets


def _labels(shards: Shards, ids: Ints) -> tuple[Ints, Ints]:
    """Which row has which class, int64 [L] each; an image may have several, or none."""
    if not shards.multi_label:
        rows = np.flatnonzero(shards.labels[ids] >= 0)
        return rows, shards.labels[ids[rows]]
    sets: list[tuple[int, ...]] = [shards.label_sets[i] for i in ids.tolist()]
    rows = np.repeat(np.arange(len(ids)), [len(labels) for labels in sets])
    return rows, np.fromiter(itertools.chain.from_iterable(sets), np.int64, len(rows))


def _copied(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same on this rank's device; beside a GPU copied while it computes."""
    if device().type == "cpu":
        return tensors
    stream = _copy_stream(device())
    with torch.cuda.stream(stream):
        copies = tuple(tensor.pin_memory().to(device(), non_blocking=True) for tensor in tensors)
    torch.cuda.current_stream().wait_stream(stream)
    for copy in copies:
        copy.record_stream(torch.cuda.current_stream())
    return copies


@functools.cache
def _copy_stream(where: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(where)
