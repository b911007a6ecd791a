"""Memory of a worker of `vitflow dedup`: `python -m benchmarks.dedup_memory`.

100,000 synthetic test images are indexed with their thumbnails on the disk; then 10,000, 100,000 and 1,000,000 made-up
codes of training images stream past. Printed are the private memory after each step and its peak, in MB: pages of the
thumbnails' file, which the kernel may drop at any time, are counted apart.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vit.dedup.codes import SIDE
from vit.dedup.prints import COLOUR_SIDE, DIGEST, Prints
from vit.dedup.scan import on_disk
from vit.dedup.search import TestIndex
from vit.dedup.tiers import tier

CHUNK = 2048
SIZES = (10_000, 100_000, 1_000_000)


def synthetic(count: int, seed: int) -> Prints:
    """Prints of images of smooth noise."""
    source = np.random.default_rng(seed)
    small = source.integers(0, 256, (count, SIDE // 8, SIDE // 8), dtype=np.uint8)
    digests = (source.integers(1, 256, (count, DIGEST), dtype=np.uint8) for _ in range(3))
    colours = np.full((count, COLOUR_SIDE, COLOUR_SIDE, 2), 128, dtype=np.uint8)
    sizes, flags = np.full((count, 2), 500, dtype=np.int32), np.ones(count, dtype=bool)
    thumbnails = small.repeat(8, axis=1).repeat(8, axis=2)
    return Prints(np.arange(count), sizes, *digests, thumbnails, colours, flags, ~flags, {})


def memory() -> dict[str, int]:
    """MB of this process: private now, mapped from files now, and the peak of both together."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return {name: int(values[name]) // 1024 for name in ("RssAnon", "RssFile", "VmHWM")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", type=int, default=100_000, help="test images")
    parser.add_argument("--tier", default="fast")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="training images")
    chosen = parser.parse_args()
    print("before:", memory(), flush=True)

    def parts() -> Iterator[Prints]:
        for start in range(0, chosen.tests, CHUNK):
            yield synthetic(min(CHUNK, chosen.tests - start), start)

    with tempfile.TemporaryDirectory() as directory:
        whole = on_disk(parts(), Path(directory))
        print(f"{chosen.tests:,} test images written:", memory(), flush=True)
        index = TestIndex(whole, tier(chosen.tier))
        print("index built:", memory(), flush=True)
        for size in chosen.sizes:
            source = np.random.default_rng(size)
            for start in range(0, size, CHUNK):
                count = min(CHUNK, size - start)
                index.screen(source.integers(0, 256, (count, 32), dtype=np.uint8))
            print(f"{size:,} training codes:", memory(), flush=True)


if __name__ == "__main__":
    main()
