"""Memory and speed of writing shards, by number of images: `python -m benchmarks.prepare 100000 1000000`.

The images are as small as images can be and lie in shards of some 2,000, as ImageNet's do, so what is seen is what an
image costs beside its own bytes. Each number runs in a process of its own.
"""

import functools
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vit.data.pictures import encode_png
from vit.data.record import Record, Source
from vit.data.writing import write_source

CLASSES, SHARD_BYTES = 1000, 4_000_000


@functools.cache
def _png() -> bytes:
    return encode_png(np.full((4, 4, 3), 128, np.uint8))


def _draw(number: int) -> bytes:
    """A picture of its own for each number: what follows a PNG's end is ignored."""
    return _png() + number.to_bytes(4, "big")


def _records(count: int) -> Iterator[Record]:
    for number in range(count):
        label = number * CLASSES // count
        yield Record(
            key=f"n{label:08d}/n{label:08d}_{number}.png",
            split="train",
            labels=(label,),
            read=functools.partial(_draw, number),
            ext="png",
        )


def measure(count: int) -> tuple[float, float, float]:
    """Peak MB beyond an idle process's, processor time in µs an image, and GB written."""
    with tempfile.TemporaryDirectory() as place:
        before, start = _peak(), time.process_time()
        names = tuple(f"class {label}" for label in range(CLASSES))
        source = Source(name="synthetic", family="user", class_names=names, records=_records(count))
        write_source(
            Path(place, "out"),
            source,
            name="synthetic",
            shard_bytes=SHARD_BYTES,
            max_reject_share=0,
            val_fraction=0.05,
            needs_val=True,
        )
        spent = time.process_time() - start
        written = sum(path.stat().st_size for path in Path(place, "out").iterdir())
    return _peak() - before, spent / count * 1e6, written / 1e9


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    for text in sys.argv[1:] or ("100000", "1000000"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak, spent, written = pool.apply(measure, (int(text),))
        print(f"{int(text):>10,} images: {peak:.0f} MB more than idle, {spent:.0f} µs an image, {written:.1f} GB")


if __name__ == "__main__":
    main()
