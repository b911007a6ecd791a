"""deduplicate: corpus images that show a test image of a task are left out of the list to train on.

Follows BiT and ViT (arXiv 1912.11370 appendix C, 2010.11929 §4.1): (near-)duplicates of test images are removed
upstream, and the pairs are kept as evidence. No file is deleted: what stays is an index.
"""

import dataclasses
import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from vit.dedup.hashes import BITS, SETTINGS

from flows.adapters import storage
from flows.stages import output
from flows.stages.progress import reporter
from vit.data.shards import INDEX, Shards
from vit.dedup import prints, report
from vit.dedup.search import Match, TestIndex

CHUNK = 512  # corpus images in memory at a time
THREADS = 2  # that decode and search


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeduplicateConfig:
    """How alike a corpus image and a test image are that count as one picture."""

    radius: int  # bits of 256 in which their codes may differ
    min_score: float  # correlation of their aligned local contrast

    def __post_init__(self) -> None:
        if not 0 <= self.radius < BITS // 2:
            raise ValueError(f"radius is {self.radius}; it must be between 0 and {BITS // 2 - 1} (of {BITS} bits)")
        if not 0 < self.min_score <= 1:
            raise ValueError(f"min_score is {self.min_score}; it is a correlation, more than 0 and at most 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What a pass over the corpus found."""

    pairs: list[report.Pair]
    unreadable: dict[str, str]  # corpus key: the decoder's reason


def deduplicate(config: DeduplicateConfig, *, images: Path, out: Path) -> Path:
    """Write the rows of the corpus index that stay, the pairs, a report and a contact sheet.

    Raises ValueError if a test image cannot be read, if nothing stays, or if a class loses all its training images;
    BadShard if corpus or tasks are incomplete.
    """
    with output.writing(out, "deduplicate", config, {"images": images}) as work:
        corpus = Shards(images / "corpus", open_store=storage.open)
        tests = _test_sets(images / "tasks")
        found = _search(config, corpus, tests)
        removed = {pair.train for pair in found.pairs}
        table = pq.read_table(images / "corpus" / INDEX)
        kept = table.filter(pa.array([key not in removed and key not in found.unreadable for key in corpus.keys]))
        _check(table, kept, corpus.class_names)
        pq.write_table(kept, work / INDEX)
        report.write_pairs(found.pairs, work / "pairs.parquet")
        planted = _planted(images / "planted.parquet")
        output.write_json(work / "report.json", _report(found, tests, planted, num_images=len(corpus)))
        _draw(found.pairs, corpus, tests, planted).save(work / "pairs.png", optimize=True)
    return out


def _test_sets(tasks: Path) -> dict[str, Shards]:
    """The test split of every task, by name."""
    listed = json.loads((tasks / "tasks.json").read_text())["tasks"]
    if not listed:
        raise ValueError(f"{tasks / 'tasks.json'} lists no tasks, so there is no test image to look for; prepare again")
    return {task["name"]: Shards(tasks / task["name"], splits=("test",)) for task in listed}


def _search(config: DeduplicateConfig, corpus: Shards, tests: dict[str, Shards]) -> Search:
    names = [(task, f"{task}/{key}") for task, shards in tests.items() for key in shards.keys]
    index = TestIndex(prints.concatenate([_all_prints(task, shards) for task, shards in tests.items()]))
    tell, started = reporter("deduplicate", len(corpus)), time.monotonic()
    found = Search(pairs=[], unreadable={})
    for start in range(0, len(corpus), CHUNK):
        stop = min(start + CHUNK, len(corpus))
        chunk = prints.take(corpus, range(start, stop), THREADS)
        matches = index.find(chunk, radius=config.radius, min_score=config.min_score, threads=THREADS)
        found.pairs.extend(_pair(match, corpus.keys[chunk.rows[match.train]], *names[match.test]) for match in matches)
        found.unreadable.update({corpus.keys[row]: reason for row, reason in chunk.unreadable.items()})
        tell(stop, {"images_per_second": stop / (time.monotonic() - started), "pairs": len(found.pairs)})
    return found


def _all_prints(task: str, shards: Shards) -> prints.Prints:
    taken = prints.take(shards, range(len(shards)), THREADS)
    for row, reason in taken.unreadable.items():
        raise ValueError(
            f"test image {shards.keys[row]} of task {task} {reason}, so its duplicates cannot be found; "
            f"repair {shards.uri} and prepare again ({len(taken.unreadable)} such images in this task)"
        )
    return taken


def _pair(match: Match, train: str, task: str, test: str) -> report.Pair:
    return report.Pair(
        train=train,
        test=test,
        task=task,
        tier=match.tier,
        distance=match.distance,
        score=match.score,
        window=match.window,
        flip=match.flip,
    )


def _check(table: pa.Table, kept: pa.Table, class_names: list[str]) -> None:
    if not kept.num_rows:
        raise ValueError(
            f"none of {table.num_rows} corpus images is left: all duplicate a test image or cannot be read; "
            "look at the corpus, or ask for a higher deduplicate.min_score"
        )
    lost = report.lost_labels(table, kept)
    if lost:
        names = ", ".join(class_names[label] for label in lost[:5])
        raise ValueError(
            f"{len(lost)} of {len(class_names)} classes have no training image left after de-duplication: {names}; "
            "take these classes out of the corpus, or ask for a higher deduplicate.min_score"
        )


def _planted(path: Path) -> list[report.Planted] | None:
    return report.read_planted(path) if path.is_file() else None


def _report(
    found: Search, tests: dict[str, Shards], planted: list[report.Planted] | None, *, num_images: int
) -> dict[str, Any]:
    removed = {pair.train for pair in found.pairs}
    versions = {package: importlib.metadata.version(package) for package in ("pillow", "faiss-cpu")}
    return {
        "images_in": num_images,
        "removed": len(removed),
        "kept": num_images - len(removed) - len(found.unreadable),
        "num_test": sum(len(shards) for shards in tests.values()),
        "by_task": report.by_task(found.pairs, tests),
        "pairs": len(found.pairs),
        "hash": SETTINGS | versions,
        "unreadable": [{"key": key, "reason": reason} for key, reason in sorted(found.unreadable.items())],
        "planted": None if planted is None else report.score_planted(planted, found.pairs, removed),
    }


def _draw(
    pairs: list[report.Pair], corpus: Shards, tests: dict[str, Shards], planted: list[report.Planted] | None
) -> Any:
    chosen = report.choose(pairs)
    shown = [
        (corpus.image(corpus.keys.index(pair.train)), _by_name(tests[pair.task], pair.test.partition("/")[2]))
        for pair in chosen
    ]
    return report.draw(chosen, shown, {item.key: item.edit for item in planted or ()})


def _by_name(shards: Shards, key: str) -> Any:
    return shards.image(shards.keys.index(key))
