"""The embedding tier as a second pass: every training image's vector against those of all test images.

The middle of the vectors and unrelated examples come from a sample of the training images, as does the threshold
(vit.dedup.calibration). Finished pieces are remembered as in the first pass; what both passes find counts once.
"""

from collections.abc import Callable, Sequence

import numpy as np

from vit.data.pictures import UnreadableImage, decode
from vit.dedup import embedding
from vit.dedup.benchmark import Benchmark
from vit.dedup.calibration import Calibration, calibrate
from vit.dedup.embedding import Embedded, Network, Space
from vit.dedup.engine import Engine
from vit.dedup.search import Match
from vit.dedup.sources import Piece, Root, printable
from vit.dedup.state import Found, Line
from vit.typing import Floats

BACKGROUND, EDITED = 256, 24  # training images sampled: as unrelated ones, and to be edited
FALSE_RATE = 1e-9  # wanted, per pair of different images
SEED = 0
WHAT = "training images, embedded"
KIND = "embed"


def calibrated(network: Network, train: Sequence[Root]) -> tuple[Space, Calibration]:
    """The space of the vectors and the threshold; raises ValueError if there are too few training images."""
    pieces = [piece for root in train for piece in root.pieces()]
    sample = _sample(pieces)
    space = embedding.space(embedding.embed(network, sample).vectors)

    def similarity(ours: Sequence[bytes], theirs: Sequence[bytes]) -> Floats:
        train_vectors, test_vectors = (embedding.embed(network, each).vectors for each in (ours, theirs))
        return embedding.similarities(space, train_vectors, test_vectors)

    chosen = sample[:: max(1, len(sample) // EDITED)][:EDITED]
    return space, calibrate(similarity, chosen, false_rate=FALSE_RATE, seed=SEED)


def compare(
    engine: Engine,
    train: Sequence[Root],
    benchmarks: Sequence[Benchmark],
    known: tuple[Network, Space, float],
    tell: Callable[[str, int, int, int], None],
) -> None:
    """Write a line for every piece that was not compared with all benchmarks yet."""
    network, space, threshold = known
    against = tuple(benchmark.fingerprint for benchmark in benchmarks)
    pieces = [piece for root in train for piece in root.pieces()]
    left = [piece for piece in pieces if not any(set(against) <= set(one.against) for one in engine.lines(piece, KIND))]
    if not left:
        return
    tests = [
        (benchmark.fingerprint, first, _embedded(network, piece))
        for benchmark in benchmarks
        for piece, first in zip(benchmark.pieces, benchmark.firsts, strict=True)
    ]
    pairs = 0
    for done, piece in enumerate(left, start=1):
        own = _embedded(network, piece)
        members, _ = piece.members()
        found = [
            _found(match, printable(members[match.train].key), benchmark, first)
            for benchmark, first, theirs in tests
            if len(own.rows) and len(theirs.rows)
            for match in embedding.find(space, own, theirs, threshold)
        ]
        line = Line(kind=KIND, piece=piece.fingerprint, against=against, images=len(members), found=tuple(found))
        engine.add(line)
        pairs += len(found)
        tell(WHAT, done, len(left), pairs)


def _found(match: Match, train: str, benchmark: str, first: int) -> Found:
    values = (match.tier, match.distance, match.score, match.window, match.flip, match.refined)
    return Found(train, benchmark, first + match.test, *values)


def curve(calibration: Calibration) -> str:
    """The calibration as an SVG: recall of edited copies and share of false pairs over the threshold."""
    points = calibration.curve
    low, high = points[0]["threshold"], points[-1]["threshold"]
    across = [40 + 560 * (point["threshold"] - low) / max(high - low, 1e-9) for point in points]

    def line(name: str, colour: str) -> str:
        places = " ".join(f"{x:.1f},{210 - 180 * point[name]:.1f}" for x, point in zip(across, points, strict=True))
        return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{places}"/>'

    at = 40 + 560 * min(max((calibration.threshold - low) / max(high - low, 1e-9), 0), 1)
    found = f"edited copies found (at the threshold {calibration.recall:.0%} of {calibration.positives:,})"
    below = f"similarity {low:.2f} … {high:.2f}, threshold {calibration.threshold:.3f}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 250" font-family="system-ui,sans-serif" '
        'font-size="12"><path d="M40 30V210H600" fill="none" stroke="#9aa5b5"/>'
        + line("recall", "#2e9e6b")
        + line("false_rate", "#d8803b")
        + f'<path d="M{at:.1f} 30V210" stroke="#1c2430" stroke-dasharray="4 4"/>'
        + f'<text x="40" y="20" fill="#2e9e6b">{found}</text><text x="40" y="240">{below}</text>'
        + f'<text x="380" y="20" fill="#d8803b">false pairs of {calibration.negatives:,}</text></svg>'
    )


def _sample(pieces: Sequence[Piece]) -> list[bytes]:
    """Encoded readable images from all over the training set."""
    chosen: list[bytes] = []
    share = -(-2 * BACKGROUND // max(1, len(pieces)))
    for piece in pieces[:: max(1, len(pieces) // BACKGROUND)]:
        members, _ = piece.members()
        for member in members[:: max(1, len(members) // share)][:share]:
            try:
                data = piece.read(member)
                decode(data)
            except (OSError, UnreadableImage):
                continue
            chosen.append(data)
    return chosen[:: max(1, len(chosen) // BACKGROUND)][:BACKGROUND]


def _embedded(network: Network, piece: Piece) -> Embedded:
    members, _ = piece.members()
    encoded: list[bytes] = []
    for member in members:
        try:
            encoded.append(piece.read(member))
        except OSError:
            encoded.append(b"")  # listed by the first pass
    taken = embedding.embed(network, encoded)
    return taken if len(taken.rows) else Embedded(np.zeros(0, dtype=np.int64), taken.vectors, taken.unreadable)
