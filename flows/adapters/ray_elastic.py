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

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from typing import Any, cast

import ray
from ray._private.state import state as cluster
from ray._raylet import PlacementGroupID
from ray.exceptions import RayError
from ray.train import Result, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

LOOK_EVERY = 1.0  # seconds between two looks at a cluster that is too small
SAY_EVERY = 30.0  # seconds
ANSWER_WITHIN = 5.0  # seconds


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


class LeanTrainer(TorchTrainer):
    """Ray's trainer without helpers that have nothing to do here: each is a process, and imports for seconds.

    One hands out Ray Data's datasets, of which we have none. One removes what a dead driver leaves on a cluster: a
    local one ends with its driver, and what a dead controller leaves there `free_places` removes.
    """

    def _create_default_callbacks(self) -> list[Any]:
        idle = (DatasetsCallback,) if "RAY_ADDRESS" in os.environ else (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, idle)]


def free_places() -> None:
    """Give back what a controller that died held for its workers, or the next one would wait for it for ever."""
    if "RAY_ADDRESS" in os.environ:
        return  # Ray's own helper does it there
    with contextlib.suppress(Exception):  # where the cluster itself died, what failed before is to be told, not this
        for key, held in placement_group_table().items():
            if held["state"] != "REMOVED":
                remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(key))))


class ElasticTrainer(LeanTrainer):
    """Under the policy above; Ray has no public way to hand one in."""

    def __init__(self, *arguments: Any, counts: Sequence[int], mailbox: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._counts, self._mailbox = counts, mailbox

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        arguments["scaling_policy"] = DividingPolicy(self.scaling_config, self._counts, self._mailbox)
        return super()._initialize_and_run_controller(**arguments)
