"""Train a network on shards with resume: what every rank of pre-training and fine-tuning runs."""

import contextlib
import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from vit.data.augment import AugmentConfig
from vit.data.loader import Stream, training_batches
from vit.data.shards import Shards
from vit.models.masked import MaskedPatchPrediction
from vit.training import checkpoint, divergence, masking, mirror, preemption
from vit.training.checkpoint import Checkpoints, State
from vit.training.config import TrainConfig
from vit.training.distributed import (
    barrier,
    device,
    from_rank_0,
    is_spread,
    mean_over_ranks,
    rank,
    unwrap,
    whole,
    world_size,
)
from vit.training.ledger import Ledger
from vit.training.loop import Diverged, train
from vit.training.memory import naming_what_does_not_fit
from vit.training.objective import Batch
from vit.training.placement import place
from vit.training.scoring import score
from vit.training.writer import Writer

logger = logging.getLogger("vitflow.train")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """One training run, as plain data that can be sent to a worker."""

    resolution: int  # pixels
    train: TrainConfig
    augment: AugmentConfig


Report = Callable[[int, dict[str, float]], None]


def fit(
    model: nn.Module,
    shards: Shards,
    config: FitConfig,
    *,
    checkpoints: Checkpoints,
    report: Report,
    val: Shards | None = None,
) -> nn.Module:
    """Train in place from the newest valid checkpoint on; returns the unwrapped model, the last one or the best.

    Call it on every rank with the same arguments. Rank 0 writes checkpoints and calls `report(step, metrics)`, where
    `data_wait_fraction` is the part of the time that the devices, on average, waited for data; what it cost so far is
    told, too (vit.training.ledger). `val` is what
    `validate_every` scores. Raises Preempted after SIGTERM, FloatingPointError if the training diverges.
    """
    blank = copy.deepcopy(model).to("meta")  # spread parameters have no way back
    wrapped = place(model.to(device()), config.train)
    with preemption.listening(), Writer(checkpoints) as writer:
        run = _Run(wrapped, shards, val, config, checkpoints, report, writer)
        try:
            while not run.sit():
                pass
        except preemption.Preempted:
            writer.wait()
            barrier()  # who ends first has the others killed, rank 0 in the middle of writing
            raise
        writer.wait()
        run.take_best()
    if not is_spread(wrapped):
        return unwrap(wrapped)
    blank.load_state_dict({name: whole(tensor) for name, tensor in wrapped.state_dict().items()}, assign=True)
    return blank


