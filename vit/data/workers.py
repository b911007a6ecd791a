"""Views made ahead of time by threads or by processes, handed over in the order they were asked for.

Threads are enough while decoders do the work, since those release Python's lock; processes where Python itself is the
limit (RandAugment at thousands of images a second). Either makes the same pixels. Knows no torch: a process that loads
images starts in a second and stays small.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple, Protocol

import numpy as np

from vit.data.augment import AugmentConfig, draws, training_view
from vit.data.decode import UnreadableImage
from vit.data.order import Samples
from vit.data.shards import Shards
from vit.data.views import View, evaluation_view
from vit.typing import Pixels

VERIFIED = 2_000_000  # images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What there is to know about the views of a corpus; picklable."""

    shards: Shards
    resolution: int  # pixels
    seed: int
    augment: AugmentConfig | None  # None: nothing is random
    evaluation: View

    def shape(self, count: int) -> tuple[int, int, int, int]:
        """Of the pixels of `count` views."""
        return count, self.resolution, self.resolution, 3


class Work(Protocol):
    """A part of a batch: a Future, or work that is done when its result is asked for."""

    def done(self) -> bool: ...
    def result(self) -> None: ...


class Pending(NamedTuple):
    """Views that are being made."""

    samples: Samples
    pixels: Pixels  # uint8 [B, R, R, 3]; to be read after `result`, until the next batch is asked for
    parts: tuple[Work, ...]

    def is_ready(self) -> bool:
        return all(part.done() for part in self.parts)

    def result(self) -> Pixels:
        """Wait; raises what the worker raised."""
        for part in self.parts:
            part.result()
        return self.pixels


Submit = Callable[[Samples], Pending]
Allocate = Callable[[tuple[int, int, int, int]], Pixels]


def render(recipe: Recipe, samples: Samples, out: Pixels) -> None:
    """Write the views of `samples` to uint8 [B, R, R, 3].

    An image that is shown for the first time is compared with its SHA-256: always would cost a tenth of the decoding,
    and of a corpus above VERIFIED the digests alone would fill a gigabyte in each process.
    Raises BadShard naming the shard, or UnreadableImage naming image and shard.
    """
    shards, config = recipe.shards, recipe.augment
    verifies = len(shards) <= VERIFIED
    uniform = None if config is None else draws(recipe.seed, samples.epochs, samples.positions, config)
    for place, row in enumerate(samples.ids.tolist()):
        try:
            data = shards.content(row, verify=(verifies and samples.epochs[place] == 0) or None)
            if config is None or uniform is None:
                out[place] = evaluation_view(data, recipe.resolution, recipe.evaluation)
            else:
                out[place] = training_view(data, recipe.resolution, uniform[place], config)
        except UnreadableImage as error:
            shard = f"{shards.store.uri}/{shards.shard_names[shards.shard_numbers[row]]}"
            raise UnreadableImage(f"image {shards.keys[row]} in {shard}: {error}") from error


def ahead(submit: Submit, batches: Iterator[Samples], count: int) -> Iterator[Pending]:
    """One batch after the other, while the next `count` are being made."""
    waiting: collections.deque[Pending] = collections.deque()
    for samples in batches:
        waiting.append(submit(samples))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


@contextlib.contextmanager
def threads(recipe: Recipe, count: int, allocate: Allocate) -> Generator[Submit]:
    """Make views in `count` threads; with 0, at once in the caller's."""
    if count == 0:
        yield lambda samples: _later(recipe, samples, allocate(recipe.shape(len(samples.ids))))
        return
    pool = ThreadPoolExecutor(count, thread_name_prefix="loader")

    def submit(samples: Samples) -> Pending:
        pixels = allocate(recipe.shape(len(samples.ids)))
        parts = _parts(len(samples.ids), count)
        futures = [pool.submit(render, recipe, _slice(samples, part), pixels[part]) for part in parts]
        return Pending(samples, pixels, tuple(futures))

    try:
        yield submit
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def processes(recipe: Recipe, count: int, *, batch_size: int, in_flight: int) -> Generator[Submit]:
    """Make views in `count` processes, in shared memory for `in_flight` batches of at most `batch_size`.

    The processes end with this one, however it ends.
    """
    size = int(np.prod(recipe.shape(batch_size)))
    blocks = collections.deque(SharedMemory(create=True, size=size) for _ in range(in_flight))
    pool = ProcessPoolExecutor(
        count, multiprocessing.get_context("spawn"), initializer=_start, initargs=(recipe, os.getpid())
    )

    def submit(samples: Samples) -> Pending:
        blocks.rotate(-1)  # the one that was used longest ago
        pixels = np.ndarray(recipe.shape(len(samples.ids)), np.uint8, blocks[0].buf)
        parts = _parts(len(samples.ids), count)
        futures = [pool.submit(_render, blocks[0].name, pixels.shape, part, _slice(samples, part)) for part in parts]
        return Pending(samples, pixels, tuple(futures))

    try:
        yield submit
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for block in blocks:
            block.unlink()
            with contextlib.suppress(BufferError):  # somebody still looks at the pixels: freed when they stop
                block.close()


@dataclasses.dataclass(frozen=True)
class _Later:
    work: Callable[[], None]

    def done(self) -> bool:
        return True

    def result(self) -> None:
        self.work()


def _later(recipe: Recipe, samples: Samples, pixels: Pixels) -> Pending:
    return Pending(samples, pixels, (_Later(functools.partial(render, recipe, samples, pixels)),))


def _parts(size: int, count: int) -> list[slice]:
    """`size` items cut into at most `count` parts of nearly equal length."""
    edges = np.linspace(0, size, min(size, count) + 1).astype(int).tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _slice(samples: Samples, part: slice) -> Samples:
    return Samples(samples.ids[part], samples.epochs[part], samples.positions[part])


# In a loader process
_recipes: list[Recipe] = []
_blocks: dict[str, SharedMemory] = {}


def _start(recipe: Recipe, parent: int) -> None:
    _recipes[:] = [recipe]
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed parent cannot tell its children to stop."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _render(block: str, shape: tuple[int, ...], part: slice, samples: Samples) -> None:
    if block not in _blocks:
        _blocks[block] = SharedMemory(block)
    render(_recipes[0], samples, np.ndarray(shape, np.uint8, _blocks[block].buf)[part])
