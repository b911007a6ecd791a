"""Ray: a map that keeps the order of its items, for any number of them."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from flows.adapters import ray_cluster

AHEAD = 4  # pieces under way for each CPU of the cluster
Item = TypeVar("Item")
Result = TypeVar("Result")


def by_ray(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """Results in the order of the items, computed on all CPUs of the cluster; function and items must be picklable.

    Few items are under way at a time, so there may be millions. A piece whose process died is done again, up to
    MAX_FAILURES times; what the function raises is raised here.
    """
    import ray
    from ray.exceptions import RayTaskError

    ray_cluster.start()
    remote = ray.remote(num_cpus=1, max_retries=ray_cluster.MAX_FAILURES)(function)
    ahead = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    rest = iter(items)
    waiting = deque(remote.remote(item) for item in itertools.islice(rest, ahead))
    try:
        while waiting:
            result = ray.get(waiting.popleft())
            waiting.extend(remote.remote(item) for item in itertools.islice(rest, 1))
            yield result
    except RayTaskError as error:
        raise error.cause from error
    finally:
        for reference in waiting:
            ray.cancel(reference)
