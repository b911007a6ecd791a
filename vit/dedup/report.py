"""What de-duplication found, as tables and numbers: pairs, counts in the shape of BiT's Table 7, the planted truth."""

import bisect
import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vit.dedup import groups
from vit.dedup.benchmark import Benchmark
from vit.dedup.engine import Searched
from vit.dedup.sources import Member, Piece, printable
from vit.dedup.state import Found
from vit.dedup.vetoes import Veto

COLUMNS = pa.schema(
    [
        ("train", pa.string()),  # path or key, relative to its root
        ("test", pa.string()),
        ("corpus", pa.string()),  # name of the root that `train` is in
        ("benchmark", pa.string()),  # of the root that `test` is in; in a pipeline the task
        ("tier", pa.string()),  # exact-bytes, exact-pixels, near, embedding
        ("distance", pa.int32()),  # bits of 256
        ("score", pa.float64()),  # local-contrast correlation; of an embedding, the normalised similarity
        ("window", pa.string()),  # the part of one of the images that is the other
        ("flip", pa.string()),  # what turns the test image into the corpus image
        ("refined", pa.bool_()),  # whether the alignment had to be searched for
    ]
)
VETOED = pa.schema([*COLUMNS, ("who", pa.string()), ("why", pa.string())])
UNREADABLE = pa.schema([("side", pa.string()), ("root", pa.string()), ("key", pa.string()), ("reason", pa.string())])
# BiT, arXiv 1912.11370, Table 7: test images with a near-duplicate in JFT, ImageNet-21k and ILSVRC train.
PUBLISHED = {
    "ILSVRC-2012 val": (6470, 3834, 879),
    "CIFAR-10": (435, 687, 82),
    "CIFAR-100": (491, 890, 136),
    "Pets": (600, 80, 58),
    "Flowers": (412, 335, 0),
}
_NAMES = {
    "ILSVRC-2012 val": ("imagenet", "ilsvrc", "ilsvrc2012", "ilsvrc2012val", "imagenetval", "imagenet2012"),
    "CIFAR-10": ("cifar10",),
    "CIFAR-100": ("cifar100", "cifar"),  # VTAB's `cifar` is CIFAR-100
    "Pets": ("pets", "oxfordiiitpet", "oxfordpets", "oxfordiiitpets"),
    "Flowers": ("flowers", "flowers102", "oxfordflowers102", "oxfordflowers"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A corpus image and a test image that it shows; fields are the columns of pairs.parquet."""

    train: str
    test: str
    corpus: str
    benchmark: str
    tier: str
    distance: int
    score: float
    window: str
    flip: str
    refined: bool


class Located(NamedTuple):
    """A pair, and where its two images are."""

    pair: Pair
    train: Piece
    test: Piece
    row: int  # of the test image in its piece


class Planted(NamedTuple):
    """A row of planted.parquet: corpus image `key` is image `test` of benchmark `task` after `edit`."""

    key: str
    task: str
    test: str
    edit: str


class Decided(NamedTuple):
    """The pairs that count and those that a person vetoed, sorted by corpus image and then test image."""

    pairs: list[Located]
    vetoed: list[tuple[Located, Veto]]


def decide(searched: Searched, vetoes: Sequence[Veto]) -> Decided:
    """Name both sides of everything found and set the vetoed pairs aside."""
    benchmarks = {benchmark.fingerprint: benchmark for benchmark in searched.benchmarks}
    about = {(veto.test, veto.train) for veto in vetoes}
    decided = Decided([], [])
    first: dict[
        tuple[str, ...], Located
    ] = {}  # a pair that the embedding finds again counts once, as it was found first
    for piece, found in searched.found:
        one = _located(piece, found, benchmarks[found.benchmark])
        first.setdefault((one.pair.corpus, one.pair.train, one.pair.benchmark, one.pair.test), one)
    for _, one in sorted(first.items(), key=lambda item: item[0]):
        pair = one.pair
        names = {"test": pair.test, "train": pair.train, "benchmark": pair.benchmark, "corpus": pair.corpus}
        covering = (veto for veto in vetoes if veto.covers(**names)) if (pair.test, pair.train) in about else iter(())
        veto = next(covering, None)
        if veto is None:
            decided.pairs.append(one)
        else:
            decided.vetoed.append((one, veto))
    return decided


def write_pairs(pairs: Iterable[Pair], path: Path) -> None:
    """pairs.parquet, in the given order (COLUMNS)."""
    pq.write_table(pa.Table.from_pylist([dataclasses.asdict(pair) for pair in pairs], schema=COLUMNS), path)


def write_vetoed(vetoed: Iterable[tuple[Located, Veto]], path: Path) -> None:
    """vetoed.parquet: the same columns, and who vetoed the pair and why."""
    rows = [dataclasses.asdict(one.pair) | {"who": veto.who, "why": veto.why} for one, veto in vetoed]
    pq.write_table(pa.Table.from_pylist(rows, schema=VETOED), path)


def write_unreadable(unreadable: Iterable[tuple[str, str, str, str]], path: Path) -> None:
    """unreadable.parquet: side (train or test), root, key and reason of every image that was not compared."""
    rows = [dict(zip(UNREADABLE.names, row, strict=True)) for row in unreadable]
    pq.write_table(pa.Table.from_pylist(rows, schema=UNREADABLE), path)


def by_benchmark(searched: Searched, pairs: Iterable[Pair]) -> dict[str, dict[str, Any]]:
    """For each benchmark what BiT's Table 7 reports, duplicates inside it, and how it was compared."""
    known = list(pairs)
    duplicates = Counter(name for name, _ in {(pair.benchmark, pair.test) for pair in known})
    counts = Counter(pair.benchmark for pair in known)
    return {
        benchmark.name: {
            "test_images": len(benchmark.keys),
            "with_duplicate": duplicates[benchmark.name],
            "pairs": counts[benchmark.name],
            "within": None if searched.within is None else sum(len(group) - 1 for group in within(searched, benchmark)),
            "compared_by_stored_codes": searched.screened.get(benchmark.fingerprint, 0),
            "published": published(benchmark.name),
        }
        for benchmark in searched.benchmarks
    }


def within(searched: Searched, benchmark: Benchmark) -> list[list[str]]:
    """Groups of test images of one benchmark that show the same picture."""
    own = (one for one in searched.within or () if one.benchmark == benchmark.fingerprint)
    return groups.components((one.train, benchmark.keys[one.test]) for one in own)


def published(name: str) -> dict[str, Any] | None:
    """BiT's own counts for the benchmark of this name, if it is in Table 7."""
    plain = "".join(letter for letter in name.lower() if letter.isalnum())
    for row, names in _NAMES.items():
        if plain in names:
            jft, imagenet21k, ilsvrc = PUBLISHED[row]
            return {"name": row, "jft": jft, "imagenet21k": imagenet21k, "ilsvrc_train": ilsvrc}
    return None


def read_planted(path: Path) -> list[Planted]:
    """The planted duplicates of a synthetic corpus (see vit.data.synthetic.planted)."""
    return [Planted(row["key"], row["task"], row["test_key"], row["edit"]) for row in pq.read_table(path).to_pylist()]


def score_planted(planted: Sequence[Planted], pairs: Iterable[Pair], removed: Set[str]) -> dict[str, Any]:
    """Recall over planted images, strictly: the very test image must be named; precision over removed images."""
    known = {(pair.train, pair.benchmark, pair.test) for pair in pairs}
    by_edit: dict[str, list[int]] = {edit: [0, 0] for edit in sorted({item.edit for item in planted})}
    missed: list[str] = []
    for item in planted:
        is_found = (item.key, item.task, item.test) in known
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


def lost_labels(table: pa.Table, kept: pa.Table) -> list[int]:
    """Labels that split train of `table` has and that of `kept` has not, in order."""
    return sorted(_train_labels(table) - _train_labels(kept))


def doubt(pair: Pair) -> tuple[Any, ...]:
    """Sorts pairs by how far they are from certain, most doubtful first."""
    return pair.tier.startswith("exact"), pair.score, -pair.distance, pair.benchmark, pair.test, pair.corpus, pair.train


def _located(piece: Piece, found: Found, benchmark: Benchmark) -> Located:
    at = bisect.bisect_right(benchmark.firsts, found.test) - 1
    pair = Pair(
        train=found.train,
        test=benchmark.keys[found.test],
        corpus=piece.root,
        benchmark=benchmark.name,
        tier=found.tier,
        distance=found.distance,
        score=found.score,
        window=found.window,
        flip=found.flip,
        refined=found.refined,
    )
    return Located(pair, piece, benchmark.pieces[at], found.test - benchmark.firsts[at])


def member(piece: Piece, key: str) -> Member:
    """The image of this (printable) key in a piece."""
    return next(one for one in piece.members()[0] if printable(one.key) == key)


def _train_labels(table: pa.Table) -> set[int]:
    several: list[list[int]] = table.filter(pc.field("split") == "train")["labels"].to_pylist()
    return {label for labels in several for label in labels}
