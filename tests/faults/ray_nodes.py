"""A Ray cluster of several nodes on this machine, each with processes of its own: `python -m tests.faults.ray_nodes`.

Prints its address, then does what it reads from standard input: `add` a node with one CPU, `kill` the newest one,
`drain` it (a notice that it will be taken away in 60 s); `done` follows each. Ends at the end of its input.
"""

import sys
import time
from typing import Any

from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

SOON = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
PREEMPTION = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")


def main() -> None:
    """The head has no CPU: trainings run on the nodes that come and go."""
    head: dict[str, Any] = {"num_cpus": 0, "include_dashboard": False, "_system_config": SOON}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes: list[Any] = []
    print(cluster.address, flush=True)
    for command in sys.stdin:
        if command.strip() == "add":
            nodes.append(cluster.add_node(num_cpus=1))
        elif command.strip() == "kill":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        else:
            deadline = int(time.time() * 1000) + 60_000
            GcsClient(address=cluster.address).drain_node(nodes[-1].node_id, PREEMPTION, "a test", deadline)
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
