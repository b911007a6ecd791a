"""Saves states in the background: training waits for a copy in memory, not for the disk."""

import dataclasses
import logging
import threading
from types import TracebackType

import torch
from torch import Tensor

from vit.training import checkpoint
from vit.training.checkpoint import Checkpoints, State

logger = logging.getLogger("vitflow.checkpoint")


class Writer:
    """Writes one state at a time in a thread; leaving the `with` block waits for the last one.

    What cannot be written (a full disk) is said in a warning and training goes on: the next save tries again, and the
    best state so far is kept in memory until then.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.best_step: int | None = None
        self._checkpoints = checkpoints
        self._thread: threading.Thread | None = None
        self._unwritten_best: State | None = None

    def save(self, state: State) -> None:
        """Copy the state and return; waits if the one before is still being written."""
        self.wait()
        if "best_step" in state.numbers:
            self.best_step = int(state.numbers["best_step"])
        if _is_spread(state):
            self._try(state)  # every rank has its part to write, and they must agree
            return
        copied, ready = _copied(state)
        thread = threading.Thread(target=self._write, args=(copied, ready), name="checkpoint")
        thread.start()  # or fails, for want of memory
        self._thread = thread

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()

    def _write(self, state: State, ready: torch.cuda.Event | None) -> None:
        if ready is not None:
            ready.synchronize()
        best = self._unwritten_best
        if best is not None and best.step == self.best_step:
            self._try(best)
        self._try(state)

    def _try(self, state: State) -> None:
        try:
            if _is_spread(state):
                from vit.training import sharded

                sharded.save(self._checkpoints, state)
            else:
                checkpoint.save(self._checkpoints, state)
        except Exception as error:  # safetensors has its own for a full disk
            logger.warning(
                "the checkpoint of step %d could not be written to %s (%s); training goes on, and the next one is "
                "tried as usual: free some space",
                state.step,
                self._checkpoints.directory,
                error,
            )
            if state.step == self.best_step and not _is_spread(state):
                self._unwritten_best = state
        else:
            if state is self._unwritten_best:
                self._unwritten_best = None


def _is_spread(state: State) -> bool:
    return any(hasattr(tensor, "full_tensor") for tensor in state.tensors.values())


def _copied(state: State) -> tuple[State, torch.cuda.Event | None]:
    """The state in the machine's memory, and when it is there: a GPU goes on while it copies."""
    ready: torch.cuda.Event | None = None
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.tensors.items():
        if tensor.is_cuda:
            tensors[name] = torch.empty_like(tensor, device="cpu", pin_memory=True)
            tensors[name].copy_(tensor.detach(), non_blocking=True)
            ready = ready or torch.cuda.Event()
        else:
            tensors[name] = tensor.detach().clone()
    if ready is not None:
        ready.record()
    return dataclasses.replace(state, tensors=tensors), ready
