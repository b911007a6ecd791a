"""prepare: images from a source become a corpus (train, val) and the tasks that it will be judged by.

`mini` draws everything itself; `folder` reads class-named folders. Both come with the mini-VTAB tasks.
"""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from flows.stages import output
from vit.data import folder, shards
from vit.data.synthetic import corpus, mini_vtab, planted

Source = Literal["mini", "folder"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What the corpus is made of."""

    seed: int  # mini: which images are drawn; the tasks are the same for every seed
    source: Source
    folder: str | None  # folder: a directory of class-named sub-folders of images
    num_images: int  # mini: train, val and planted images together
    val_fraction: float  # of each class
    planted_fraction: float  # mini: share of the corpus that are edited copies of test images
    max_unreadable: int  # folder: more files than these that do not decode stop the run

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise ValueError(f"source {self.source!r} is unknown; known are {' and '.join(get_args(Source))}")
        if self.source == "folder" and not self.folder:
            raise ValueError(
                "source is folder, but folder names no directory; set it to one with a sub-folder per class"
            )
        if self.source == "mini" and self.num_images < 2 * len(corpus.CLASS_NAMES):
            raise ValueError(
                f"num_images is {self.num_images}; the mini corpus has {len(corpus.CLASS_NAMES)} classes and needs two "
                f"images of each, so at least {2 * len(corpus.CLASS_NAMES)}"
            )
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}; it must be more than 0 and less than 1")
        if not 0 <= self.planted_fraction <= 0.5:
            raise ValueError(f"planted_fraction is {self.planted_fraction}; it must be between 0 and 0.5")
        if self.max_unreadable < 0:
            raise ValueError(f"max_unreadable is {self.max_unreadable}; it cannot be negative")


def prepare(config: PrepareConfig, *, out: Path) -> Path:
    """Write `corpus/` and `tasks/` into `out`, and planted.parquet (mini) or unreadable.csv (folder) beside them.

    Raises ValueError if the folder is no usable corpus: see vit.data.folder.write.
    """
    with output.writing(out, "prepare", config, {}) as work:
        if config.source == "folder":  # first: it may turn out to be unusable
            _write_folder(config, work)
        tests = _write_tasks(work / "tasks")
        if config.source == "mini":
            _write_mini(config, tests, work)
    return out


def _write_tasks(directory: Path) -> dict[str, list[shards.Example]]:
    """All tasks and their list; returns the test examples by task."""
    tests = {task.name: mini_vtab.write(task, directory / task.name) for task in mini_vtab.TASKS}
    tasks = [{"name": task.name, "group": task.group, "num_classes": task.num_classes} for task in mini_vtab.TASKS]
    output.write_json(directory / "tasks.json", {"family": mini_vtab.FAMILY, "tasks": tasks})
    return tests


def _write_mini(config: PrepareConfig, tests: dict[str, list[shards.Example]], work: Path) -> None:
    copies = corpus.write(
        work / "corpus",
        tests,
        seed=config.seed,
        num_images=config.num_images,
        val_fraction=config.val_fraction,
        planted_fraction=config.planted_fraction,
    )
    planted.write_pairs(copies, work / "planted.parquet")


def _write_folder(config: PrepareConfig, work: Path) -> None:
    source = Path(str(config.folder))
    unreadable = folder.write(
        source, work / "corpus", val_fraction=config.val_fraction, max_unreadable=config.max_unreadable
    )
    folder.write_unreadable(unreadable, source, work / "unreadable.csv")
