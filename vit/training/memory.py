"""What to say of a training that does not fit into memory."""

import contextlib
from collections.abc import Generator

import torch

from vit.training.distributed import device, world_size
from vit.training.placement import is_on, micro_batch


class DoesNotFit(RuntimeError):
    """The memory of a device or of the machine is too small for a pass."""


@contextlib.contextmanager
def naming_what_does_not_fit(batch_size: int, resolution: int) -> Generator[None]:
    """Where memory is refused inside the block, raise DoesNotFit with what was asked for and what needs less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_about_memory(error):
            raise
        share = micro_batch(batch_size, world_size())
        smaller = [size for size in range(1, share) if share % size == 0]
        less = [f"VITFLOW_MICRO_BATCH={smaller[-1]}"] if smaller else []
        less += [] if is_on("RECOMPUTE") else ["VITFLOW_RECOMPUTE=1"]
        less += [] if is_on("SHARD") or world_size() == 1 else ["VITFLOW_SHARD=1"]
        where = "a GPU" if device().type == "cuda" else "this machine"
        raise DoesNotFit(
            f"a pass over {share} images of {resolution} x {resolution} pixels does not fit into the memory of {where} "
            f"({_first_line(error)}); the same result needs less with {' or '.join([*less, 'more workers'])}"
        ) from error


def _is_about_memory(error: BaseException) -> bool:
    """torch has a class of its own for GPUs only, and Python none for threads."""
    told = str(error)
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(words in told for words in ("allocate memory", "can't start new thread"))


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no memory")
