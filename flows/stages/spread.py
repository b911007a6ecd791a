"""Where the work of prepare is done: by threads while there is little, by Ray when there is much."""

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from flows.adapters import ray_cluster
from flows.adapters.ray_map import by_ray
from flows.stages import progress
from vit.data.checking import threads

FEW = 64  # pieces of work that are done before Ray would have started
Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """Results in the order of the items, a progress report for each; a map for vit.data.writing.

    The items say how many they are (vit.data.checking.Pieces). They and the function must be picklable if there are
    more than FEW. With VITFLOW_WORKERS of 0 or 1 everything stays in
    this process.
    """
    count = operator.length_hint(items)
    tell = progress.reporter("prepare", count)
    here = count <= FEW or ray_cluster.num_workers() < 2
    for done, result in enumerate((threads if here else by_ray)(function, items), start=1):
        tell(done, {})
        yield result
