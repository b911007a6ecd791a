"""deduplicate: corpus images that show a test image of a task are left out of the list to train on.

Follows BiT and ViT (arXiv 1912.11370 appendix C, 2010.11929 §4.1): (near-)duplicates of test images are removed
upstream, and the pairs are kept as evidence. No file is deleted: what stays is an index. The same engine serves
`vitflow dedup` (docs/dedup.md); a killed stage goes on from its finished pieces.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.adapters import ray_cluster, storage
from flows.adapters.ray_map import as_done
from flows.stages import output, scratch
from flows.stages.progress import reporter
from vit.data.shards import INDEX, Shards
from vit.dedup import audit, engine, report, sheet
from vit.dedup.engine import Map, Searched
from vit.dedup.report import Decided, Planted
from vit.dedup.sources import Root
from vit.dedup.state import State
from vit.dedup.tiers import Tier, tier

MANY = 100_000  # corpus images from which a cluster is worth its start


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeduplicateConfig:
    """How hard duplicates are looked for."""

    tier: str  # fast or thorough (docs/dedup.md)

    def __post_init__(self) -> None:
        tier(self.tier)


def deduplicate(config: DeduplicateConfig, *, images: Path, out: Path) -> Path:
    """Write the rows of the corpus index that stay, the pairs, a report, a page to look at and a contact sheet.

    Raises ValueError if a test image cannot be read, if nothing stays, or if a class loses all its training images;
    BadShard if corpus or tasks are incomplete.
    """
    inputs = {"images": images}
    with (
        scratch.directory(out, "deduplicate", config, inputs) as (finished, _),
        output.writing(out, "deduplicate", config, inputs) as work,
    ):
        corpus = Shards(images / "corpus", open_store=storage.open)
        tests = _test_sets(images)
        made_with = audit.settings(tier(config.tier))
        with State(finished / "state", made_with) as state:
            roots = [Root(name="corpus", store=corpus.home, shards=corpus)]
            searched = _search(tier(config.tier), state, roots, tests)
        _write(work, images, searched, report.decide(searched, ()), made_with)
    return out


def _write(work: Path, images: Path, searched: Searched, decided: Decided, made_with: dict[str, Any]) -> None:
    removed = audit.names_removed(decided).get("corpus", set())
    gone = removed | audit.names_unreadable(searched).get("corpus", set())
    table = pq.read_table(images / "corpus" / INDEX)
    kept = table.filter(pa.array([key not in gone for key in table["key"].to_pylist()]))
    _check(table, kept, Shards(images / "corpus", open_store=storage.open).class_names)
    pq.write_table(kept, work / INDEX)
    planted = _planted(images / "planted.parquet")
    used = tier(str(made_with["tier"]["name"]))
    pairs = [one.pair for one in decided.pairs]
    scored = None if planted is None else report.score_planted(planted, pairs, removed)
    counts = audit.summary(searched, decided, used, made_with) | {"kept": kept.num_rows, "planted": scored}
    audit.write(work, searched, decided, used, counts)
    output.write_json(work / "report.json", counts)
    chosen = sheet.choose(decided.pairs)
    edits = {item.key: item.edit for item in planted or ()}
    drawn = sheet.draw([one.pair for one in chosen], [audit.pictures(one) for one in chosen], edits)
    drawn.save(work / "pairs.png", optimize=True)


def _test_sets(images: Path) -> list[Root]:
    """The test split of every task, and the downstream images that are validated on."""
    tasks = images / "tasks"
    listed = json.loads((tasks / "tasks.json").read_text())["tasks"]
    if not listed:
        raise ValueError(f"{tasks / 'tasks.json'} lists no tasks, so there is no test image to look for; prepare again")
    found = {task["name"]: Shards(tasks / task["name"], splits=("test",)) for task in listed}
    if (images / "downstream").is_dir():
        found["downstream"] = Shards(images / "downstream", splits=("val",))
    return [Root(name=name, store=shards.home, shards=shards) for name, shards in found.items()]


def _search(used: Tier, state: State, corpus: list[Root], tests: list[Root]) -> Searched:
    total = sum(len(root.shards) for root in corpus if root.shards)
    tell = reporter("deduplicate", total)

    def told(what: str, done: int, pieces: int, pairs: int) -> None:
        if what == engine.CORPUS:
            tell(total * done // pieces, {"pairs": pairs})

    searched = engine.Engine(used, state, _map(total), told).search(corpus, tests, inside=False)
    bad = [row for row in searched.unreadable if row[0] == "test"]
    for _, task, key, reason in bad:
        raise ValueError(
            f"test image {key} of task {task} {reason}, so its duplicates cannot be found; "
            f"repair it and prepare again ({len(bad)} such images)"
        )
    return searched


def _map(total: int) -> Map:
    """A cluster's workers if there is one and much to do, else threads of this process."""
    if "RAY_ADDRESS" in os.environ and total >= MANY and ray_cluster.num_workers() > 1:
        return as_done
    return engine.here()


def _check(table: pa.Table, kept: pa.Table, class_names: list[str]) -> None:
    if not kept.num_rows:
        raise ValueError(
            f"none of {table.num_rows} corpus images is left: all duplicate a test image or cannot be read; "
            "look at the corpus"
        )
    lost = report.lost_labels(table, kept)
    if lost:
        names = ", ".join(class_names[label] for label in lost[:5])
        raise ValueError(
            f"{len(lost)} of {len(class_names)} classes have no training image left after de-duplication: {names}; "
            "take these classes out of the corpus"
        )


def _planted(path: Path) -> list[Planted] | None:
    return report.read_planted(path) if path.is_file() else None
