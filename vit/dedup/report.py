"""What de-duplication found, as numbers and as pictures that a person can check."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COLUMNS = pa.schema(
    [
        ("train", pa.string()),  # corpus key
        ("test", pa.string()),  # TASK/KEY
        ("task", pa.string()),
        ("tier", pa.string()),  # exact-bytes | exact-pixels | near
        ("distance", pa.int32()),  # bits of 256
        ("score", pa.float64()),  # local-contrast correlation
        ("window", pa.string()),  # the part of the test image, or `train-…` of the corpus image, that matched
        ("flip", pa.string()),  # what turns the test image into the corpus image
    ]
)
SHEET_PAIRS, SHEET_COLUMNS, PER_TIER = 24, 4, 3
TILE, GAP, CAPTION = 72, 8, 26  # pixels
COLOURS = 128  # of the sheet's palette, keeps the file small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A corpus image and a test image that it shows; fields are the columns of pairs.parquet."""

    train: str
    test: str
    task: str
    tier: str
    distance: int
    score: float
    window: str
    flip: str


class Planted(NamedTuple):
    """A row of planted.parquet: corpus image `key` is test image `test` (TASK/KEY) after `edit`."""

    key: str
    test: str
    edit: str


def write_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """pairs.parquet, in the given order (COLUMNS)."""
    pq.write_table(pa.Table.from_pylist([dataclasses.asdict(pair) for pair in pairs], schema=COLUMNS), path)


def read_planted(path: Path) -> list[Planted]:
    """The planted duplicates of a synthetic corpus (see vit.data.synthetic.planted)."""
    rows = pq.read_table(path).to_pylist()
    return [Planted(row["key"], f"{row['task']}/{row['test_key']}", row["edit"]) for row in rows]


def by_task(pairs: Iterable[Pair], tasks: Iterable[str]) -> dict[str, int]:
    """Test images with a duplicate in the corpus, per task: the shape of Table 7 in BiT (arXiv 1912.11370)."""
    counts = Counter(task for task, _ in {(pair.task, pair.test) for pair in pairs})
    return {task: counts[task] for task in tasks}


def score_planted(planted: Sequence[Planted], pairs: Iterable[Pair], removed: Set[str]) -> dict[str, Any]:
    """Recall over planted images, strictly: the very test image must be named; precision over removed images."""
    known = {(pair.train, pair.test) for pair in pairs}
    by_edit: dict[str, list[int]] = {edit: [0, 0] for edit in sorted({item.edit for item in planted})}
    missed: list[str] = []
    for item in planted:
        is_found = (item.key, item.test) in known
        by_edit[item.edit][0] += is_found
        by_edit[item.edit][1] += 1
        missed += [] if is_found else [item.key]
    found = len(planted) - len(missed)
    return {
        "total": len(planted),
        "found": found,
        "missed": missed,
        "recall": found / len(planted) if planted else None,
        "precision": len(removed & {item.key for item in planted}) / len(removed) if removed else None,
        "by_edit": by_edit,
    }


def choose(pairs: Sequence[Pair]) -> list[Pair]:
    """Up to SHEET_PAIRS pairs to look at, one per corpus image: the first few of each tier, the rest by doubt."""
    # A corpus image may show many test images (a template); its best pair says whether it was rightly removed.
    best: dict[str, Pair] = {}
    for pair in sorted(pairs, key=lambda pair: (-pair.score, pair.distance, pair.test)):
        best.setdefault(pair.train, pair)
    doubtful = sorted(best.values(), key=lambda pair: (pair.score, -pair.distance, pair.train))
    chosen = [pair for tier in sorted({p.tier for p in doubtful}) for pair in _of(doubtful, tier)[:PER_TIER]]
    chosen += [pair for pair in doubtful if pair not in chosen][: SHEET_PAIRS - len(chosen)]
    return sorted(chosen, key=lambda pair: (pair.score, -pair.distance, pair.train))


def draw(
    pairs: Sequence[Pair], images: Sequence[tuple[Image.Image, Image.Image]], edits: Mapping[str, str]
) -> Image.Image:
    """A contact sheet of pairs (corpus | test) with their images; `edits` names what was planted, by corpus key."""
    width, height = 2 * TILE + GAP, TILE + CAPTION + GAP
    columns, rows = min(SHEET_COLUMNS, max(1, len(pairs))), -(-len(pairs) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * height + GAP + CAPTION), "white")
    pen = ImageDraw.Draw(sheet)
    title = "corpus image | test image, most doubtful first" if pairs else "no corpus image duplicates a test image"
    pen.text((GAP, GAP), title, fill="black")
    for place, (pair, shown) in enumerate(zip(pairs, images, strict=True)):
        row, column = divmod(place, SHEET_COLUMNS)
        x, y = GAP + column * (width + GAP), CAPTION + row * height
        for side, image in enumerate(shown):
            sheet.paste(image.resize((TILE, TILE), Image.Resampling.NEAREST), (x + side * (TILE + 2), y))
        how = edits.get(pair.train, pair.tier)
        pen.text((x, y + TILE), f"{how}  d={pair.distance}  s={pair.score:.2f}", fill="black")
        pen.text((x, y + TILE + 11), f"{pair.task} {pair.flip}"[:26], fill="gray")
    return sheet.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def lost_labels(table: pa.Table, kept: pa.Table) -> list[int]:
    """Labels that split train of `table` has and that of `kept` has not, in order."""
    return sorted(_train_labels(table) - _train_labels(kept))


def _train_labels(table: pa.Table) -> set[int]:
    several: list[list[int]] = table.filter(pc.field("split") == "train")["labels"].to_pylist()
    return {label for labels in several for label in labels}


def _of(pairs: Iterable[Pair], tier: str) -> list[Pair]:
    return [pair for pair in pairs if pair.tier == tier]
