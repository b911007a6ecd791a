"""Near-duplicates with a known answer: edited copies of test images, to be hidden in the corpus.

Whoever looks for duplicates between corpus and test sets can be scored against the list of these.
"""

import dataclasses
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vit.data import shards
from vit.data.synthetic.draw import shuffled, uniform
from vit.typing import Pixels

Edit: TypeAlias = Callable[[Image.Image, float], Image.Image]  # the number in [0, 1) chooses among variants
MIN_CONTRAST = 10.0  # grey levels, standard deviation
COLUMNS = pa.schema([(name, pa.string()) for name in ("key", "task", "test_key", "edit")])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copy:
    """Corpus image `key` is to show test image `test` of `task` after `edit`."""

    key: str
    task: str
    test: shards.Example
    edit: str
    choice: float  # in [0, 1): which variant of the edit


def _resized(factor: float) -> Edit:
    def edit(image: Image.Image, _choice: float) -> Image.Image:
        return image.resize((round(factor * image.width), round(factor * image.height)), Image.Resampling.BICUBIC)

    return edit


def _brightened(factor: float) -> Edit:
    return lambda image, _choice: image.point([min(255, round(factor * value)) for value in range(256)] * 3)


def _cropped(image: Image.Image, choice: float) -> Image.Image:
    side = round(0.9 * image.width)
    offsets = image.width - side + 1
    top, left = divmod(int(choice * offsets * offsets), offsets)
    return image.crop((left, top, left + side, top + side))


def _flipped(image: Image.Image, _choice: float) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


EDITS: dict[str, Edit | None] = {
    "copy": None,
    "smaller": _resized(0.75),
    "larger": _resized(1.5),
    "jpeg": lambda image, _choice: image,  # stored as JPEG at quality 75, see `edited`
    "brighter": _brightened(1.1),
    "darker": _brightened(0.9),
    "crop": _cropped,
    "flip": _flipped,
}


def choose(keys: Sequence[str], tests: dict[str, list[shards.Example]], *, seed: int) -> list[Copy]:
    """Which test image each of `keys` is to show, and how edited.

    Tasks take turns, and so do edits, so that every task meets every edit; a test image is used once as long as
    there are enough. Flat images are passed over: JPEG or clipping leaves nothing of them to recognise.
    """
    tasks, edits = sorted(tests), list(EDITS)
    needed = -(-len(keys) // len(tasks))
    orders = {task: _telling(tests[task], f"planted/{seed}/{task}", needed) for task in tasks}
    choices = uniform(f"planted/{seed}/choice", np.arange(len(keys))).tolist()
    copies: list[Copy] = []
    for i, (key, choice) in enumerate(zip(keys, choices, strict=True)):
        turn, task = i // len(tasks), tasks[i % len(tasks)]
        test = orders[task][turn % len(orders[task])]
        # Shifted by the task, so that even few copies show every edit.
        copies.append(Copy(key=key, task=task, test=test, edit=edits[(turn + i) % len(edits)], choice=choice))
    return copies


def _telling(tests: list[shards.Example], salt: str, needed: int) -> list[shards.Example]:
    """The first `needed` test images, in shuffled order, that keep MIN_CONTRAST when brightened."""
    order: list[int] = shuffled(salt, len(tests)).tolist()
    found = list(itertools.islice(filter(_has_contrast, (tests[i] for i in order)), needed))
    if needed and not found:
        raise ValueError(f"no test image of {salt} has the contrast of {MIN_CONTRAST} grey levels that a copy needs")
    return found


def _has_contrast(test: shards.Example) -> bool:
    luma = np.asarray(shards.decode(test.image).convert("L"), dtype=np.float64)
    return float(np.minimum(1.1 * luma, 255).std()) >= MIN_CONTRAST


def replaced(example: shards.Example, copy: Copy) -> shards.Example:
    """The copy in the place of `example`, under its key, label and split."""
    image, ext, width, height = edited(copy.test, copy.edit, copy.choice)
    return dataclasses.replace(example, image=image, ext=ext, width=width, height=height)


def edited(test: shards.Example, edit: str, choice: float) -> tuple[bytes, str, int, int]:
    """Encoded image, extension, width and height of a test image after the named edit."""
    change = EDITS[edit]
    if change is None:
        return test.image, test.ext, test.width, test.height
    image = change(shards.decode(test.image), choice)
    if edit == "jpeg":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=75)
        return buffer.getvalue(), "jpg", image.width, image.height
    pixels: Pixels = np.asarray(image)
    return shards.encode_png(pixels), "png", image.width, image.height


def write_pairs(copies: Sequence[Copy], path: Path) -> None:
    """The truth as parquet (COLUMNS): a row per planted image, in the order of their keys."""
    rows = [
        {"key": copy.key, "task": copy.task, "test_key": copy.test.key, "edit": copy.edit}
        for copy in sorted(copies, key=lambda copy: copy.key)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), path)
