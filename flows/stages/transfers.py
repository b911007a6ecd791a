"""Transfers to tasks, side by side on the workers; each is kept when it is done, and done again alone if it fails.

What is done with one task goes to one worker, which decodes the task's images once for all of it.
"""

import dataclasses
import itertools
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from flows.adapters import ray_cluster, storage
from flows.stages import output, progress, results
from flows.stages.suite import DOWNSTREAM
from vit.data.decoded import Decoded, Memory, limit
from vit.data.shards import Shards
from vit.evaluation.features import features
from vit.evaluation.probing import FewShot, ProbeConfig, Probed, few_shots, pool, probe
from vit.evaluation.vtab import TRAIN_SPLITS, Score, answered, transfer, untrained
from vit.models import load
from vit.models.weights.native import transfer as under_new_head
from vit.training.distributed import device
from vit.training.hyperrule import TransferConfig

ATTEMPTS = 2  # at a piece that fails for another reason than bad data or settings, such as a full memory
TUNED, UNTRAINED = "vtab", "vtab_random_init"  # names of transfers from the model and from random weights
Result = Score | Probed | FewShot

logger = logging.getLogger("vitflow.transfers")


class TransfersFailed(RuntimeError):
    """Some transfers failed; those that did not are kept."""


class TransfersRefused(TransfersFailed, ValueError):
    """The same, and trying again cannot help: data or settings are wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What is judged, and by which tasks; picklable."""

    backbone: Path  # which transfers start from
    model: Path  # fine-tuned, to answer with the head that it has
    tasks: Path
    num_classes: Mapping[str, int]  # by task
    leaked: Mapping[str, frozenset[str]]  # by task: keys of test images that the corpus shows
    downstream: Path | None = None  # shards with the splits train and val, one label an image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """One transfer to a task, or the probes of the frozen features there."""

    task: str
    pretrained: bool  # or from random weights
    transfer: TransferConfig
    probes: ProbeConfig | None = None  # these instead of a transfer
    splits: tuple[str, str] = TRAIN_SPLITS  # to train on, and to choose on
    on_dev: bool = False  # trained on the first of them and scored on the second, instead of both and test
    as_is: bool = False  # not trained at all: the model answers with the head that it has
    variant: str = ""  # tells it from other transfers of the same network to the same task

    @property
    def name(self) -> str:
        """Under which it is reported and kept; that of no other piece."""
        kind = "frozen" if self.probes is not None else TUNED if self.pretrained else UNTRAINED
        return "/".join((kind, self.task, *([self.variant] if self.variant else [])))

    @property
    def kind(self) -> type[Result]:
        """Of its result."""
        if self.probes is None:
            return Score
        return FewShot if self.task == DOWNSTREAM else Probed


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a piece failed."""

    error: str
    details: str  # the traceback
    is_final: bool  # trying again cannot help


def score_all(subject: Subject, pieces: Sequence[Piece], scratch: Path) -> dict[str, Result]:
    """The results of all pieces by name: kept ones from `scratch`, others computed, and kept there as they finish.

    Raises TransfersFailed when all the others are done.
    """
    report = progress.reporter("evaluate", len(pieces))
    found = {piece.name: results.load(_file(scratch, piece), piece.kind) for piece in pieces}
    done = {name: kept for name, kept in found.items() if kept is not None}
    if done:
        logger.info("%d of %d transfers are done already", len(done), len(pieces))
    failures: dict[str, Failure] = {}
    for _ in range(ATTEMPTS):
        final = {name for name, failure in failures.items() if failure.is_final}
        for name, result in _computed(subject, [p for p in pieces if p.name not in done.keys() | final], scratch):
            if isinstance(result, Failure):
                failures[name] = result
                logger.warning("%s failed:\n%s", name, result.details)
                continue
            failures.pop(name, None)
            done[name] = result
            report(len(done), {name: _headline(result)})
    if failures:
        reasons = "; ".join(f"{name}: {failure.error}" for name, failure in failures.items())
        kind = TransfersRefused if any(failure.is_final for failure in failures.values()) else TransfersFailed
        raise kind(f"{len(failures)} of {len(pieces)} transfers failed, the next start does those alone: {reasons}")
    return done


def _computed(subject: Subject, pieces: Sequence[Piece], scratch: Path) -> Iterator[tuple[str, Result | Failure]]:
    items = [(subject, group, scratch) for group in groups(pieces, ray_cluster.num_tasks())]
    return itertools.chain.from_iterable(ray_cluster.map_unordered(score_group, items))


def groups(pieces: Sequence[Piece], workers: int) -> list[list[Piece]]:
    """Pieces that share their images, in at least as many parts as there are workers if there are enough pieces."""
    tasks = dict.fromkeys(piece.task for piece in pieces)
    parts = [[piece for piece in pieces if piece.task == task] for task in tasks]
    while len(parts) < min(workers, len(pieces)):
        largest = max(parts, key=len)
        parts.remove(largest)
        half = (len(largest) + 1) // 2
        parts += [largest[:half], largest[half:]]
    return parts


def score_group(item: tuple[Subject, list[Piece], Path]) -> list[tuple[str, Result | Failure]]:
    """Do the pieces of one task where it is called and keep each result, or say why it failed."""
    subject, pieces, scratch = item
    memory, done = Memory(limit()), list[tuple[str, Result | Failure]]()
    for piece in pieces:
        try:
            result = score(subject, piece, memory)
        except Exception as error:
            is_final = isinstance(error, ValueError | FloatingPointError)
            done.append((piece.name, Failure(f"{type(error).__name__}: {error}", traceback.format_exc(), is_final)))
        else:
            results.save(_file(scratch, piece), result)
            done.append((piece.name, result))
    return done


def score(subject: Subject, piece: Piece, memory: Memory) -> Result:
    """One transfer, or the probes of the features as they came; `memory` has the images that were decoded before."""
    config = piece.transfer
    if piece.task == DOWNSTREAM:
        return few_shot_downstream(subject, piece)
    leaked = subject.leaked.get(piece.task, frozenset())
    if piece.as_is:
        test = Shards(subject.tasks / piece.task, splits=("test",))
        return answered(load(subject.model / output.MODEL).to(device()), test, config.augment.evaluation, leaked)
    network = under_new_head(
        subject.backbone / output.MODEL,
        resolution=config.resolution,
        num_classes=subject.num_classes[piece.task],
        dropout=0.0,
    )
    seed = config.train.seed
    if not piece.pretrained:
        network = untrained(network, seed)
    network = network.to(device())
    if config.augment.shrink:
        memory = Memory(0)
    ways = (piece.splits[:1], piece.splits[1:]) if piece.on_dev else (piece.splits, ("test",))
    examples, test = (Decoded(subject.tasks / piece.task, memory, splits=splits) for splits in ways)
    if piece.probes is not None:
        view = config.augment.evaluation
        support, tests = (features(network, s, resolution=config.resolution, view=view) for s in (examples, test))
        return probe(piece.probes, support, tests, num_classes=len(examples.class_names), seed=seed)
    torch.manual_seed(seed)
    return transfer(network, piece.task, config, examples=examples, test=test, leaked=leaked)


def few_shot_downstream(subject: Subject, piece: Piece) -> FewShot:
    """5-shot ImageNet of the paper's Fig. 4 and Table 8, where the downstream images are ImageNet's.

    At the resolution of pre-training; supports are of train, tests are all of val.
    """
    assert subject.downstream is not None and piece.probes is not None
    support, tests = (
        Shards(subject.downstream, splits=(split,), open_store=storage.open) for split in ("train", "val")
    )
    file = subject.backbone / output.MODEL
    num_classes, resolution = len(support.class_names), load(file).config.resolution
    network = under_new_head(file, resolution=resolution, num_classes=num_classes, dropout=0.0).to(device())
    view, seed = piece.transfer.augment.evaluation, piece.transfer.train.seed
    rows = pool(piece.probes, torch.from_numpy(support.labels), seed).tolist()
    known = features(network, support, resolution=resolution, view=view, rows=rows)
    asked = features(network, tests, resolution=resolution, view=view)
    few = few_shots(piece.probes, known, asked, num_classes=num_classes, seed=seed)
    return FewShot(few_shot=few, num_test=len(tests))


def _headline(result: Result) -> float:
    """The number that is shown while others are being computed."""
    if isinstance(result, Score):
        return result.top1
    if isinstance(result, Probed):
        return result.linear
    return max((mean for mean, _ in result.few_shot.values()), default=0.0)


def _file(scratch: Path, piece: Piece) -> Path:
    return scratch / "transfers" / f"{piece.name}.json"
