"""A benchmark: the test images of one root, all of them named."""

import dataclasses

from vit.dedup.sources import NoImages, Piece, Root, fingerprint, printable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The test images of one root."""

    name: str
    fingerprint: str
    pieces: tuple[Piece, ...]
    firsts: tuple[int, ...]  # row of the first image of each piece
    keys: tuple[str, ...]  # all that are listed, readable or not


def listed(root: Root) -> Benchmark:
    """A root's images, all of them named; raises NoImages."""
    pieces = tuple(root.pieces())
    keys: list[str] = []
    firsts: list[int] = []
    for piece in pieces:
        firsts.append(len(keys))
        keys += [printable(member.key) for member in piece.members()[0]]
    if not keys:
        raise NoImages(f"{root.store.uri} holds no images (by their extensions)")
    whole = fingerprint([root.name, *(piece.fingerprint for piece in pieces)])
    return Benchmark(name=root.name, fingerprint=whole, pieces=pieces, firsts=tuple(firsts), keys=tuple(keys))
