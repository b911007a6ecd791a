"""Decoding and training augmentation beside other loaders, as shares of a bare JPEG decode: `make bench-data`.

Everyone gets the same files, 500 x 375 JPEGs (4:2:0, about 90 kB, as ImageNet's) cut from the photos that come with
scikit-image and scikit-learn, and makes random 224-px crops with flips. uint8 is what we put out (the device
normalises), float what the usual recipes do. Contenders take turns, on processor time: of this process, or for Ray
Data, which works in many, of all of its own. The unit is libjpeg-turbo's bare decode of the same files (simplejpeg):
1.00 means that crop, resize and flip cost nothing.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import torch

from benchmarks.data_peers import BATCH, RESOLUTION, Files, over, peers, pillow_rgb, ray_data
from benchmarks.timing import Clock, Ratio, Step, in_turns, ratio
from vit.data import workers
from vit.data.augment import AugmentConfig, draws, inception_crop, training_view
from vit.data.mixing import MixConfig
from vit.data.order import Order, OrderConfig, batch, uniform64
from vit.data.policies import RandAugmentConfig
from vit.data.shards import Example, Shards, write
from vit.typing import Pixels

HEIGHT, WIDTH, QUALITY = 375, 500, 96
UNIT = "bare decode: simplejpeg"
OURS = "ours: whole training recipe, uint8"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result."""

    contender: str
    images_per_second: float  # per core
    share: Ratio  # of the bare decode


def main(arguments: Sequence[str]) -> None:
    """Print a Markdown table; `--json` also writes it with every ratio's spread."""
    options = parse(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with contextlib.ExitStack() as stack:
        files = make_files(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-data-"))), options.images)
        steps, clocks = contenders(files), dict[str, Clock]()
        if not options.no_ray:
            ray, clock = stack.enter_context(ray_data(files))
            steps, clocks = steps | ray, dict.fromkeys(ray, clock)
        seconds = in_turns(steps, rounds=options.rounds, repeats=1, device=torch.device("cpu"), clocks=clocks)
    rows = [
        Row(
            contender=name,
            images_per_second=options.images / statistics.median(times),
            share=ratio(seconds[UNIT], times),
        )
        for name, times in seconds.items()
    ]
    report(sorted(rows, key=lambda row: -row.images_per_second), files, options)
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-ray", action="store_true", help="leave out Ray Data, which takes a minute to start")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def report(rows: list[Row], files: Files, options: argparse.Namespace) -> None:
    size = statistics.mean(map(len, files.jpegs)) / 1000
    print(f"{options.images} JPEGs of {WIDTH} x {HEIGHT}, {size:.0f} kB on average, {options.rounds} rounds, one core")
    print("median of ratios (middle half)\n\n| | images/s/core | share of a bare decode |\n|---|---:|---:|")
    for row in rows:
        print(f"| {row.contender} | {row.images_per_second:.0f} | {row.share} |")


def contenders(files: Files) -> dict[str, Step]:
    """Those that run in this process; each call works through all images."""
    steps = {UNIT: over(files.jpegs, simplejpeg.decode_jpeg), "bare decode: Pillow": over(files.jpegs, pillow_rgb)}
    return steps | ours(files) | peers(files)


def ours(files: Files) -> dict[str, Step]:
    """The loader from the shards on, its parts, and with RandAugment."""
    shards, plain = Shards(files.shards), recipe(layers=0)
    order = Order(seed=0, config=plain.order, labels=shards.labels, shard_sizes=shards.shard_sizes)
    turns = iter(range(10**9))

    def views(config: AugmentConfig, crop_decode: bool = True) -> None:
        ids = np.arange(len(files.jpegs))
        uniform = draws(next(turns), np.zeros_like(ids), ids, config)
        for data, row in zip(files.jpegs, uniform, strict=True):
            training_view(data, RESOLUTION, row, config) if crop_decode else whole_decode(data, row)

    def loaded(config: AugmentConfig, threads: int) -> None:
        plan = workers.Recipe(shards=shards, resolution=RESOLUTION, seed=0, augment=config, evaluation="square")
        first = next(turns) * (len(shards) // BATCH)
        samples = (batch(order, first + step, batch_size=BATCH) for step in range(len(shards) // BATCH))
        with workers.threads(plan, threads, lambda shape: np.empty(shape, np.uint8)) as submit:
            for pending in workers.ahead(submit, samples, 3):
                pending.result()

    return {
        OURS: functools.partial(views, plain),
        "ours: the same, from shards into batches, 1 thread": functools.partial(loaded, plain, 1),
        "ours: the same, from shards into batches, 2 threads": functools.partial(loaded, plain, 2),
        "ours, but decoding whole pictures (simplejpeg, OpenCV)": functools.partial(views, plain, False),
        "ours: with RandAugment(2, 10)": functools.partial(views, recipe(layers=2)),
    }


def recipe(layers: int) -> AugmentConfig:
    """The paper's, and what later recipes add on the CPU."""
    return AugmentConfig(
        crop="inception",
        crop_area=0.05,
        flip=True,
        shrink=False,
        randaugment=RandAugmentConfig(layers=layers, magnitude=10),
        mix=MixConfig(mixup=0.0, cutmix=0.0, erasing=0.0),
        order=OrderConfig(window=0, repeats=1, balance=0.0),
        evaluation="square",
    )


def whole_decode(data: bytes, uniform: np.ndarray) -> Pixels:
    """The same view without knowing where the window ends while decoding."""
    left, top, width, height = inception_crop(WIDTH, HEIGHT, 0.05, uniform)
    pixels = simplejpeg.decode_jpeg(data)[top : top + height, left : left + width]
    view = cv2.resize(pixels, (RESOLUTION, RESOLUTION), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.flip(view, 1) if uniform[-1] < 0.5 else view)


def make_files(directory: Path, count: int) -> Files:
    """Cut `count` pictures, the same ones in every run, and write them in all forms."""
    jpegs = [simplejpeg.encode_jpeg(cut, QUALITY, "RGB", "420") for cut in cuts(count)]
    folder = directory / "folder"
    folder.mkdir()
    for number, data in enumerate(jpegs):
        (folder / f"{number:05d}.jpg").write_bytes(data)
    examples = (
        Example(key=f"{number:05d}", split="train", labels=(0,), image=data, ext="jpg", width=WIDTH, height=HEIGHT)
        for number, data in enumerate(jpegs)
    )
    write(directory / "shards", examples, name="bench", class_names=["photo"])
    return Files(jpegs=jpegs, folder=folder, shards=directory / "shards")


def cuts(count: int) -> Iterable[Pixels]:
    from skimage import data
    from sklearn.datasets import load_sample_images

    names = ("astronaut", "coffee", "hubble_deep_field", "immunohistochemistry", "rocket")
    photos = [*(getattr(data, name)() for name in names), *load_sample_images().images]
    for number in range(count):
        photo = photos[number % len(photos)]
        y, x = uniform64(number, np.arange(2))
        top, left = int(y * (photo.shape[0] - HEIGHT + 1)), int(x * (photo.shape[1] - WIDTH + 1))
        yield np.ascontiguousarray(photo[top : top + HEIGHT, left : left + WIDTH])


if __name__ == "__main__":
    main(sys.argv[1:])
