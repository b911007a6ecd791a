"""What a VTAB parser returns: all labelled images of the original distribution by TFDS split, keyed as TFDS keys them.

`vit.data.datasets.vtab.tasks` cuts the splits of the benchmark out of it; a parser knows nothing of them.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vit.data.datasets.archives import BadArchive, Member, index
from vit.data.record import Source

Reader = Callable[[], bytes]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A TFDS split, in the order of the archive."""

    keys: Sequence[int | str]  # what TFDS hashes
    labels: Sequence[int]
    readers: Callable[[Sequence[int]], list[Reader]]  # of the images at some positions, as many as are asked for
    ids: Sequence[str] = ()  # TFDS's ids where the keys are numbers, which several splits have in common


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """An original distribution."""

    where: Path
    class_names: tuple[str, ...]
    parts: dict[str, Part]  # by TFDS's name of the split: train, validation, test
    ext: str  # of every image
    keep_order: bool = False  # True where reading out of order is slow
    canonical: bool = True  # False where the splits cannot be those that TFDS made


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One labelled image of a part."""

    key: str
    label: int
    read: Reader


def part(items: Iterable[Item]) -> Part:
    """A Part of images that are read one by one."""
    held = list(items)

    def readers(positions: Sequence[int]) -> list[Reader]:
        return [held[position].read for position in positions]

    return Part(keys=[item.key for item in held], labels=[item.label for item in held], readers=readers)


def of_source(source: Source, names: dict[str, str], *, numbered: bool = False) -> Dataset:
    """The Dataset in an imported Source; `names` maps its splits to TFDS's.

    Keys are the source's, or with `numbered` the position in the split, the key of the record being TFDS's id.
    """
    records = list(source.records)
    parts: dict[str, Part] = {}
    for own, name in names.items():
        chosen = [record for record in records if record.split == own]
        plain = part(Item(key=record.key, label=record.labels[0], read=record.read) for record in chosen)
        ids = [record.key for record in chosen]
        parts[name] = dataclasses.replace(plain, keys=range(len(ids)), ids=ids) if numbered else plain
    return Dataset(
        where=Path(source.where),
        class_names=source.class_names,
        parts=parts,
        ext=records[0].ext,
        keep_order=source.keep_order,
    )


def tree(place: Path, *roots: str) -> dict[str, Member]:
    """The files of an archive or its extraction by name, without the leading folder if it is one of `roots`."""
    found: dict[str, Member] = {}
    for name, member in index(place).items():
        top, _, rest = name.partition("/")
        found[rest if top in roots and rest else name] = member
    return found


def wanted(files: dict[str, Member], name: str, place: Path) -> Member:
    """The file of that name; raises BadArchive if the archive does not hold it."""
    if name not in files:
        raise BadArchive(f"{place} holds no {name}: it is incomplete or another version; get it again")
    return files[name]


def lines(member: Member) -> list[str]:
    """The lines of a text file that are not empty, stripped."""
    return [line.strip() for line in member.read().decode().splitlines() if line.strip()]
