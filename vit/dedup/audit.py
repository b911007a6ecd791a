"""What a run leaves for people and programs, through whichever door it came: tables, report.json, report.html."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vit.data.pictures import UnreadableImage, decode
from vit.dedup import aligned, codes, page, report
from vit.dedup.engine import Searched
from vit.dedup.report import Decided, Located
from vit.dedup.sources import Member, Piece
from vit.dedup.tiers import Tier

PACKAGES = ("numpy", "pillow", "simplejpeg", "opencv-python-headless")  # a change of these may change codes or scores
FORMAT = 1  # of the state on disk


class More(NamedTuple):
    """What some runs have to show besides."""

    groups: Sequence[Sequence[str]] = ()  # duplicates inside the training set, the kept image first
    curve: str = ""  # of an embedding's calibration, an SVG


NOTHING_MORE = More()


def settings(tier: Tier, **more: Any) -> dict[str, Any]:
    """All that must be the same for results to be comparable."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"format": FORMAT, "codes": codes.SETTINGS, "tier": dataclasses.asdict(tier), "versions": versions, **more}


def summary(searched: Searched, decided: Decided, tier: Tier, made_with: Mapping[str, Any]) -> dict[str, Any]:
    """The content of report.json that every door shares (ARCHITECTURE.md)."""
    pairs = [one.pair for one in decided.pairs]
    removed = {(pair.corpus, pair.train) for pair in pairs}
    return {
        "images_in": searched.num_train,
        "removed": len(removed),
        "num_test": sum(len(benchmark.keys) for benchmark in searched.benchmarks),
        "by_benchmark": report.by_benchmark(searched, pairs),
        "pairs": len(pairs),
        "vetoed": len(decided.vetoed),
        "unreadable": {side: sum(row[0] == side for row in searched.unreadable) for side in ("train", "test")},
        "tier": tier.name,
        "settings": dict(made_with),
    }


def write(
    directory: Path,
    searched: Searched,
    decided: Decided,
    tier: Tier,
    counts: Mapping[str, Any],
    more: More = NOTHING_MORE,
) -> None:
    """pairs.parquet, vetoed.parquet, unreadable.parquet and report.html."""
    report.write_pairs((one.pair for one in decided.pairs), directory / "pairs.parquet")
    report.write_vetoed(decided.vetoed, directory / "vetoed.parquet")
    report.write_unreadable(searched.unreadable, directory / "unreadable.parquet")
    chosen = page.choose(decided.pairs)
    content = page.Content(
        summary=counts,
        benchmarks=counts["by_benchmark"],
        shown=[aligned.align(one.pair, *pictures(one), tier) for one in chosen],
        num_pairs=len(decided.pairs),
        vetoed=decided.vetoed,
        within={benchmark.name: report.within(searched, benchmark) for benchmark in searched.benchmarks},
        notes=searched.notes,
        unreadable=searched.unreadable,
        groups=more.groups,
        curve=more.curve,
    )
    (directory / "report.html").write_text(page.render(content), encoding="utf-8")


def pictures(one: Located) -> tuple[Image.Image, Image.Image]:
    """The two images of a pair; a gray square for one that has become unreadable since."""
    train = report.member(one.train, one.pair.train)
    return _picture(one.train, train), _picture(one.test, one.test.members()[0][one.row])


def _picture(piece: Piece, member: Member) -> Image.Image:
    try:
        return decode(piece.read(member))
    except (OSError, UnreadableImage):
        return Image.new("RGB", (64, 64), "gray")


def names_removed(decided: Decided) -> dict[str, set[str]]:
    """Keys of corpus images that show a test image, by root."""
    removed: dict[str, set[str]] = {}
    for one in decided.pairs:
        removed.setdefault(one.pair.corpus, set()).add(one.pair.train)
    return removed


def names_unreadable(searched: Searched, side: str = "train") -> dict[str, set[str]]:
    """Keys of unreadable images of one side, by root."""
    bad: dict[str, set[str]] = {}
    for where, root, key, _ in searched.unreadable:
        if where == side:
            bad.setdefault(root, set()).add(key)
    return bad
