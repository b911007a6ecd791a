"""What a registered model says of every image below a folder or S3 prefix: `vitflow predict PLACE --out …`.

The images are cut into pieces; VITFLOW_WORKERS say who answers them (0: this process, else Ray). A finished piece is
kept under `.vitflow/predict` until the job is done, so that a job that was killed does only the rest when it is started
again. The result is one table, which appears whole or not at all. On a cluster the checkout must be on storage that all
nodes share, as for training.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from flows.adapters import listing, ray_cluster, storage
from flows.adapters.mlflow_store import locked, patiently
from flows.adapters.ray_map import as_done
from flows.stages import progress
from vit.data.pictures import UnreadableImage, decode
from vit.data.store import Store
from vit.dedup.sources import is_image, printable

TABLES = (".parquet", ".csv", ".jsonl")
DEFAULT = "predictions.parquet"  # of an `out` that names no table
BATCH = 64  # images in memory
READERS = 8  # threads of a worker: reading from S3 is waiting
NAMED = 3  # images without an answer that the summary names
Rows = list[dict[str, Any]]
Piece = tuple[str, Sequence[str]]  # where its answers are kept, and the names of its images


class NoImages(ValueError):
    """There is nothing to classify at the place."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is classified by which model, and where the answers go."""

    place: str  # folder or s3:// address
    out: str  # a path or address that ends in one of TABLES, else the folder for DEFAULT
    model: str  # models:/NAME/VERSION: an alias could move while the job goes on
    top_k: int  # classes told for each image
    piece: int  # images that are answered together, and kept

    def __post_init__(self) -> None:
        for name, value in (("--top", self.top_k), ("--piece", self.piece)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if storage.parse(self.place) is None and not Path(self.place).is_dir():
            raise ValueError(f"{self.place} is no folder; name the folder or s3:// prefix whose images are classified")

    @property
    def target(self) -> str:
        """The table to write."""
        return self.out if self.out.endswith(TABLES) else f"{self.out.rstrip('/')}/{DEFAULT}"

    @property
    def columns(self) -> pa.Schema:
        """path, label, probability, label_2, probability_2, …, error: null if there is an answer, else why not."""
        ranks = ["", *(f"_{rank}" for rank in range(2, self.top_k + 1))]
        told = [(f"{name}{rank}", kind) for rank in ranks for name, kind in _ANSWER]
        about = {"model": self.model, "place": self.place}
        return pa.schema([("path", pa.string()), *told, ("error", pa.string())], metadata=about)


_ANSWER = (("label", pa.string()), ("probability", pa.float64()))


def predict_folder(request: Request, root: Path) -> dict[str, Any]:
    """Write the table and return what a person wants to know of it: counts, and the first images without an answer.

    `root` is the checkout. Raises NoImages, StoreUnavailable or ServiceDown; run again, the same request goes on.
    """
    job = hashlib.sha256(f"{request.place}\0{request.target}".encode()).hexdigest()[:12]
    scratch = root / ".vitflow" / "predict" / job
    with locked(f"predict-{job}"):
        scratch.mkdir(parents=True, exist_ok=True)
        pieces, num_others = _pieces(request)
        num_before = _answer_all(request, pieces, scratch)
        counts = _write(request, (scratch / key for key in pieces), scratch)
        shutil.rmtree(scratch)
    about = {"model": request.model, "out": request.target, "not_images": num_others, "done_before": num_before}
    return about | counts


def _pieces(request: Request) -> tuple[dict[str, tuple[str, ...]], int]:
    """Names of images under a hash of all that decides their answers, in order; and how many files are no images."""
    pieces, others = dict[str, tuple[str, ...]](), 0

    def images() -> Iterator[tuple[Any, ...]]:
        nonlocal others
        for entry in listing.entries(request.place):
            if is_image(entry[0]):
                yield entry
            else:
                others += 1

    found = images()
    while piece := tuple(itertools.islice(found, request.piece)):
        told = json.dumps([request.model, request.top_k, piece]).encode()
        pieces[hashlib.sha256(told).hexdigest()[:24]] = tuple(str(name) for name, *_ in piece)
    if not pieces:
        raise NoImages(f"there are no images below {request.place}, only {others} other files")
    return pieces, others


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What all pieces share."""

    request: Request
    model: Path


def _answer_all(request: Request, pieces: Mapping[str, Sequence[str]], scratch: Path) -> int:
    """Leave a table for each piece in `scratch`; returns how many images had their answers before."""
    from flows.adapters import mlflow_models

    left = {key: names for key, names in pieces.items() if not (scratch / key).is_file()}
    total = sum(map(len, pieces.values()))
    num_done = num_before = total - sum(map(len, left.values()))
    if left:
        report = progress.reporter("predict", total)
        report(num_done, {})
        model = scratch / "model"
        shutil.rmtree(model, ignore_errors=True)
        asked = Asked(request=request, model=patiently(lambda: mlflow_models.download(request.model, model)))
        for (key, names), table in _answered(asked, left.items()):
            part = scratch / f".{key}.{os.getpid()}"
            pq.write_table(table, part)
            part.replace(scratch / key)
            num_done += len(names)
            report(num_done, {})
    return num_before


def _answered(asked: Asked, pieces: Collection[Piece]) -> Iterator[tuple[Piece, pa.Table]]:
    """Pieces with their answers, as they are done. Few of them do not need Ray."""
    if len(pieces) < 2 or ray_cluster.num_workers() < 2:
        yield from ((piece, answers(asked, piece)) for piece in pieces)
        return
    try:
        yield from as_done(answers, asked, pieces)
    finally:
        ray_cluster.stop()


def answers(asked: Asked, piece: Piece) -> pa.Table:
    """A row of `Request.columns` for each image, in order. Raises StoreUnavailable if the place does not answer."""
    model, store = _loaded(asked.model), storage.open(asked.request.place, cache_bytes=0)  # each is read once
    names, rows = piece[1], Rows()
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            read = list(pool.map(functools.partial(_read, store), batch))
            good = [data for data, problem in read if not problem]
            told = iter(_ask(model, good, asked.request.top_k))
            rows += [
                {"path": printable(name)} | ({"error": problem} if problem else next(told))
                for name, (_, problem) in zip(batch, read, strict=True)
            ]
    return pa.Table.from_pylist(rows, schema=asked.request.columns)


@functools.lru_cache(maxsize=1)
def _loaded(model: Path) -> Any:
    """The model, once in each process."""
    from flows.adapters import mlflow_models

    return mlflow_models.load_local(model)


def _read(store: Store, name: str) -> tuple[bytes, str]:
    """The bytes of an image, or why there are none."""
    try:
        return store.read(name), ""
    except (ConnectionError, TimeoutError):
        raise  # a service is down: no fault of the image
    except OSError as error:
        return b"", f"cannot be read ({error.strerror or error})"


def _ask(model: Any, images: Sequence[bytes], top_k: int) -> Rows:
    """Label and probability of each image, or its error. A request with a bad image in it is refused: halve it."""
    if not images:
        return []
    try:
        told = model.predict(list(images), params={"top_k": top_k})
    except Exception as error:  # what MLflow raises for a bad request, and a model of another version anything
        if len(images) == 1:
            return [{"error": _reason(images[0], error)}]
        middle = len(images) // 2
        return _ask(model, images[:middle], top_k) + _ask(model, images[middle:], top_k)
    rows: Rows = [{} for _ in images]
    for image, label, probability in zip(told["image"], told["label"], told["score"], strict=True):
        rank = f"_{len(rows[image]) // 2 + 1}" if rows[image] else ""
        rows[image] |= {f"label{rank}": label, f"probability{rank}": probability}
    return rows


def _reason(image: bytes, error: Exception) -> str:
    """The same words in every run; the decoder's own hold memory addresses."""
    try:
        decode(image)
    except UnreadableImage as problem:
        return str(problem)
    return f"was refused by the model ({error})"


def _write(request: Request, pieces: Iterable[Path], scratch: Path) -> dict[str, Any]:
    """Put all pieces into one table, which appears at its place whole; returns counts."""
    suffix = next(suffix for suffix in TABLES if request.target.endswith(suffix))
    whole, counts, first = scratch / f"whole{suffix}", {"images": 0, "errors": 0}, []
    with _writer(whole, request) as write:
        for piece in pieces:
            table = pq.read_table(piece)
            bad = table.filter(pc.is_valid(table["error"])).select(["path", "error"]).to_pylist()
            counts["images"] += table.num_rows
            counts["errors"] += len(bad)
            first += bad[: NAMED - len(first)]
            write(table)
    storage.put(whole, request.target)
    return counts | {"first_errors": first}


@contextlib.contextmanager
def _writer(path: Path, request: Request) -> Iterator[Callable[[pa.Table], None]]:
    """A function that adds a table to the file."""
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:

            def write(table: pa.Table) -> None:
                file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())

            yield write
        return
    kind = csv.CSVWriter if path.suffix == ".csv" else pq.ParquetWriter  # the latter also says which model answered
    with kind(path, request.columns) as writer:
        yield writer.write_table
