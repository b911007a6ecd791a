"""Real handwritten digits, inside scikit-learn, as a corpus: the training images of mini_digits, never its test images.

Those validate a network that was fine-tuned on all the training images.
"""

import functools
from collections.abc import Iterator

from vit.data.pictures import encode_png
from vit.data.record import Record, Source
from vit.data.synthetic import mini_vtab

NAME = "digits"
TASK = "mini_digits"
# The split that each split of the task becomes.
CORPUS = {"train800": "train", "val200": "val"}
DOWNSTREAM = {"train800": "train", "val200": "train", "test": "val"}


def digits(*, downstream: bool) -> Source:
    """1,000 images of 32 px, 8 x 8 pixels enlarged: 800 train, 200 val; `downstream`, all train, and the 797 tests val.

    Source: mini_vtab.digits (UCI optdigits' test part).
    """
    (task,) = (task for task in mini_vtab.TASKS if task.name == TASK)
    splits = DOWNSTREAM if downstream else CORPUS
    records = (record for part, split in splits.items() for record in _records(task, part, split))
    return Source(
        name=NAME,
        family=mini_vtab.FAMILY,
        class_names=task.class_names,
        records=records,
        where="the digits of scikit-learn",
    )


def _records(task: mini_vtab.Task, part: str, split: str) -> Iterator[Record]:
    images = mini_vtab.build(task, part)
    for key, label, pixels in zip(images.keys.tolist(), images.labels.tolist(), images.pixels, strict=True):
        yield Record(
            key=f"{part}-{key:06d}", split=split, labels=(label,), read=functools.partial(encode_png, pixels), ext="png"
        )
