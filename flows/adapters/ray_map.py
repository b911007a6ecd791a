"""Ray: maps over any number of items, one that keeps their order and one that yields what is done."""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from flows.adapters import ray_cluster

AHEAD = 4  # pieces under way for each CPU of the cluster
Item = TypeVar("Item")
Result = TypeVar("Result")
Shared = TypeVar("Shared")


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
            result = ray_cluster.patiently(functools.partial(ray.get, waiting.popleft()))
            waiting.extend(remote.remote(item) for item in itertools.islice(rest, 1))
            yield result
    except RayTaskError as error:
        raise error.cause from error
    finally:
        for reference in waiting:
            ray.cancel(reference)


def as_done(
    function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item], *, workers: int | None = None
) -> Iterator[tuple[Item, Result]]:
    """`function(shared, item)` for all items, each as soon as it is done; all must be picklable.

    `shared` is put into the object store of each node once and read from there by its workers. At most `workers` items
    are computed at a time, by default as many as the cluster has CPUs.
    """
    import ray
    from ray.exceptions import RayTaskError

    ray_cluster.start()
    remote = ray.remote(num_cpus=1, max_retries=ray_cluster.MAX_FAILURES)(_call)
    box = [ray.put(shared)]  # in a list, so that a worker that has it already need not unpack it again
    ahead = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    rest = iter(items)
    waiting = {remote.remote(function, box, item): item for item in itertools.islice(rest, ahead)}
    try:
        while waiting:
            done, _ = ray_cluster.patiently(functools.partial(ray.wait, list(waiting)))
            item = waiting.pop(done[0])
            waiting |= {remote.remote(function, box, one): one for one in itertools.islice(rest, 1)}
            yield item, ray.get(done[0])
    except RayTaskError as error:
        raise error.cause from error
    finally:
        for reference in waiting:
            ray.cancel(reference)


_last: dict[str, Any] = {}  # in a worker: what it was last given to share


def _call(function: Callable[[Any, Any], Any], box: list[Any], item: Any) -> Any:
    import ray

    name = box[0].hex()
    if name not in _last:
        _last.clear()
        _last[name] = ray.get(box[0])
    return function(_last[name], item)
