"""What a person should know of a corpus before training on it: counts, classes, sizes, formats, and anything odd."""

import dataclasses
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from vit.data.hygiene import NOTES
from vit.data.index import index_batches, read_manifest
from vit.data.pictures import UnreadableImage, decode
from vit.data.shards import shard_store
from vit.data.split import rank_key
from vit.data.store import Store, as_store
from vit.typing import Ints

SIDES = (32, 64, 128, 224, 256, 384, 512, 1024, 2048)  # where the histogram of shorter sides is cut, pixels
TINY = 32  # pixels
UNEVEN = 10  # times as many images in the largest class as in the smallest
TOLD = 3  # names in a sentence
SHEET_CLASSES, SHEET_COLUMNS, TILE, GAP, CAPTION = 12, 10, 72, 4, 14  # pixels; classes are rows
COLOURS = 256  # of the sheet's palette, keeps the file small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """What is looked at: shards, or a source that was only checked."""

    table: pa.Table  # columns of vit.data.index, but for shard and offset
    class_names: Sequence[str]
    rejects: Sequence[str]  # reasons
    read: Callable[[int], bytes]  # the encoded image of a row


def describe(corpus: Corpus) -> dict[str, Any]:
    """All there is to know, as plain values for JSON; `odd` holds sentences."""
    table = corpus.table
    width, height = table["width"].to_numpy(), table["height"].to_numpy()
    shorter = np.minimum(width, height)
    facts: dict[str, Any] = {
        "images": table.num_rows,
        "bytes": int(table["length"].to_numpy().sum()),
        "splits": _counts(table["split"].to_pylist()),
        "classes": _by_class(corpus),
        "formats": _counts(table["ext"].to_pylist()),
        "width": _range(width),
        "height": _range(height),
        "shorter_side": _histogram(shorter),
        "notes": _counts(word for words in table["notes"].to_pylist() for word in words.split()),
        "duplicates": _duplicates(table),
        "rejects": _counts(reason.partition(" (")[0] for reason in corpus.rejects),
    }
    return facts | {"odd": list(_odd(facts, table))}


def sheet(corpus: Corpus) -> Image.Image:
    """A contact sheet: a row of pictures for each class, or for a dozen of the classes if there are more.

    Which pictures are shown follows from their keys. An image that cannot be read is a grey square.
    """
    columns = [(corpus.table["key"].to_pylist(), corpus.table["label"].to_numpy())]
    return _drawn(_picked(lambda: columns), corpus.class_names, corpus.read)


def sheet_of(directory: Path, open_store: Callable[[str], Store]) -> Image.Image:
    """The sheet of shards or of what refers to some, whatever their number, without reading their whole index."""
    home, wanted = as_store(directory), ["key", "label", "shard", "offset", "length"]

    def columns() -> Iterator[tuple[list[str], Ints]]:
        for batch in index_batches(home, wanted[:2]):
            yield batch["key"].to_pylist(), batch["label"].to_numpy()

    picked = _picked(columns)
    places: dict[int, tuple[str, int, int]] = {}
    rows, start = sorted(row for _, _, rows in picked for row in rows), 0
    for batch in index_batches(home, wanted[2:]):
        here = [row for row in rows if start <= row < start + batch.num_rows]
        places |= {row: tuple(batch[name][row - start].as_py() for name in wanted[2:]) for row in here}
        start += batch.num_rows
    store = shard_store(home, open_store)
    return _drawn(picked, read_manifest(home)["class_names"], lambda row: store.read(*places[row]))


def _picked(columns: Callable[[], Iterable[tuple[Sequence[str], Ints]]]) -> list[tuple[int, int, list[int]]]:
    """The labels that are shown, how many images each has, and the first of them in MD5 order of their keys."""
    counts = Counter[int]()
    for _, labels in columns():
        counts.update(labels.tolist())
    best: dict[int, list[tuple[int, int]]] = {label: [] for label in _spread(sorted(counts))}
    start = 0
    for keys, labels in columns():
        for label, found in best.items():
            rows: list[int] = np.flatnonzero(labels == label).tolist()
            ranked = [(rank_key("sheet", keys[row]), start + row) for row in rows]
            best[label] = heapq.nsmallest(SHEET_COLUMNS, found + ranked)
        start += len(keys)
    return [(label, counts[label], [row for _, row in found]) for label, found in best.items()]