@dataclasses.dataclass(frozen=True)
class _Run:
    """A training and what goes with it; sits down anew after each divergence that is to be left out."""

    model: nn.Module
    shards: Shards
    val: Shards | None
    config: FitConfig
    checkpoints: Checkpoints
    report: Report
    writer: Writer

    def sit(self) -> bool:
        """Train from the newest checkpoint to the end; False if one has to go back."""
        state = self._newest()
        done = state.step if state else 0
        ledger = Ledger(self.checkpoints.directory, step=done, devices=world_size()) if rank() == 0 else None
        if done and ledger:
            self.report(done, {"train/resumed_from_step": float(done), "train/redone_seconds": ledger.lost})
        stream = training_batches(
            self.shards,
            first_step=done,
            seed=self.config.train.seed,
            resolution=self.config.resolution,
            config=self.config.augment,
            batch_size=self.config.train.batch_size,
        )
        try:
            with (
                contextlib.closing(stream),
                naming_what_does_not_fit(self.config.train.batch_size, self.config.resolution),
            ):
                train(
                    self.model,
                    lambda first: self._batches(stream, first),
                    self.config.train,
                    state=state,
                    log=self._logging(stream, ledger),
                    save=self._save,
                    validate=None if self.val is None else self._validate,
                )
        except Diverged as error:
            self._go_back(error)
            return False
        return True

    def take_best(self) -> None:
        """Load the best state of all validations, if there were any, into the model."""
        best = from_rank_0(self.writer.best_step)
        if best is None:
            return
        barrier()  # rank 0 has written it
        state = self._load(best)
        averages = {key: tensor for key, tensor in state.tensors.items() if key.startswith("average.")}
        tensors = {key: tensor for key, tensor in state.tensors.items() if key.startswith("model.")} | averages
        unwrap(self.model).load_state_dict({key.partition(".")[2]: tensor for key, tensor in tensors.items()})

    def _newest(self) -> State | None:
        """What to go on from: rank 0 chooses and the others follow, or they would not all be at the same step."""
        newest = checkpoint.newest(self.checkpoints) if rank() == 0 else None
        step = from_rank_0(None if newest is None else checkpoint.step_of(newest))
        if step is not None:
            return self._load(step)
        if not self.config.train.rewinds:
            return None
        tensors = {f"model.{name}": tensor for name, tensor in unwrap(self.model).state_dict().items()}
        start = State(step=0, tensors={name: tensor.clone() for name, tensor in tensors.items()})
        self._save(start)
        return start

    def _load(self, step: int) -> State:
        path = self.checkpoints.directory / checkpoint.name(step)
        if self.checkpoints.mirror is not None:  # rank 0 has it, on a machine that need not be this one
            mirror.fetch(self.checkpoints.mirror, path.parent, path.name)
        if not is_spread(self.model) and (path / checkpoint.STATE).is_file():
            return checkpoint.load(path, fingerprint=self.checkpoints.fingerprint)
        from vit.training import sharded

        return sharded.load(self.checkpoints, step, unwrap(self.model))

    def _batches(self, stream: Stream, first: int) -> Iterator[Batch | None]:
        """What the objective wants to know of each batch, None for those to leave out."""
        # Those that were rewound; the one after them ended the run, and a second attempt must meet it again.
        left_out = frozenset(from_rank_0(divergence.noted(self.checkpoints.directory))[: self.config.train.rewinds])
        batches: Iterator[Batch] = stream
        body = unwrap(self.model)
        if isinstance(body, MaskedPatchPrediction):
            batches = masking.masked(stream, body, self.shards, self.config.train, self.config.augment, first)
        for step, batch in enumerate(batches, first):
            yield None if step in left_out else batch

    def _logging(self, stream: Stream, ledger: Ledger | None) -> Callable[[int, dict[str, float]], None]:
        waited = _waited_fraction(stream)

        def log(step: int, metrics: dict[str, float]) -> None:
            fraction = mean_over_ranks(torch.tensor(waited(), device=device())).item()
            if ledger:
                self.report(step, metrics | {"data_wait_fraction": fraction} | ledger.note(step))

        return log

    def _save(self, state: State) -> None:
        if rank() == 0 or is_spread(self.model):
            self.writer.save(state)

    def _validate(self) -> float:
        """How good the model is, larger is better: top-1, or minus the loss of hidden patches."""
        assert self.val is not None
        model, resolution, view = unwrap(self.model), self.config.resolution, self.config.augment.evaluation
        if isinstance(model, MaskedPatchPrediction):
            return -masking.loss(model, self.val, resolution, view)
        return score(model, self.val, resolution=resolution, view=view)["top1"]

    def _go_back(self, error: Diverged) -> None:
        """Note the batch that is to be left out; raises FloatingPointError if that happened too often."""
        self.writer.wait()
        directory, config = self.checkpoints.directory, self.config
        path = None
        if rank() == 0:
            path = divergence.note(directory, error, self.shards, config.train, config.augment)
        path, before = from_rank_0((path, len(divergence.noted(directory)) - 1))
        if before >= config.train.rewinds:
            raise FloatingPointError(f"{error}; the images of its batch are listed in {path}") from error
        logger.warning("%s; going back to the last checkpoint and leaving its batch out (%s)", error, path)


def _waited_fraction(stream: Stream) -> Callable[[], float]:
    """A function that says for which part of the time since its last call the stream had its device wait."""
    clock, before = time.perf_counter(), 0.0

    def fraction() -> float:
        nonlocal clock, before
        now, waited = time.perf_counter(), stream.waited
        share = (waited - before) / (now - clock)
        clock, before = now, waited
        return share

    return fraction


def timed(report: Report, steps: int) -> Report:
    """`report` with the seconds that are left added to each call that carries a speed."""
    start: list[tuple[float, int]] = []

    def with_eta(step: int, metrics: dict[str, float]) -> None:
        start.append((time.perf_counter(), step))
        seconds, done = start[-1][0] - start[0][0], step - start[0][1]
        eta = {"eta_seconds": seconds / done * (steps - step)} if done else {}
        report(step, metrics | eta)

    return with_eta
