"""Memory of a worker of `vitflow dedup`: `python -m benchmarks.dedup_memory`, some two minutes on one core.

100,000 synthetic test images are indexed as a run does it, their pictures on the disk. Then training images stream
past, one in sixteen of which shows a test image, and after them stored codes. Printed after each step, in MB: private
memory (RssAnon) now and at its highest so far, sampled, and pages of mapped files, which the kernel may drop.
"""

import argparse
import io
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vit.dedup.codes import BYTES, SIDE
from vit.dedup.prints import COLOUR_SIDE, DIGEST, Prints
from vit.dedup.scan import CHUNK, on_disk
from vit.dedup.search import TestCodes, TestIndex
from vit.dedup.tiers import Tier, tier

PIECE, COPIES = 512, 8  # images read at a time, and test images among each CHUNK of training images
IMAGES, CODES = (1_000, 5_000), (10_000, 100_000)  # a million codes take ten minutes more: --codes 1000000
EVERY = 0.02  # seconds between samples
SEEDS = 10**9  # of training images, from there on


class Watch(threading.Thread):
    """Samples the private memory of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._peak = 0

    def run(self) -> None:
        while True:
            self._peak = max(self._peak, kilobytes()["RssAnon"])
            time.sleep(EVERY)

    def say(self, what: str) -> None:
        """Print what memory is taken."""
        now = kilobytes()
        self._peak = max(self._peak, now["RssAnon"])
        seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        private, peak, mapped = (kb // 1024 for kb in (now["RssAnon"], self._peak, now["RssFile"]))
        print(f"{what:32} private {private:4} MB, peak {peak:4} MB; mapped {mapped:5} MB; {seconds:4.0f} s", flush=True)


def kilobytes() -> dict[str, int]:
    """RssAnon and RssFile of this process."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: int(line[1]) for line in lines if line and line[0] in ("RssAnon:", "RssFile:")}


def synthetic(count: int, seed: int) -> Prints:
    """Prints of images of coarse noise."""
    source = np.random.default_rng(seed)
    small = source.integers(0, 256, (count, SIDE // 8, SIDE // 8), dtype=np.uint8)
    one, two, three = source.integers(1, 256, (3, count, DIGEST), dtype=np.uint8)
    colours = np.full((count, COLOUR_SIDE, COLOUR_SIDE, 2), 128, dtype=np.uint8)
    sizes, flags = np.full((count, 2), 500, dtype=np.int32), np.ones(count, dtype=bool)
    thumbnails = small.repeat(8, axis=1).repeat(8, axis=2)
    return Prints(np.arange(count), sizes, one, two, three, thumbnails, colours, flags, ~flags, {})


def _codes(tests: Prints, tier: Tier) -> TestCodes:
    """Those of the first PIECE test images, and made-up ones of the others."""
    few = TestIndex(tests.at(np.arange(min(PIECE, len(tests.rows)))), tier).codes
    views = len(tier.test_flips), len(tier.test_windows)
    source = np.random.default_rng(0)
    whole, parts = (source.integers(0, 256, (len(tests.rows) * n, BYTES), dtype=np.uint8) for n in views)
    whole[: len(few.whole)], parts[: len(few.parts)] = few.whole, few.parts
    return TestCodes(whole, parts)


def find(index: TestIndex, tests: Prints, number: int) -> int:
    """Pass so many training images by the index; how many pairs it finds."""
    encoded, pairs = io.BytesIO(), 0
    Image.new("RGB", (64, 64), (128, 128, 128)).save(encoded, "PNG")
    for start in range(0, number, CHUNK):
        batch = synthetic(min(CHUNK, number - start), SEEDS + start)
        batch.thumbnails[:COPIES] = tests.thumbnails[start % PIECE :][: len(batch.thumbnails[:COPIES])]
        pairs += len(index.find(batch, lambda _: encoded.getvalue()))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", type=int, default=100_000, help="test images")
    parser.add_argument("--tier", default="fast")
    parser.add_argument("--hash", action="store_true", help="hash all test images, which takes minutes more")
    parser.add_argument("--images", type=int, nargs="*", default=IMAGES, help="training images")
    parser.add_argument("--codes", type=int, nargs="*", default=CODES, help="stored codes of training images")
    chosen = parser.parse_args()
    watch = Watch()
    watch.start()
    watch.say("imported")

    def parts() -> Iterator[Prints]:
        for start in range(0, chosen.tests, PIECE):
            yield synthetic(min(PIECE, chosen.tests - start), start)

    with tempfile.TemporaryDirectory() as directory:
        whole = on_disk(parts(), Path(directory))
        watch.say(f"{chosen.tests:,} test images written")
        index = TestIndex(whole, tier(chosen.tier), None if chosen.hash else _codes(whole, tier(chosen.tier)))
        watch.say("index built")
        for number in chosen.images:
            pairs = find(index, whole, number)
            watch.say(f"{number:,} images, {pairs:,} pairs")
        for number in chosen.codes:
            source = np.random.default_rng(number)
            for start in range(0, number, PIECE):
                index.screen(source.integers(0, 256, (min(PIECE, number - start), 32), dtype=np.uint8))
            watch.say(f"{number:,} stored codes")


if __name__ == "__main__":
    main()
