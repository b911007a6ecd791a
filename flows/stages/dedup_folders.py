"""De-duplication of any folders or shards, outside every pipeline: what `vitflow dedup` does.

Nothing but the directories and `out` is needed. `out/state` remembers finished pieces, so that a run that was killed
goes on, and one with more benchmarks or more images does only what is new.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from flows.adapters import storage
from flows.adapters.ray_map import as_done
from flows.stages import output
from vit.data.store import LocalStore
from vit.dedup import audit, engine, itself, report, tiers, vetoes
from vit.dedup.benchmark import Benchmark
from vit.dedup.engine import Map, Searched
from vit.dedup.report import Decided
from vit.dedup.sources import PIECE, NoImages, Root, open_roots, printable
from vit.dedup.state import InUse, OtherSettings, State
from vit.dedup.tiers import Tier

EMBEDDING = "embedding"
ACTIONS = ("filter-train", "filter-test", "both")
KEPT = pa.schema([("corpus", pa.string()), ("train", pa.string())])
CLEAN = pa.schema([("benchmark", pa.string()), ("test", pa.string())])
REPEATED = pa.schema(
    [
        *(("corpus", pa.string()), ("train", pa.string()), ("group", pa.int32())),
        *(("keeper_corpus", pa.string()), ("keeper", pa.string())),
    ]
)
ROWS = 65536  # of a table written at a time
Tell = Callable[[str, int, int, int], None]


class BadRequest(ValueError):
    """What was asked for makes no sense; the message says what to change."""


MISUSE = (BadRequest, NoImages, vetoes.BadVetoes, OtherSettings, InUse)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is compared with what, how, and where the result goes."""

    train: tuple[str, ...]  # paths or s3:// addresses
    test: tuple[str, ...]
    out: Path
    tier: str = "fast"
    action: str = "both"
    workers: int | None = None  # None: as many as there are CPUs
    ray: bool = False  # the cluster at RAY_ADDRESS, or a local one
    veto: Path | None = None
    rescan: bool = False
    model: Path | None = None  # of tier embedding: TorchScript, or weights that `vitflow weights` reads
    resolution: int = 224  # pixels that the model takes
    trust_model: bool = False  # a TorchScript file holds code
    itself: bool = False  # duplicates inside the training set, too
    piece: int = PIECE  # loose files to a piece of work

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise BadRequest(f"action is {self.action!r}; it must be one of {', '.join(ACTIONS)}")
        if (self.tier == EMBEDDING) != (self.model is not None):
            raise BadRequest(f"tier {EMBEDDING} and --model go together: the one needs the other")
        if self.workers is not None and self.workers < 1:
            raise BadRequest(f"workers is {self.workers}; at least one is needed")
        if self.piece < 1:
            raise BadRequest(f"piece is {self.piece}; it must hold at least one image")
        for side, places in (("train", self.train), ("test", self.test)):
            if not places:
                raise BadRequest(f"no --{side} directory was given")
            if len(set(map(_absolute, places))) < len(places):
                raise BadRequest(f"a --{side} directory was given twice: {', '.join(places)}")
        for place in (*self.train, *self.test):
            if _contains(place, self.out):
                raise BadRequest(f"--out {self.out} lies inside {place}, whose images are read; choose a place outside")


def deduplicate_folders(request: Request, tell: Tell) -> dict[str, Any]:
    """Compare both sides and write the result into `request.out`; returns report.json.

    Raises BadRequest, NoImages, OtherSettings, InUse or BadVetoes before anything is decoded.
    """
    tier, network = _tier(request)
    reviewed = vetoes.read(request.veto) if request.veto else []
    train = open_roots(request.train, storage.open, piece=request.piece)
    tests = open_roots(request.test, storage.open, split="test", piece=request.piece)
    made_with = audit.settings(tier, embedding=_embedding_settings(request))
    for root in (*train, *tests):
        _check_not_empty(root)
    with State(request.out / "state", made_with) as state:
        work = engine.Engine(tier, state, _map(request), tell)
        curves: list[str] = []

        def then(benchmarks: Sequence[Benchmark]) -> None:
            curves.append(_embed(work, train, benchmarks, network, tell))

        searched = work.search(train, tests, rescan=request.rescan, then=then if network else None)
        repeated = itself.search(work, train, reviewed) if request.itself else None
        decided = report.decide(searched, reviewed)
        counts = audit.summary(searched, decided, tier, made_with)
        return _write(request, Result(searched, decided, repeated, curves[0] if curves else ""), train, counts)


class Result(NamedTuple):
    """All that a run found."""

    searched: Searched
    decided: Decided
    repeated: list[itself.Repeated] | None
    curve: str  # of the embedding's calibration, an SVG


