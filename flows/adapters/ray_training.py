"""A training on Ray workers: restarted when they fail, in another number if the cluster has become another.

What a worker raises for good reason (a ValueError or FloatingPointError: bad data, bad settings) stops the run;
anything else, like a killed process, is tried again, and the worker function finds its own checkpoint. With a range of
workers (VITFLOW_WORKERS=1-4) they are counted anew after every failure, and every VITFLOW_RESIZE_SECONDS.
"""

import contextlib
import contextvars
import functools
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flows.adapters import ray_cluster
from flows.adapters.ray_cluster import MAX_FAILURES, WorkersFailed
from vit.training import preemption

logger = logging.getLogger("vitflow.ray")
RESIZE_SECONDS = 60.0  # between two looks for more or fewer nodes, while all is well
SAVE_SECONDS = 15.0  # that workers have to save their state when the run is cancelled; Prefect kills after 30 s
LOOK_EVERY = 1.0  # seconds between two looks whether to stop

Report = Callable[[int, dict[str, float]], None]
Worker = Callable[[Any, Report], None]
Fits = Callable[[int], object]  # raises ValueError, naming what would do, if so many workers cannot share the work


def run(worker: Worker, job: Any, *, name: str, storage: Path, report: Report, fits: Fits) -> None:
    """Call `worker(job, report)` on every worker, inside a torch process group if there are several.

    `worker` is a module-level function and `job` picklable. Reports of the workers arrive at `report` here, as do
    their log records at the loggers here. `name` is the run's fingerprint; Ray keeps nothing between two calls,
    because the worker's own checkpoints decide what is done (docs/adr/0003). Raises what `fits` or the worker raised
    if that is a ValueError or FloatingPointError, Preempted once the workers have saved after SIGTERM, else
    WorkersFailed.
    """
    fewest, most = ray_cluster.worker_range()
    if most == 0:
        worker(job, report)
        return
    counts = possible_counts(fewest, most, fits)
    ray_cluster.start()
    from flows.adapters import ray_elastic, ray_mailbox

    mailbox = ray_mailbox.opened()
    shutil.rmtree(storage / name, ignore_errors=True)
    furthest, finished = 0, threading.Event()

    def noting(step: int, metrics: dict[str, float]) -> None:
        nonlocal furthest
        furthest = max(furthest, step)
        report(step, metrics)

    context = contextvars.copy_context()  # or the log records of workers would belong to no Prefect task
    deliver = functools.partial(ray_mailbox.deliver, mailbox, noting, finished)
    reader = threading.Thread(target=lambda: context.run(deliver), daemon=True, name="mailbox")
    reader.start()
    try:
        with preemption.listening(), _saving_if_cancelled(mailbox, lambda: furthest):
            _while_it_gets_further(lambda: _fit(worker, job, mailbox, counts, (name, storage)), lambda: furthest)
    finally:
        ray_elastic.leave()
        finished.set()
        reader.join()
        shutil.rmtree(storage / name, ignore_errors=True)
    ray_mailbox.put_back(mailbox)


def _while_it_gets_further(fit: Callable[[], None], furthest: Callable[[], int]) -> None:
    """Again after as many failures as Ray takes, for as long as they are not all at the same place."""
    before = -1
    while True:
        try:
            return fit()
        except WorkersFailed as error:
            reached = furthest()
            if reached <= max(before, 0):
                raise
            before = reached
            logger.warning("%s; they had got to step %d: trying again", error, reached)


@contextlib.contextmanager
def _saving_if_cancelled(mailbox: Any, furthest: Callable[[], int]) -> Iterator[None]:
    """The workers save before they are stopped by what is no Exception: Ctrl-C. SIGTERM itself lets them."""
    from flows.adapters import ray_mailbox

    try:
        yield
    except Exception:
        raise
    except BaseException:
        if furthest() and not ray_mailbox.let_save(mailbox, SAVE_SECONDS):
            logger.warning("the workers did not save within %.0f s: their last checkpoint counts", SAVE_SECONDS)
        raise


def possible_counts(fewest: int, most: int, fits: Fits) -> tuple[int, ...]:
    """The numbers of workers in a range that can share the work; raises the sentence of `fits` if there is none."""
    found: list[int] = []
    for count in range(fewest, most + 1):
        with contextlib.suppress(ValueError):
            fits(count)
            found.append(count)
    if not found:
        fits(most)
    return tuple(found)


