"""Which edited copies are found, and how many pairs of different pictures are taken for copies."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.dedup_peers import PEERS, pairs
from benchmarks.dedup_pictures import Tiles, tiles
from vit.dedup import edits, prints
from vit.dedup.search import TestIndex
from vit.dedup.tiers import Tier
from vit.typing import Ints


@dataclasses.dataclass(kw_only=True)
class Quality:
    """Counts of one method over all seeds."""

    method: str
    found: Ints = dataclasses.field(default_factory=lambda: np.zeros(len(edits.EDITS), dtype=np.int64))
    copies: int = 0  # of each edit
    false: int = 0  # pairs
    false_pictures: list[str] = dataclasses.field(default_factory=list[str])
    negatives: int = 0  # pairs that were looked at and show different tiles
    clean: int = 0  # unedited test images of which no copy is in train
    flagged: int = 0  # of them, wrongly

    def recall(self, groups: str = "".join(edits.GROUPS)) -> float:
        """Mean over the edits of these groups."""
        of_groups = [edit.group in groups for edit in edits.EDITS]
        return float((self.found[of_groups] / max(self.copies, 1)).mean())

    def add(self, cut: Tiles, found: Iterable[tuple[int, int]]) -> None:
        """Count the (train, test) pairs that a method gives."""
        hits, wrong = set[int](), set[tuple[int, int]]()
        for train, test in found:
            if cut.origin[test] == train:
                hits.add(test)
            else:
                wrong.add((train, test))
        self.found += np.bincount(cut.edit[sorted(hits)], minlength=len(edits.EDITS))
        self.copies += len(cut.train)
        self.false += len(wrong)
        self.false_pictures += [cut.train_pictures[train] for train, _ in sorted(wrong)]
        self.negatives += len(cut.train) * len(cut.test) - int((cut.origin >= 0).sum())
        self.clean += int((cut.origin < 0).sum())
        self.flagged += len({test for _, test in wrong if cut.origin[test] < 0})


def measure(tiers: Sequence[Tier], seeds: Sequence[int], directory: Path | None) -> list[Quality]:
    """Our tiers on all seeds; the peers, which take longer, on the first."""
    results: dict[str, Quality] = defaultdict(lambda: Quality(method=""))
    for seed in seeds:
        cut = tiles(seed, directory=directory)
        ours, theirs = (prints.take(side, complete=is_test) for side, is_test in ((cut.train, False), (cut.test, True)))
        for tier in tiers:
            matches = TestIndex(theirs, tier).find(ours, cut.train.__getitem__)
            results[f"ours, {tier.name}"].add(cut, [(match.train, match.test) for match in matches])
        if seed == seeds[0]:
            for peer in PEERS:
                results[peer.name].add(cut, pairs(peer, cut.train, cut.test).tolist())
    return [dataclasses.replace(quality, method=name) for name, quality in results.items()]


def table(results: Sequence[Quality]) -> str:
    """Recall by group of edits as Markdown."""
    groups = [group for group in edits.GROUPS if group != "-"]
    lines = ["| method | mean | false pairs | of pairs | clean flagged | " + " | ".join(groups) + " |"]
    lines.append("|---" * (5 + len(groups)) + "|")
    for quality in results:
        cells = [f"{quality.recall(group):.2f}" for group in groups]
        counts = f"{quality.false:,} | {quality.negatives:,} | {quality.flagged} of {quality.clean}"
        lines.append(f"| {quality.method} | {quality.recall():.3f} | {counts} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_edit(quality: Quality) -> str:
    """Recall of every edit in one line."""
    recalls = zip(edits.EDITS, (quality.found / max(quality.copies, 1)).tolist(), strict=True)
    return ", ".join(f"{edit.name} {recall:.3f}" for edit, recall in recalls)
