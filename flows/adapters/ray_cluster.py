"""Ray: run a worker function on N workers with restarts, and map a function over items.

Ray starts at first need and is shared by all stages of a process. Where it runs is environment: RAY_ADDRESS for
a cluster, VITFLOW_WORKERS for the number of workers (0: in this process, without Ray). What a worker raises for
good reason (a ValueError or FloatingPointError: bad data, bad settings) stops the run; anything else, like a
killed process, is tried again, and the worker function finds its own checkpoint.
"""

import contextlib
import contextvars
import ctypes
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

# Read by Ray when it is imported, so set first. The poll of 2 s would delay start and end of short runs.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

logger = logging.getLogger("vitflow.ray")
MAX_FAILURES = 3  # restarts of the worker group per stage

Report = Callable[[int, dict[str, float]], None]
Worker = Callable[[Any, Report], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkersFailed(RuntimeError):
    """The workers failed more often than they may be restarted, or the cluster cannot be reached."""


def num_workers() -> int:
    """How many workers to use: VITFLOW_WORKERS, else one for each GPU, else at most two CPU workers."""
    wanted = os.environ.get("VITFLOW_WORKERS")
    if wanted is not None:
        if not wanted.isdigit():
            raise ValueError(f"VITFLOW_WORKERS is {wanted!r}, but must be a whole number (0 runs without Ray)")
        return int(wanted)
    import torch

    if os.environ.get("RAY_ADDRESS"):
        import ray

        start()
        return int(ray.cluster_resources().get("GPU", 0)) or 2
    return torch.cuda.device_count() or min(2, os.cpu_count() or 1)


def start() -> None:
    """Connect to RAY_ADDRESS, or start a local Ray; does nothing if that is done."""
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    cpus = None if address else max(os.cpu_count() or 1, int(os.environ.get("VITFLOW_WORKERS", 0)))
    logger.info("%s Ray", f"connecting to {address} for" if address else "starting local")
    try:
        with _keeping_handler(signal.SIGTERM):
            ray.init(
                address=address,
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except ConnectionError as error:
        raise WorkersFailed(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); start it or unset RAY_ADDRESS"
        ) from error


@contextlib.contextmanager
def _keeping_handler(number: int) -> Iterator[None]:
    """Put back what a signal did before the block: Ray's handler prints a stack trace and ends the process on the spot,
    past every `finally`. Python's own functions for this refuse to work outside the main thread."""
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(512)  # holds a struct sigaction of any system
    libc.sigaction(number, None, before)
    try:
        yield
    finally:
        libc.sigaction(number, before, None)


def stop() -> None:
    """Shut the local Ray down, or disconnect."""
    import sys

    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def run(worker: Worker, job: Any, *, name: str, storage: Path, report: Report) -> None:
    """Call `worker(job, report)` on every worker, inside a torch process group if there are several.

    `worker` is a module-level function and `job` picklable. Reports of the workers arrive at `report` here, as do
    their log records at the loggers here. `name` is the run's fingerprint; Ray keeps nothing between two calls,
    because the worker's own checkpoints decide what is done (docs/adr/0003). Raises what the worker raised if
    that is a ValueError or FloatingPointError, else WorkersFailed.
    """
    workers = num_workers()
    if workers == 0:
        worker(job, report)
        return
    start()
    mailbox = _mailbox()
    shutil.rmtree(storage / name, ignore_errors=True)
    finished = threading.Event()
    # In the caller's context, or the log records of workers would belong to no Prefect task.
    context = contextvars.copy_context()
    reader = threading.Thread(
        target=lambda: context.run(_deliver, mailbox, report, finished), daemon=True, name="mailbox"
    )
    reader.start()
    try:
        _fit(worker, job, mailbox, workers, (name, storage))
    finally:
        finished.set()
        reader.join()
        shutil.rmtree(storage / name, ignore_errors=True)


def map_unordered(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Results of a module-level function for all items, as they finish; one CPU each, or one GPU if there are any."""
    if num_workers() < 2:
        yield from map(function, items)
        return
    import ray
    from ray.exceptions import RayTaskError

    start()
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=MAX_FAILURES)(function)
    waiting = [remote.remote(item) for item in items]
    while waiting:
        done, waiting = ray.wait(waiting)
        try:
            yield ray.get(done[0])
        except RayTaskError as error:
            raise error.cause from error


def _fit(worker: Worker, job: Any, mailbox: Any, workers: int, run: tuple[str, Path]) -> None:
    import ray
    import torch
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    gpu = bool(ray.cluster_resources().get("GPU")) or torch.cuda.is_available()
    trainer = TorchTrainer(
        _entry,
        train_loop_config={"worker": worker, "job": job, "mailbox": mailbox},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker={"GPU" if gpu else "CPU": 1}
        ),
        run_config=RunConfig(
            name=run[0], storage_path=str(run[1].resolve()), failure_config=FailureConfig(max_failures=MAX_FAILURES)
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise WorkersFailed(
            f"{workers} Ray workers failed {MAX_FAILURES + 1} times, last: {_last_line(error)}"
        ) from error
    failure = _failure(mailbox)
    if failure is not None:
        raise failure


def _entry(config: dict[str, Any]) -> None:
    """What each Ray worker runs."""
    import ray
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device

    mailbox = config["mailbox"]
    if _failure(mailbox) is not None:
        return  # a restart cannot cure it
    if torch.cuda.is_available():
        torch.cuda.set_device(get_device())
    logging.getLogger("vitflow").addHandler(_Forward(mailbox))
    logging.getLogger("vitflow").setLevel(logging.INFO)
    context = get_context()
    logging.getLogger("vitflow.worker").info(
        "worker %d of %d, pid %d", context.get_world_rank(), context.get_world_size(), os.getpid()
    )

    def report(step: int, metrics: dict[str, float]) -> None:
        mailbox.post.remote(("report", step, metrics))

    try:
        config["worker"](config["job"], report)
    except (ValueError, FloatingPointError) as error:
        ray.get(mailbox.fail.remote(type(error)(str(error))))
        raise


class _Forward(logging.Handler):
    """Sends a worker's log records to the driver."""

    def __init__(self, mailbox: Any) -> None:
        super().__init__()
        self.mailbox = mailbox

    def emit(self, record: logging.LogRecord) -> None:
        self.mailbox.post.remote(("log", record.name, record.levelno, record.getMessage()))


def _mailbox() -> Any:
    import ray

    class Mailbox:
        """Keeps what workers send until the driver fetches it."""

        def __init__(self) -> None:
            self.messages: list[Any] = []
            self.error: Exception | None = None

        def post(self, message: Any) -> None:
            self.messages.append(message)

        def fail(self, error: Exception) -> None:
            self.error = self.error or error

        def failure(self) -> Exception | None:
            return self.error

        def fetch(self) -> list[Any]:
            messages, self.messages = self.messages, []
            return messages

    return ray.remote(num_cpus=0)(Mailbox).remote()


def _failure(mailbox: Any) -> Exception | None:
    """What a worker gave up for, if one did."""
    import ray

    return cast("Exception | None", ray.get(mailbox.failure.remote()))


def _deliver(mailbox: Any, report: Report, finished: threading.Event) -> None:
    """Hand on what the workers send, until all is delivered after the end."""
    import ray
    from ray.exceptions import RayError

    last = False
    while not last:
        last = finished.wait(0.3)
        try:
            messages = ray.get(mailbox.fetch.remote())
        except RayError:
            return  # the cluster is gone; the driver's own call says so
        for kind, *content in messages:
            if kind == "report":
                report(*content)
            else:
                name, level, text = content
                logging.getLogger(name).log(level, "%s", text)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