def _fit(worker: Worker, job: Any, mailbox: Any, counts: Sequence[int], run: tuple[str, Path]) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from flows.adapters import ray_mailbox
    from flows.adapters.ray_elastic import ElasticTrainer, LeanTrainer

    gpu = bool(ray.cluster_resources().get("GPU"))
    many = {"counts": counts, "mailbox": mailbox} if len(counts) > 1 else {}
    trainer: Any = ElasticTrainer if many else LeanTrainer
    fitting = trainer(
        _entry,
        train_loop_config={"worker": worker, "job": job, "mailbox": mailbox},
        torch_config=TorchConfig(timeout_s=int(ray_cluster.hang_seconds())),
        scaling_config=ScalingConfig(
            num_workers=(counts[0], counts[-1]) if many else counts[0],
            use_gpu=gpu,
            resources_per_worker={"GPU" if gpu else "CPU": 1},
            elastic_resize_monitor_interval_s=float(os.environ.get("VITFLOW_RESIZE_SECONDS", RESIZE_SECONDS)),
        ),
        run_config=RunConfig(
            name=run[0], storage_path=str(run[1].resolve()), failure_config=FailureConfig(max_failures=MAX_FAILURES)
        ),
        **many,
    )
    try:
        ray_cluster.patiently(fitting.fit)
    except Exception as error:
        raise WorkersFailed(
            f"{counts[-1]} Ray workers failed {MAX_FAILURES + 1} times, last: {_last_line(error)}"
        ) from error
    failure = ray_mailbox.failure(mailbox)
    if failure is not None:
        raise failure
    if ray.get(mailbox.has_ended_early.remote()):
        raise preemption.Preempted("training was asked to end; its state is saved")


def _entry(config: dict[str, Any]) -> None:
    """What each Ray worker runs."""
    import ray
    import torch
    from ray.exceptions import RayActorError
    from ray.train import get_context
    from ray.train.torch import get_device

    from flows.adapters import ray_mailbox

    mailbox = config["mailbox"]
    if ray_mailbox.failure(mailbox) is not None:
        return  # a restart cannot cure it
    if ray.get(mailbox.is_ending.remote()):
        ray.get(mailbox.end_early.remote())
        return  # nobody wants a start
    if torch.cuda.is_available():
        torch.cuda.set_device(get_device())
    logging.getLogger("vitflow").addHandler(ray_mailbox.Forward(mailbox))
    logging.getLogger("vitflow").setLevel(logging.INFO)
    rank, size = get_context().get_world_rank(), get_context().get_world_size()
    logging.getLogger("vitflow.worker").info("worker %d of %d, pid %d", rank, size, os.getpid())
    threading.Thread(target=_watch, args=(mailbox, rank == 0), daemon=True, name="watch").start()

    def report(step: int, metrics: dict[str, float]) -> None:
        mailbox.post.remote(("report", step, metrics))

    try:
        config["worker"](config["job"], report)
    except (ValueError, FloatingPointError) as error:
        ray.get(mailbox.fail.remote(type(error)(str(error))))
        raise
    except preemption.Preempted as error:
        if ray.get(mailbox.is_ending.remote()):
            ray.get(mailbox.end_early.remote())
            return
        # As for a worker whose node was taken away: Ray starts the workers anew, and counts no failure.
        raise RayActorError(error_msg=str(error), preempted=True) from None


def _watch(mailbox: Any, is_first: bool) -> None:
    """Ask the training to save and stop once Ray says that a node will be taken away, or the driver wants it so.

    One worker asks the driver for all: a stop of one is a stop of all.
    """
    import ray
    from ray.train import get_preemption_info

    every = float(os.environ.get("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "5"))  # Ray itself looks as often
    asked = time.monotonic()
    while True:
        time.sleep(min(LOOK_EVERY, every))
        if is_first and ray.get(mailbox.is_stopping.remote()):
            preemption.request()
        if time.monotonic() - asked < every:
            continue
        asked = time.monotonic()
        # Every worker asks as often as the others: Ray has them wait for each other.
        if get_preemption_info() is not None:
            preemption.request()


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
