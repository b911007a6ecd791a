"""Transfers to tasks, side by side on the workers; each is kept when it is done, and done again alone if it fails."""

import dataclasses
import logging
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from flows.adapters import ray_cluster
from flows.stages import output, progress, results
from vit.evaluation.probing import ProbeConfig, Probed, probe
from vit.evaluation.vtab import Score, TransferConfig, transfer, untrained
from vit.models.weights.native import transfer as under_new_head
from vit.training.distributed import device

ATTEMPTS = 2  # of a transfer that fails for another reason than bad data or settings, such as a full memory

logger = logging.getLogger("vitflow.transfers")


class TransfersFailed(RuntimeError):
    """Some transfers failed; those that did not are kept."""


class TransfersRefused(TransfersFailed, ValueError):
    """The same, and trying again cannot help: data or settings are wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One transfer, picklable."""

    task: str
    num_classes: int
    tasks: Path
    model: Path
    pretrained: bool
    transfer: TransferConfig
    probes: ProbeConfig
    leaked: frozenset[str]  # keys of test images that the corpus shows

    @property
    def name(self) -> str:
        """What the transfer is called in reports; unlike that of any other."""
        return name(self.task, self.pretrained)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """What one transfer gave; frozen features are scored where they are pre-trained."""

    tuned: Score
    frozen: Probed | None


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a transfer failed."""

    error: str
    details: str  # the traceback
    is_final: bool  # trying again cannot help


def name(task: str, pretrained: bool) -> str:
    """Under which a transfer is reported and kept."""
    return f"{'vtab' if pretrained else 'vtab_random_init'}/{task}"


def score_all(jobs: Sequence[Job], scratch: Path) -> dict[str, Scored]:
    """The results of all jobs by name: kept ones from `scratch`, the others computed, and kept there as they finish.

    Raises TransfersFailed when all the others are done.
    """
    report = progress.reporter("evaluate", len(jobs))
    found = {job.name: results.load(_file(scratch, job), Scored) for job in jobs}
    scores = {key: kept for key, kept in found.items() if kept is not None}
    if scores:
        logger.info("%d of %d transfers are done already", len(scores), len(jobs))
    failures: dict[str, Failure] = {}
    for _ in range(ATTEMPTS):
        final = {key for key, failure in failures.items() if failure.is_final}
        for job, result in _computed([job for job in jobs if job.name not in scores.keys() | final], scratch):
            if isinstance(result, Failure):
                failures[job.name] = result
                logger.warning("transfer %s failed:\n%s", job.name, result.details)
                continue
            failures.pop(job.name, None)
            scores[job.name] = result
            report(len(scores), {job.name: result.tuned.top1})
    if failures:
        reasons = "; ".join(f"{key}: {failure.error}" for key, failure in failures.items())
        kind = TransfersRefused if any(failure.is_final for failure in failures.values()) else TransfersFailed
        raise kind(f"{len(failures)} of {len(jobs)} transfers failed, the next start does those alone: {reasons}")
    return scores


def _computed(jobs: Sequence[Job], scratch: Path) -> Iterator[tuple[Job, Scored | Failure]]:
    items = [(place, job, scratch) for place, job in enumerate(jobs)]
    for place, result in ray_cluster.map_unordered(attempt, items):
        yield jobs[place], result


def attempt(item: tuple[int, Job, Path]) -> tuple[int, Scored | Failure]:
    """Run one transfer where it is called and keep its result, or say why that failed."""
    place, job, scratch = item
    try:
        scored = score_task(job)
    except Exception as error:
        is_final = isinstance(error, ValueError | FloatingPointError)
        return place, Failure(f"{type(error).__name__}: {error}", traceback.format_exc(), is_final)
    results.save(_file(scratch, job), scored)
    return place, scored


def score_task(job: Job) -> Scored:
    """Run one transfer, after probes of the features as they came."""
    network = under_new_head(
        job.model / output.MODEL, resolution=job.transfer.resolution, num_classes=job.num_classes, dropout=0.0
    )
    if not job.pretrained:
        network = untrained(network, job.transfer.train.seed)
    network, seed, task = network.to(device()), job.transfer.train.seed, job.tasks / job.task
    frozen = None
    if job.pretrained:
        view = job.transfer.augment.evaluation
        frozen = probe(network, task, job.probes, resolution=job.transfer.resolution, view=view, seed=seed)
    torch.manual_seed(seed)
    return Scored(tuned=transfer(network, task, job.transfer, leaked=job.leaked), frozen=frozen)


def _file(scratch: Path, job: Job) -> Path:
    return scratch / "transfers" / f"{job.name}.json"
