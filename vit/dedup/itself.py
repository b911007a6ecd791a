"""Duplicates inside the training set: the stored codes of all its images against blocks of it, candidates verified.

A block of images is the index, as a benchmark would be, and every image's whole frame is looked up in it; what is near
is decoded and checked. Groups are connected by verified pairs only. Of a group the image with the most pixels stays,
the first by root and key among equals.
"""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vit.data.pictures import UnreadableImage, open_image
from vit.dedup import groups
from vit.dedup.benchmark import Benchmark
from vit.dedup.engine import Engine
from vit.dedup.scan import Job
from vit.dedup.sources import Piece, Root, fingerprint, printable
from vit.dedup.vetoes import Veto

BLOCK = 50_000  # images of a block: 17 kB each on disk while it is compared
WHAT = "training set with itself"
Name = tuple[str, str]  # root and key


class Repeated(NamedTuple):
    """A group of training images that show one picture."""

    keeper: Name
    others: tuple[Name, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Edge:
    names: tuple[Name, Name]
    pieces: tuple[Piece, Piece]


def search(engine: Engine, train: Sequence[Root], vetoes: Sequence[Veto]) -> list[Repeated]:
    """Groups in the order of their first names; call it after `Engine.search`, whose codes it uses."""
    pieces = [piece for root in train for piece in root.pieces()]
    edges = [edge for block in _blocks(pieces) for edge in _compare(engine, pieces, block)]
    edges = [edge for edge in edges if not _is_vetoed(edge, vetoes)]
    where = {name: piece for edge in edges for name, piece in zip(edge.names, edge.pieces, strict=True)}
    found: list[Repeated] = []
    for group in groups.components(edge.names for edge in edges):
        keeper = groups.keeper(group, {name: _area(where[name], name[1]) for name in group})
        found.append(Repeated(keeper, tuple(name for name in group if name != keeper)))
    return found


def _blocks(pieces: Sequence[Piece]) -> Iterator[Benchmark]:
    block: list[Piece] = []
    keys: list[str] = []
    firsts: list[int] = []
    for piece in pieces:
        block.append(piece)
        firsts.append(len(keys))
        keys += [printable(member.key) for member in piece.members()[0]]
        if len(keys) >= BLOCK or piece is pieces[-1]:
            name = fingerprint(["block", *(one.fingerprint for one in block)])
            yield Benchmark(name="", fingerprint=name, pieces=tuple(block), firsts=tuple(firsts), keys=tuple(keys))
            block, keys, firsts = [], [], []


def _compare(engine: Engine, pieces: Sequence[Piece], block: Benchmark) -> Iterator[_Edge]:
    against = (block.fingerprint,)
    firsts = {piece.fingerprint: first for piece, first in zip(block.pieces, block.firsts, strict=True)}

    def is_done(piece: Piece) -> bool:
        return any(line.against == against for line in engine.lines(piece, "self"))

    if not all(map(is_done, pieces)):
        engine.print_tests([block])
        indexed, _ = engine.index([block])
        jobs = (_job(engine, piece, block, firsts) for piece in pieces if not is_done(piece))
        engine.do(WHAT, indexed, jobs, against, len(pieces))
    for piece in block.pieces:
        engine.state.prints_path(piece.fingerprint).unlink(missing_ok=True)
    for piece in pieces:
        for line in engine.lines(piece, "self"):
            for one in line.found if line.against == against else ():
                at = bisect.bisect_right(block.firsts, one.test) - 1
                other = block.pieces[at]
                names = ((piece.root, one.train), (other.root, block.keys[one.test]))
                yield _Edge(names=names, pieces=(piece, other))


def _job(engine: Engine, piece: Piece, block: Benchmark, firsts: dict[str, int]) -> Job:
    codes, marks = engine.state.codes(engine.lines(piece, "scan")[-1])
    first = firsts.get(piece.fingerprint)
    own = block.fingerprint if first is not None else ""
    return Job("self", piece, benchmark=own, first=first or 0, codes=codes, marks=marks)


def _is_vetoed(edge: _Edge, vetoes: Sequence[Veto]) -> bool:
    (one, other) = edge.names
    return any(
        (veto.train, veto.test) in ((one[1], other[1]), (other[1], one[1])) and veto.benchmark in ("", one[0], other[0])
        for veto in vetoes
    )


def _area(piece: Piece, key: str) -> int:
    """Pixels of an image; 0 if it cannot be read any more."""
    member = next(one for one in piece.members()[0] if printable(one.key) == key)
    try:
        image = open_image(piece.read(member))
    except (OSError, UnreadableImage):
        return 0
    return image.width * image.height