def _write(request: Request, result: Result, train: Sequence[Root], counts: dict[str, Any]) -> dict[str, Any]:
    searched, decided, repeated, curve = result
    work = request.out / f".writing-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        removed = audit.names_removed(decided)
        if repeated is not None:
            _write_repeated(work / "repeated.parquet", repeated)
            counts |= {"groups": len(repeated), "repeated": sum(len(group.others) for group in repeated)}
            for root, key in (name for group in repeated for name in group.others):
                removed.setdefault(root, set()).add(key)
        if request.action != "filter-test":
            counts["kept"] = _write_kept(work, train, removed, audit.names_unreadable(searched))
        if request.action != "filter-train":
            counts["clean"] = _write_clean(work / "clean.parquet", searched, decided)
        groups = [["/".join(name) for name in (group.keeper, *group.others)] for group in repeated or ()]
        audit.write(work, searched, decided, _tier_of(request), counts, audit.More(groups, curve))
        output.write_json(work / "report.json", counts)
        for name in (
            "kept.parquet",
            "kept.txt",
            "clean.parquet",
            "repeated.parquet",
        ):  # of another action, now out of date
            (request.out / name).unlink(missing_ok=True)
        for path in sorted(work.iterdir(), key=lambda path: path.name == "report.json"):
            path.replace(request.out / path.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return counts


def _write_kept(
    directory: Path, train: Sequence[Root], removed: dict[str, set[str]], unreadable: dict[str, set[str]]
) -> int:
    """kept.parquet and kept.txt: images that show no test image; nothing is ever deleted."""
    count = 0
    with (
        pq.ParquetWriter(directory / "kept.parquet", KEPT) as table,
        (directory / "kept.txt").open("w", encoding="utf-8", newline="\n") as text,
    ):
        for root in train:
            out = removed.get(root.name, set()) | unreadable.get(root.name, set())
            prefix = "" if len(train) == 1 else f"{root.name}/"  # two roots may have the same keys
            for keys in _batches(
                key for piece in root.pieces() for key in map(_key, piece.members()[0]) if key not in out
            ):
                table.write_table(pa.table([[root.name] * len(keys), keys], schema=KEPT))
                text.writelines(f"{prefix}{key}\n" for key in keys)
                count += len(keys)
    return count


def _write_repeated(path: Path, repeated: Sequence[itself.Repeated]) -> None:
    """repeated.parquet: training images that show what another one shows, and which one is kept for them."""
    rows = [(*name, number, *group.keeper) for number, group in enumerate(repeated) for name in group.others]
    columns = [[row[column] for row in rows] for column in range(len(REPEATED.names))]
    pq.write_table(pa.table(columns, schema=REPEATED), path)


def _write_clean(path: Path, searched: Searched, decided: Decided) -> dict[str, int]:
    """clean.parquet: test images without a duplicate in the training set, as BiT's Table 7 scores them."""
    leaked = {(one.pair.benchmark, one.pair.test) for one in decided.pairs}
    bad = audit.names_unreadable(searched, "test")
    rows = [
        (benchmark.name, key)
        for benchmark in searched.benchmarks
        for key in benchmark.keys
        if (benchmark.name, key) not in leaked and key not in bad.get(benchmark.name, ())
    ]
    columns = [[row[0] for row in rows], [row[1] for row in rows]]
    pq.write_table(pa.table(columns, schema=CLEAN), path)
    return {b.name: sum(name == b.name for name, _ in rows) for b in searched.benchmarks}


def _tier_of(request: Request) -> Tier:
    """The tier of the pass without weights: beside an embedding the fast one."""
    try:
        return tiers.tier("fast" if request.tier == EMBEDDING else request.tier)
    except ValueError as error:
        raise BadRequest(f"{error}, or {EMBEDDING} with --model") from error


def _tier(request: Request) -> tuple[Tier, Any]:
    """And the network, if one is asked for; torch is imported only then."""
    tier = _tier_of(request)
    if request.model is None:
        return tier, None
    if not request.model.exists():
        raise BadRequest(f"--model {request.model} does not exist")
    from vit.dedup import embedding

    return tier, embedding.load(request.model, resolution=request.resolution, allow_code=request.trust_model)


def _embedding_settings(request: Request) -> dict[str, Any] | None:
    if request.model is None:
        return None
    files = sorted(request.model.rglob("*")) if request.model.is_dir() else [request.model]
    return {"resolution": request.resolution, "sha256": [output.sha256(path) for path in files if path.is_file()]}


def _embed(
    work: engine.Engine, train: Sequence[Root], benchmarks: Sequence[Benchmark], network: Any, tell: Tell
) -> str:
    from vit.dedup import embedded

    space, calibration = embedded.calibrated(network, train)
    embedded.compare(work, train, benchmarks, (network, space, calibration.threshold), tell)
    return embedded.curve(calibration)


def _key(member: Any) -> str:
    return printable(member.key)


def _batches(keys: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for key in keys:
        batch.append(key)
        if len(batch) == ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _map(request: Request) -> Map:
    if not request.ray:
        return engine.threads(request.workers) if request.workers else engine.here()
    return lambda function, shared, jobs: as_done(function, shared, jobs, workers=request.workers)


def _check_not_empty(root: Root) -> None:
    if next(root.pieces(), None) is None:
        raise NoImages(f"{root.store.uri} holds no images (by their extensions) and no .tar shards")


def _absolute(place: str) -> str:
    return place.rstrip("/") if "://" in place else str(Path(place).expanduser().resolve())


def _contains(place: str, out: Path) -> bool:
    store = storage.open(place)
    return isinstance(store, LocalStore) and out.resolve().is_relative_to(store.directory.resolve())
