"""How fast one core goes through training images, as ratios of contenders that take turns in one process."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any, cast

import faiss
import numpy as np
import pdqhash
import torch
from PIL import Image

from benchmarks.dedup_pictures import pictures
from benchmarks.timing import Ratio, in_turns, ratio
from vit.dedup import prints
from vit.dedup.codes import SIDE, base
from vit.dedup.join import HammingIndex
from vit.dedup.prints import Prints
from vit.dedup.search import TestCodes, TestIndex
from vit.dedup.tiers import FAST
from vit.dedup.views import IDENTITY, MIRROR
from vit.typing import Pixels

WIDTH, HEIGHT, QUALITY = 500, 375, 92
TESTS, CODES = 100_000, 800_000
RADIUS = 31
ROUNDS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """How many times faster than the contender."""

    what: str
    against: str
    times: Ratio
    rate: float  # per second and core: images, or queries of the join

    def core_hours(self, images: int) -> float:
        """What so many images take."""
        return images / self.rate / 3600


def measure(rounds: int = ROUNDS) -> list[Speed]:
    """All ratios; about three minutes on a quiet core."""
    cast(Any, faiss).omp_set_num_threads(1)
    return [_join(rounds), *_whole(rounds)]


def _join(rounds: int) -> Speed:
    draw = np.random.Generator(np.random.PCG64(0))
    stored, queries = _codes(draw, CODES), _codes(draw, 4096)
    ours, theirs = HammingIndex(stored, radius=RADIUS), cast(Any, faiss).IndexBinaryFlat(256)
    theirs.add(stored)
    few = 256  # faiss takes seconds for what we do in a tenth of one: it gets fewer
    seconds = in_turns(
        {
            "ours": lambda: (ours.within(queries, RADIUS), None)[1],
            "faiss": lambda: (theirs.range_search(queries[:few], RADIUS + 1), None)[1],
        },
        rounds=rounds,
        repeats=1,
        device=torch.device("cpu"),
    )
    per_query = [s / len(queries) for s in seconds["ours"]], [s / few for s in seconds["faiss"]]
    times = ratio(per_query[1], per_query[0])
    what, rate = f"join of {CODES:,} codes, radius {RADIUS}", 1 / float(np.median(per_query[0]))
    return Speed(what=what, against="faiss IndexBinaryFlat", times=times, rate=rate)


def _whole(rounds: int) -> list[Speed]:
    files, draw = jpegs(), np.random.Generator(np.random.PCG64(1))
    tests = _tests()
    flips = dataclasses.replace(FAST, test_flips=(IDENTITY, MIRROR))
    parts = _codes(draw, TESTS * len(FAST.test_windows))
    indexes = {
        tier: TestIndex(tests, tier, TestCodes(_codes(draw, TESTS * len(tier.test_flips)), parts))
        for tier in (FAST, flips)
    }

    def one_code() -> None:
        base(prints.take(files, complete=False).thumbnails)

    def fast(tier: Any) -> None:
        indexes[tier].find(prints.take(files, complete=False), files.__getitem__)

    steps = {
        "pdq": lambda: _pillow_pdqhash(files),
        "one": one_code,
        "whole": lambda: fast(FAST),
        "flips": lambda: fast(flips),
    }
    seconds = in_turns(steps, rounds=rounds, repeats=1, device=torch.device("cpu"))
    return [
        Speed(
            what=what,
            against="Pillow + pdqhash, hashing alone",
            times=ratio(seconds["pdq"], seconds[step]),
            rate=len(files) / float(np.median(seconds[step])),
        )
        for what, step in (
            ("decode + one code", "one"),
            (f"fast tier, {TESTS:,} test images x 8", "whole"),
            (f"fast tier, {TESTS:,} test images x 2", "flips"),
        )
    ]


def _pillow_pdqhash(files: Sequence[bytes]) -> None:
    for data in files:
        pdqhash.compute(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def jpegs(number: int = 150) -> list[bytes]:
    """Photographs of 500 x 375, about as many bytes as ImageNet's."""
    sources, files = [image for _, image in pictures(None) if min(image.size) >= HEIGHT], list[bytes]()
    draw = np.random.Generator(np.random.PCG64(2))
    while len(files) < number:
        image = sources[len(files) % len(sources)]
        share = float(draw.uniform(0.75, 1))
        width = round(share * min(image.width, image.height * WIDTH / HEIGHT))
        height = round(width * HEIGHT / WIDTH)
        left, top = int(draw.integers(image.width - width + 1)), int(draw.integers(image.height - height + 1))
        buffer = io.BytesIO()
        cut = image.crop((left, top, left + width, top + height)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        cut.save(buffer, "JPEG", quality=QUALITY)
        files.append(buffer.getvalue())
    return files


def _codes(draw: np.random.Generator, number: int) -> Pixels:
    return draw.integers(0, 256, (number, 32), dtype=np.uint8)


def _tests() -> Prints:
    """As many test images as TESTS, whose thumbnails take no memory: they are all the same one."""
    digests = _codes(np.random.Generator(np.random.PCG64(4)), TESTS)
    return Prints(
        rows=np.arange(TESTS),
        sizes=np.tile(np.array([[WIDTH, HEIGHT]], dtype=np.int32), (TESTS, 1)),
        byte_digests=digests,
        pixel_digests=digests[::-1].copy(),
        luma_digests=digests[:, ::-1].copy(),
        thumbnails=np.broadcast_to(np.zeros((1, SIDE, SIDE), np.uint8), (TESTS, SIDE, SIDE)),
        colours=np.broadcast_to(np.full((1, 16, 16, 2), 128, np.uint8), (TESTS, 16, 16, 2)),
        is_complete=np.ones(TESTS, dtype=bool),
        is_flat=np.zeros(TESTS, dtype=bool),
        unreadable={},
    )
