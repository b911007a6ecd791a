"""Which splits an importer gives, and the part of train that the paper holds out to choose its learning rate.

The paper says how much is held out (Table 4: 1 % of ImageNet, 2 % of CIFAR, 10 % of Pets and Flowers), its code which:
`train[99%:]` and the like (google-research/big_vision:big_vision/configs/transfer.py; vision_transformer:vit_jax/
configs/common.py) cut the TFDS order of the keys, which `vit.data.split` computes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from vit.data.record import Record
from vit.data.split import rank_order
from vit.typing import Ints

PERCENT = {"imagenet2012": 1, "cifar10": 2, "cifar100": 2, "oxford-iiit-pets": 10, "oxford-flowers102": 10}


def chosen(splits: Sequence[str], known: Sequence[str], name: str) -> tuple[str, ...]:
    """`splits`, or all that are known if there are none; raises ValueError for one that the data set does not have."""
    for split in splits:
        if split not in known:
            raise ValueError(f"{name} has no split {split!r}; it has {', '.join(known)}")
    return tuple(splits) or tuple(known)


def num_kept(size: int, percent: float) -> int:
    """Length of `train[:(100 - percent)%]` of `size` images: TFDS rounds to the nearest integer."""
    return round((100 - percent) * size / 100)


def last_percent(keys: Sequence[int | str], percent: float) -> Ints:
    """Positions of the last `percent` of these keys of `train` in TFDS's order, int64."""
    order: Ints = rank_order("train", keys)
    return order[num_kept(len(keys), percent) :]


def hold_out(records: Sequence[Record], percent: int, key: Callable[[Record], int | str]) -> Iterator[Record]:
    """The same records; the last `percent` of those in `train`, in TFDS's order of `key`, are in `val` instead."""
    train = [row for row, record in enumerate(records) if record.split == "train"]
    positions: list[int] = last_percent([key(records[row]) for row in train], percent).tolist()
    held_out = {train[position] for position in positions}
    for row, record in enumerate(records):
        yield dataclasses.replace(record, split="val") if row in held_out else record


def own_key(record: Record) -> str:
    """What TFDS hashes, where it is our key, too."""
    return record.key
