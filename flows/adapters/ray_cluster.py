"""Ray: where it runs, starting and stopping it, and a map over a few large items.

Ray starts at first need and is shared by all stages of a process. Where it runs is environment: RAY_ADDRESS for
a cluster, VITFLOW_WORKERS for the number of workers (0: in this process, without Ray; 1-4: as many of these as the
cluster has room for at the time).
"""

import contextlib
import contextvars
import ctypes
import functools
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from flows.adapters import ray_sessions

# Read by Ray when it is imported, so set first. The poll of 2 s would delay start and end of short runs.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "5")  # a rank that hangs never answers
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a thread that outlives a cluster must not start another
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

logger = logging.getLogger("vitflow.ray")
MAX_FAILURES = 3  # times that the same work is tried again
HANG_SECONDS = 600.0  # after which a worker that says nothing, or keeps the others waiting, counts as lost
Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkersFailed(RuntimeError):
    """The workers failed too often, or the cluster cannot be reached."""


def num_workers() -> int:
    """How many workers to use, at most: VITFLOW_WORKERS, else one for each GPU, else at most two CPU workers."""
    return worker_range()[1]


def worker_range() -> tuple[int, int]:
    """Fewest and most workers, which differ if VITFLOW_WORKERS is a range. Raises ValueError if it is neither."""
    wanted = os.environ.get("VITFLOW_WORKERS")
    if wanted is not None:
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", wanted)
        fewest, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if fewest > most or (fewest == 0 and most):
            raise ValueError(
                f"VITFLOW_WORKERS is {wanted!r}, but must be a whole number (0 runs without Ray), or a range like 1-4"
            )
        return fewest, most
    import torch

    count = torch.cuda.device_count() or min(2, os.cpu_count() or 1)
    if os.environ.get("RAY_ADDRESS"):
        import ray

        start()
        count = int(ray.cluster_resources().get("GPU", 0)) or 2
    return count, count


def gpu_share() -> float:
    """The part of a GPU that an item of map_unordered has: VITFLOW_GPU_SHARE, 0.5 for two side by side; else all."""
    text = os.environ.get("VITFLOW_GPU_SHARE", "1")
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"VITFLOW_GPU_SHARE is {text!r}, but must be above 0 and at most 1, such as 0.25")
    return share


def hang_seconds() -> float:
    """VITFLOW_HANG_SECONDS, else HANG_SECONDS; longer than any step, or a healthy worker is taken for lost."""
    text = os.environ.get("VITFLOW_HANG_SECONDS", str(HANG_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < float("inf"):
        raise ValueError(f"VITFLOW_HANG_SECONDS is {text!r}, but must be a number of seconds of at least 1")
    return seconds


def num_tasks() -> int:
    """How many items map_unordered has under way at a time."""
    return int(num_workers() / gpu_share())


def start() -> None:
    """Connect to RAY_ADDRESS, or start a local Ray; does nothing if that is done."""
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if not address:  # nobody takes the node away from under its own driver
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # It would set up the logging of this whole process anew.
        os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(hang_seconds())
    cpus = None if address else max(os.cpu_count() or 1, num_workers())
    # Ray starts as many processes at a time as there are CPUs; two of its own, of no CPUs, come before the workers.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(2 + max(os.cpu_count() or 1, num_workers())))
    logger.info("%s Ray", f"connecting to {address} for" if address else "starting local")
    ray_sessions.remove_old()
    try:
        with _keeping_handler(signal.SIGTERM):
            ray.init(
                address=address or "local",  # never a cluster that somebody else happens to have on this machine
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=None if address else str(ray_sessions.directory()),
            )
    except ConnectionError as error:
        raise WorkersFailed(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); start it or unset RAY_ADDRESS"
        ) from error


@contextlib.contextmanager
def _keeping_handler(number: int) -> Iterator[None]:
    """Put back what a signal did before the block. Ray's C handler prints a stack trace and ends the process on the
    spot, past every `finally`; its Python handler exits, and Prefect takes that for a crash. The latter can only be set
    in the main thread, and Ray sets it nowhere else."""
    in_python = signal.getsignal(number) if threading.current_thread() is threading.main_thread() else None
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(512)  # holds a struct sigaction of any system
    libc.sigaction(number, None, before)
    try:
        yield
    finally:
        if in_python is not None:
            signal.signal(number, in_python)
        libc.sigaction(number, before, None)


def patiently(call: Callable[[], Result]) -> Result:
    """The result of a call that waits for Ray. A thread makes it, so that the main thread hears of signals: in Ray's
    own waiting Ctrl-C is heard, but what another handler raises is lost, such as Prefect's on SIGTERM."""
    result, context = Future[Result](), contextvars.copy_context()

    def work() -> None:
        try:
            result.set_result(context.run(call))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, daemon=True, name="ray").start()
    return result.result()


def stop() -> None:
    """Shut the local Ray down, or disconnect."""
    import sys

    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def map_unordered(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Results of a module-level function for all items, as they finish; one CPU each, or gpu_share() of a GPU."""
    if num_tasks() < 2:
        yield from map(function, items)
        return
    import ray
    from ray.exceptions import RayTaskError

    start()
    gpus = gpu_share() if ray.cluster_resources().get("GPU") else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=MAX_FAILURES)(function)
    waiting = [remote.remote(item) for item in items]
    while waiting:
        done, waiting = patiently(functools.partial(ray.wait, waiting))
        try:
            yield ray.get(done[0])
        except RayTaskError as error:
            raise error.cause from error
