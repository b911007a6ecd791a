"""Labels and splits as people write them (names, numbers, lists, folders) to the numbers that records carry."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

from vit.data.record import SPLITS, split_name
from vit.data.store import Store

Written: TypeAlias = Sequence[int | str]  # the labels of one image as the source has them
_SPLIT = re.compile(rf"(?:^|[/_.-])({'|'.join(SPLITS)})(?=[/_.\d-]|$)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table hold what; null: the one with a usual name."""

    image: str | None  # path, s3:// address, or (Hugging Face) the image itself
    label: str | None
    split: str | None  # train, val or test; without such a column prepare cuts val from train
    separator: str | None  # between the labels of one image in a text, for multi-label; null: one label

    def __post_init__(self) -> None:
        if self.separator == "":
            raise ValueError("columns.separator is empty; name the character between labels, or null for one label")


def numbered(
    written: Iterable[Written], class_names: Sequence[str]
) -> tuple[tuple[str, ...], list[tuple[int, ...] | str]]:
    """Class names, and for each image its labels as their numbers, or why it has none.

    With `class_names` a label is one of them or a number counting from 0. Without, the classes are all labels that
    occur, in order of their values if all are numbers, else by name.
    """
    images = [tuple(labels) for labels in written]
    if not class_names:
        # Negative numbers mean "not known" wherever labels are numbers.
        distinct = {str(label) for labels in images for label in labels if not re.fullmatch(r"-\d+", str(label))}
        class_names = sorted(distinct, key=int) if all(map(_is_number, distinct)) else sorted(distinct)
        images = [tuple(map(str, labels)) for labels in images]
    numbers = {name: number for number, name in enumerate(class_names)}
    return tuple(class_names), [_known(labels, numbers) for labels in images]


def read_class_names(store: Store, name: str) -> tuple[str, ...]:
    """Class names from a file with one on each line, or a JSON list; raises ValueError if there are none or doubles."""
    text = store.read(name).decode("utf-8-sig")
    names: list[str] = json.loads(text) if name.endswith(".json") else [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names or len(set(names)) < len(names) or not all(names):
        raise ValueError(f"{store.uri}/{name} must list class names, one on each line, none of them empty or twice")
    return tuple(names)


def split_of(name: str) -> str:
    """The split that the name of a file speaks of: train, val or test; "" if none."""
    found = _SPLIT.findall(name)
    return split_name(found[-1]) if found else ""


def split_text(cell: Any, separator: str | None) -> Written:
    """The labels in a cell: a list, a number, or a text with `separator` between labels; none if it is empty."""
    if cell is None or cell == "" or cell != cell:  # NaN
        return ()
    if isinstance(cell, (list, tuple)):
        return [one for one in cast(Sequence[Any], cell) if one is not None]
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # integers with gaps arrive as floats
    if isinstance(cell, int):
        return (int(cell),)
    parts = str(cell).split(separator) if separator else [str(cell)]
    return [part.strip() for part in parts if part.strip()]


def _known(labels: Written, numbers: dict[str, int]) -> tuple[int, ...] | str:
    found: list[int] = []
    for label in labels:
        if isinstance(label, str) and label in numbers:
            found.append(numbers[label])
        elif _is_number(str(label)):  # out of range is for the writer to say
            found.append(int(label))
        else:
            return f"has an unusable label ({str(label)[:40]!r} is none of the {len(numbers)} class names)"
    return tuple(dict.fromkeys(found))


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"-?\d{1,9}", text, re.ASCII))
