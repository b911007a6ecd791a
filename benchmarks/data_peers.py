"""How others decode and augment: torchvision, webdataset and Ray Data with the recipes of their own documentation."""

import contextlib
import dataclasses
import functools
import io
import logging
import multiprocessing
import os
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.timing import Clock, Step

RESOLUTION, BATCH = 224, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the usual recipes normalise with


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """The same images in the forms that the contenders read."""

    jpegs: list[bytes]
    folder: Path  # one file each
    shards: Path  # ours, which are webdataset's


def over(jpegs: Iterable[bytes], each: Callable[[bytes], object]) -> Step:
    def step() -> None:
        for data in jpegs:
            each(data)

    return step


def peers(files: Files) -> dict[str, Step]:
    """What people use; crops with torchvision's own rule, bilinear and antialiased as its defaults are."""
    import webdataset
    from torchvision import transforms as v1
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    crop = {"size": RESOLUTION, "scale": (0.05, 1.0)}
    pillow = v1.Compose([v1.RandomResizedCrop(**crop), v1.RandomHorizontalFlip()])
    usual = usual_recipe()
    tensors = v2.Compose([v2.RandomResizedCrop(**crop, antialias=True), v2.RandomHorizontalFlip()])
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def tensor(data: bytes) -> torch.Tensor:
        return tensors(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB))

    def from_webdataset() -> None:
        shards = sorted(map(str, files.shards.glob("*.tar")))
        for _ in webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg").map_tuple(usual):
            pass

    return {
        "PIL and torchvision v1, uint8": over(files.jpegs, lambda data: np.asarray(pillow(pillow_rgb(data)))),
        "PIL and torchvision v1, float (timm, DeiT)": over(files.jpegs, lambda data: usual(pillow_rgb(data))),
        "torchvision v2 on tensors, uint8": over(files.jpegs, tensor),
        "torchvision v2 on tensors, float": over(files.jpegs, lambda data: normalise(tensor(data))),
        "webdataset, PIL and torchvision v1, float": from_webdataset,
    }


@contextlib.contextmanager
def ray_data(files: Files) -> Generator[tuple[dict[str, Step], Clock]]:
    """Ray Data in a process of its own, whose threads would else run in everybody's turns; and its clock."""
    here, there = multiprocessing.Pipe()
    driver = multiprocessing.get_context("spawn").Process(target=ray_driver, args=(there, files.folder))
    driver.start()
    there.close()  # so that its end is noticed

    def turn(name: str) -> None:
        here.send(name)
        found = here.recv()
        assert found == len(files.jpegs), f"{name} gave {found} images of {len(files.jpegs)}"

    names = here.recv()
    try:
        yield {name: functools.partial(turn, name) for name in names}, functools.partial(tree_seconds, driver.pid)
    finally:
        with contextlib.suppress(BrokenPipeError):
            here.send(None)
        driver.join()


def ray_driver(calls: Connection, folder: Path) -> None:
    """As Ray's user guide shows it, and with files read inside map_batches, which is known to be faster."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    paths = [str(path) for path in sorted(folder.iterdir())]
    arguments: dict[str, Any] = {"batch_size": BATCH, "fn_kwargs": {"usual": usual_recipe()}}
    makers: dict[str, Callable[[], Any]] = {
        "Ray Data read_images, torchvision v1, float": lambda: ray.data.read_images(
            str(folder), mode="RGB"
        ).map_batches(decoded_batch, **arguments),
        "Ray Data map_batches, PIL and torchvision v1, float": lambda: ray.data.from_items(paths).map_batches(
            read_batch, **arguments
        ),
    }
    calls.send(list(makers))
    while name := calls.recv():
        calls.send(sum(len(part["image"]) for part in makers[name]().iter_batches(batch_size=BATCH)))
    ray.shutdown()


def decoded_batch(rows: dict[str, Any], usual: Callable[[Any], torch.Tensor]) -> dict[str, Any]:
    """Runs in Ray's workers."""
    return {"image": np.stack([usual(Image.fromarray(image)).numpy() for image in rows["image"]])}


def read_batch(rows: dict[str, Any], usual: Callable[[Any], torch.Tensor]) -> dict[str, Any]:
    """Runs in Ray's workers."""
    return {"image": np.stack([usual(Image.open(path).convert("RGB")).numpy() for path in rows["item"]])}


def usual_recipe() -> Callable[[Any], torch.Tensor]:
    """timm's and DeiT's, without automatic augmentation."""
    from torchvision import transforms as v1

    crop = v1.RandomResizedCrop(RESOLUTION, scale=(0.05, 1.0))
    return v1.Compose([crop, v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)])


def pillow_rgb(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def tree_seconds(pid: int) -> float:
    """Processor seconds of a process and all below it, those that have ended included as far as the system says."""
    root, total = psutil.Process(pid), 0.0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
