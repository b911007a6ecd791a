"""Ray Train as our trainings need it: lean, and elastic so that other numbers of workers change nothing else.

Ray's own policy (ray.train.v2, 2.60) counts what the cluster has when the workers start, and every so often while they
run. Four things are different here:

- Only counts that can share the global batch are taken: Ray takes any in the range, and the training would refuse it.
- Nodes are counted as they are now, without those about to be taken away. Ray's view is up to 20 s old: after a
  node is lost it would ask for workers there and wait a minute for them.
- Workers that run are asked to save their state and stop before they are replaced. Ray kills them, and what was done
  since the last checkpoint would be done again.
- While there are too few nodes it is said so, and the controller waits; Ray's turns in circles without a pause.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import ray
from ray._private.state import state as cluster
from ray.exceptions import RayError, RaySystemError
from ray.train import Result, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup
from ray.train.v2._internal.logging import LoggingManager

LOOK_EVERY = 1.0  # seconds between two looks at a cluster that is too small
SAY_EVERY = 30.0  # seconds
ANSWER_WITHIN = 5.0  # seconds
LEAVE_WITHIN = 10.0  # seconds


class DividingPolicy(ElasticScalingPolicy):
    """The largest of `counts` that the cluster has room for."""

    def __init__(self, scaling_config: ScalingConfig, counts: Sequence[int], mailbox: Any) -> None:
        super().__init__(scaling_config)
        self._counts, self._mailbox = counts, mailbox
        self._said = float("-inf")

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start as many as there is room for, or wait."""
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, ResizeDecision):
            ray.get(self._mailbox.ask_to_stop.remote(False))
            return decision
        if time.monotonic() - self._said > SAY_EVERY:
            self._said = time.monotonic()
            self._say(f"waiting until the cluster has room for {self._counts[0]} workers")
        time.sleep(LOOK_EVERY)
        return decision

    def make_decision_for_running_worker_group(self, *status: Any, **named: Any) -> ScalingDecision:
        """Never resize at once: workers that stopped are started again, then in the right number."""
        decision = super().make_decision_for_running_worker_group(*status, **named)
        if isinstance(decision, ResizeDecision):
            self._say(f"the cluster has room for {decision.num_workers} workers: saving, then going on with those")
            self._mailbox.ask_to_stop.remote(True)
        return NoopDecision()

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        room = super()._count_possible_workers(reserved_resources)
        return max((count for count in self._counts if count <= room), default=0)

    def _get_reserved_resources(self) -> dict[str, dict[str, float]] | None:
        try:
            coordinator: Any = self._autoscaling_coordinator
            asked = coordinator.get_reserved_resources.remote(self._requester_id, recompute=True)
            reserved: dict[str, dict[str, float]] = cast(Any, ray.get(asked, timeout=ANSWER_WITHIN))
        except RayError as error:
            self._say(f"the cluster could not be counted ({error}); trying again")
            return None
        leaving = cluster.get_draining_nodes()
        return {node: resources for node, resources in reserved.items() if node not in leaving}

    def _say(self, sentence: str) -> None:
        self._mailbox.post.remote(("log", "vitflow.ray", logging.INFO, sentence))


class OwnWorkers(WorkerGroup):
    """Workers of a controller that is no actor, on a cluster of our own: they inherit its environment, so that the
    processes which Ray starts in advance will do. A GPU is told to a process when that starts.
    """

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        gpu = ray.cluster_resources().get("GPU")
        return WorkerGroup._get_worker_runtime_env(custom_runtime_env) if gpu else custom_runtime_env

    def _init_train_context_on_workers(
        self, workers: list[Worker], sync_actor: Any, train_context_args: dict[str, list[Any]]
    ) -> None:
        starting = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,  # asked for checkpoints, of which Ray has none
                **{name: values[index] for name, values in train_context_args.items()},
            )
            for index, worker in enumerate(workers)
        ]
        ray.get(starting)
        self._decorate_worker_log_file_paths(workers)


class OwnController(TrainController):
    """Ray's controller in this process, not in one of its own that would import for three seconds."""

    worker_group_cls = OwnWorkers

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._left, self._over = threading.Event(), threading.Event()

    def run_to_the_end(self) -> Result:
        """What Ray's trainer does with its actor. Raises RaySystemError once it was left."""
        _running.append(self)
        try:
            asyncio.run(self.run())
            return self.get_result()
        finally:
            _running.remove(self)
            self._over.set()

    def leave(self) -> None:
        """Nobody waits for the result any more: end, within seconds, or Ray must not be shut down."""
        self._left.set()
        self._over.wait(LEAVE_WITHIN)

    async def _run_control_loop_iteration(self) -> None:
        if self._left.is_set():
            raise RaySystemError("nobody waits for the workers any more")
        await super()._run_control_loop_iteration()


_running: list[OwnController] = []


def leave() -> None:
    """End what controls workers in other threads of this process."""
    for controller in list(_running):
        controller.leave()


@contextlib.contextmanager
def _told_to_a_file() -> Iterator[None]:
    """What the controller says is kept beside what the workers say, in Ray's directory, and is not for the terminal."""
    logger = logging.getLogger("ray.train")
    before = logger.level, logger.propagate
    directory = Path(str(LoggingManager.get_log_directory()))
    directory.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(directory / "controller.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(file)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(file)
        file.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]


class LeanTrainer(TorchTrainer):
    """Ray's trainer without helpers that have nothing to do here: each is a process, and imports for seconds.

    One hands out Ray Data's datasets, of which we have none. On a cluster of our own, which ends with its driver, the
    controller needs no process either, nor one that removes what a dead controller leaves.
    """

    def _create_default_callbacks(self) -> list[Any]:
        own = not os.environ.get("RAY_ADDRESS")
        idle = (DatasetsCallback, PlacementGroupCleanerCallback) if own else (DatasetsCallback,)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, idle)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        if os.environ.get("RAY_ADDRESS"):
            return super()._initialize_and_run_controller(**arguments)
        with _told_to_a_file():
            return OwnController(**arguments).run_to_the_end()


class ElasticTrainer(LeanTrainer):
    """Under the policy above; Ray has no public way to hand one in."""

    def __init__(self, *arguments: Any, counts: Sequence[int], mailbox: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._counts, self._mailbox = counts, mailbox

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        arguments["scaling_policy"] = DividingPolicy(self.scaling_config, self._counts, self._mailbox)
        return super()._initialize_and_run_controller(**arguments)