def _drawn(
    picked: Sequence[tuple[int, int, list[int]]], class_names: Sequence[str], read: Callable[[int], bytes]
) -> Image.Image:
    width = SHEET_COLUMNS * (TILE + GAP) + GAP
    page = Image.new("RGB", (width, len(picked) * (TILE + GAP + CAPTION) + GAP), "white")
    pen = ImageDraw.Draw(page)
    for line, (label, count, rows) in enumerate(picked):
        top = GAP + line * (TILE + GAP + CAPTION)
        name = class_names[label] if label >= 0 else "no label"
        pen.text((GAP, top), f"{name[:60]}: {count:,}".encode("latin-1", "replace").decode("latin-1"), fill="black")
        for column, row in enumerate(rows):
            page.paste(_tile(read, row), (GAP + column * (TILE + GAP), top + CAPTION))
    return page.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _tile(read: Callable[[int], bytes], row: int) -> Image.Image:
    square = Image.new("RGB", (TILE, TILE), "gray")
    try:
        image = decode(read(row))
    except UnreadableImage:
        return square
    image.thumbnail((TILE, TILE))
    square.paste("white", (0, 0, TILE, TILE))
    square.paste(image, ((TILE - image.width) // 2, (TILE - image.height) // 2))
    return square


def _spread(labels: Sequence[int]) -> list[int]:
    """All, or a dozen at equal distances."""
    places = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), SHEET_CLASSES)).round().astype(int))
    return [labels[place] for place in places]


def _by_class(corpus: Corpus) -> dict[str, int]:
    """Images of each class; of several labels each counts."""
    counts = Counter(label for labels in corpus.table["labels"].to_pylist() for label in labels)
    return {name: counts[label] for label, name in enumerate(corpus.class_names)}


def _duplicates(table: pa.Table) -> dict[str, int]:
    """Images with the bytes of an earlier one; how many of those are in another split, or under other labels."""
    seen: dict[str, tuple[str, list[int]]] = {}
    found = {"images": 0, "in_other_split": 0, "with_other_labels": 0}
    columns = (table[name].to_pylist() for name in ("sha256", "split", "labels"))
    for sha256, split, labels in zip(*columns, strict=True):
        if sha256 not in seen:
            seen[sha256] = (split, labels)
            continue
        found["images"] += 1
        found["in_other_split"] += seen[sha256][0] != split
        found["with_other_labels"] += seen[sha256][1] != labels
    return found


def _odd(facts: dict[str, Any], table: pa.Table) -> Iterable[str]:
    classes: dict[str, int] = facts["classes"]
    empty = [name for name, count in classes.items() if not count]
    if empty:
        yield f"{len(empty)} of {len(classes)} classes have no image: {_some(empty)}"
    filled = sorted((count, name) for name, count in classes.items() if count)
    if filled and filled[-1][0] >= UNEVEN * filled[0][0]:
        yield (
            f"classes are uneven: {filled[-1][1]} has {filled[-1][0]:,} images, {filled[0][1]} has {filled[0][0]:,} "
            f"(median {filled[len(filled) // 2][0]:,})"
        )
    single = [name for count, name in filled if count == 1]
    if single:
        yield f"{len(single)} classes have a single image, which cannot be in train and val: {_some(single)}"
    tiny = int((np.minimum(table["width"].to_numpy(), table["height"].to_numpy()) < TINY).sum())
    if tiny:
        yield f"{tiny:,} images are smaller than {TINY} pixels on a side"
    twice = facts["duplicates"]
    if twice["images"]:
        yield (
            f"{twice['images']:,} images have the same bytes as another one, {twice['in_other_split']:,} of them in "
            f"another split, {twice['with_other_labels']:,} under other labels"
        )
    for word, count in facts["notes"].items():
        if word in NOTES and word != "duplicate":
            yield f"{count:,} images: {NOTES[word]}"
    for reason, count in facts["rejects"].items():
        yield f"{count:,} rejected: {reason}"


def _histogram(values: Ints) -> dict[str, int]:
    """Counts between the cuts of SIDES, empty ends left out."""
    places = np.bincount(np.searchsorted(SIDES, values, side="right"), minlength=len(SIDES) + 1)
    names = [f"below {SIDES[0]}", *(f"{low} to {high - 1}" for low, high in itertools.pairwise(SIDES))]
    return {name: int(count) for name, count in zip([*names, f"{SIDES[-1]} and more"], places, strict=True) if count}


def _range(values: Ints) -> dict[str, int]:
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def _counts(words: Iterable[str]) -> dict[str, int]:
    """Most frequent first."""
    return dict(sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:TOLD]) + (", …" if len(names) > TOLD else "")
