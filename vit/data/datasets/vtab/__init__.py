"""The Visual Task Adaptation Benchmark (Zhai et al. 2019) from its 19 tasks' original archives, without TensorFlow."""

from vit.data.datasets.vtab.splits import SPLITS, load, read
from vit.data.datasets.vtab.tasks import TASKS, Task, named, published

__all__ = ["SPLITS", "TASKS", "Task", "load", "named", "published", "read"]
