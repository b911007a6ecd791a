"""mini-VTAB: ten small tasks in VTAB's three groups, with VTAB-1k's splits, built without a download in seconds.

The tasks are fixed: they depend on no seed, so scores of different runs compare. Every split is in the MD5 order
of `vit.data.split`, as TFDS's are. A score on these tasks is a mini-VTAB score, never a VTAB score.
"""

import dataclasses
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vit.data import shards
from vit.data.split import rank_order
from vit.data.synthetic import photos, scenes, sprites
from vit.typing import Ints, Pixels

FAMILY = "mini"
SPLITS = ("train800", "val200", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """The images of one split of a task, in order."""

    keys: Ints  # int64 [N], unique within the split
    labels: Ints  # int64 [N]
    pixels: Pixels  # uint8 [N, H, W, 3]


Build: TypeAlias = Callable[[str, str, int], Images]  # task name, split, number of test images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One classification task: 800 images to train on, 200 to choose by, `num_test` to report."""

    name: str
    group: str  # natural | specialized | structured
    class_names: tuple[str, ...]
    num_test: int
    build: Build

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def digits(task: str, split: str, num_test: int) -> Images:
    """Real handwritten digits (UCI optdigits' test part, 8 x 8 pixels), four times enlarged; one order cut in three."""
    rows: Ints = np.loadtxt(_digits_file(), delimiter=",", dtype=np.int64)  # 64 grey levels 0 … 16, then the digit
    order = rank_order(f"{task}/all", range(len(rows)))
    keys = order[{"train800": slice(0, 800), "val200": slice(800, 1000), "test": slice(1000, 1000 + num_test)}[split]]
    values = rows[keys, :64].reshape(-1, 8, 8)
    grey = (values * 255 // 16).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    return Images(keys=keys, labels=rows[keys, 64], pixels=grey[..., None].repeat(3, axis=3))


def _digits_file() -> Path:
    """The file behind sklearn.datasets.load_digits, whose import takes seconds."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None and spec.submodule_search_locations, "scikit-learn, a dependency, is not installed"
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


def crops_of(names: tuple[str, ...], size: int) -> Build:
    """Which of the named pictures a crop is from."""

    def build(task: str, split: str, num_test: int) -> Images:
        keys = _order(task, split, num_test)
        labels, pixels = photos.crops(task, split, len(keys), names=names, size=size)
        return Images(keys=keys, labels=labels[keys], pixels=pixels[keys])

    return build


def stain(task: str, split: str, num_test: int) -> Images:
    """Is there much DAB stain in the middle?"""
    keys = _order(task, split, num_test)
    labels, pixels = photos.stain(task, split, len(keys))
    return Images(keys=keys, labels=labels[keys], pixels=pixels[keys])


def scenes_of(render: Callable[[str, Ints], tuple[Ints, Pixels]]) -> Build:
    """A rendered scene per key."""

    def build(task: str, split: str, num_test: int) -> Images:
        keys = _order(task, split, num_test)
        labels, pixels = render(f"{task}/{split}", keys)
        return Images(keys=keys, labels=labels, pixels=pixels)

    return build


def sprites_of(label: Callable[[Ints], Ints]) -> Build:
    """A dSprites latent per key, the same records as VTAB's; of its 73,728 test images the first `num_test`."""

    def build(_task: str, split: str, num_test: int) -> Images:
        keys = sprites.split_keys(split)[:num_test]
        return Images(keys=keys, labels=label(keys), pixels=sprites.pixels(keys))

    return build


def _numbered(prefix: str, count: int, start: int = 0) -> tuple[str, ...]:
    return tuple(f"{prefix}{number}" for number in range(start, start + count))


TEXTURES = ("brick", "grass", "gravel")
PHOTOS = ("chelsea", "coffee", "rocket", "astronaut", "camera", "clock")
MODALITIES = ("immunohistochemistry", "retina", "cell", "hubble_deep_field")
DISTANCES = tuple(f"depth {near:g} to {far:g}" for near, far in itertools.pairwise(scenes.DISTANCE_EDGES))
AZIMUTHS = tuple(f"{scenes.AZIMUTH_STEP * step:g} degrees" for step in range(18))

TASKS: tuple[Task, ...] = tuple(
    Task(name=name, group=group, class_names=class_names, num_test=num_test, build=build)
    for name, group, class_names, num_test, build in (
        ("mini_digits", "natural", _numbered("", 10), 797, digits),
        ("mini_texture", "natural", TEXTURES, 1000, crops_of(TEXTURES, size=32)),
        ("mini_photo", "natural", PHOTOS, 1000, crops_of(PHOTOS, size=48)),
        ("mini_modality", "specialized", MODALITIES, 1000, crops_of(MODALITIES, size=32)),
        ("mini_stain", "specialized", ("little stain", "much stain"), 1000, stain),
        ("mini_count", "structured", _numbered("", 8, start=3), 2000, scenes_of(scenes.count)),
        ("mini_dist", "structured", DISTANCES, 2000, scenes_of(scenes.distance)),
        ("mini_loc", "structured", _numbered("column ", 16), 2000, sprites_of(sprites.location)),
        ("mini_ori", "structured", _numbered("orientation ", 16), 2000, sprites_of(sprites.orientation)),
        ("mini_azi", "structured", AZIMUTHS, 2000, scenes_of(scenes.azimuth)),
    )
)


def build(task: Task, split: str) -> Images:
    """The images of `task` in `split` (train800, val200 or test), in order."""
    return task.build(task.name, split, task.num_test)


def write(task: Task, directory: Path) -> list[shards.Example]:
    """Write the three splits of `task` as shards into `directory`; returns the test examples."""
    examples = [example for split in SPLITS for example in _examples(task, split)]
    shards.write(directory, examples, name=task.name, class_names=list(task.class_names))
    return [example for example in examples if example.split == "test"]


def _examples(task: Task, split: str) -> Iterator[shards.Example]:
    images = build(task, split)
    for key, label, pixels in zip(images.keys.tolist(), images.labels.tolist(), images.pixels, strict=True):
        yield shards.png_example(f"{split}-{key:06d}", split, label, pixels)


def _order(task: str, split: str, num_test: int) -> Ints:
    """Integer keys 0 … N-1 of a generated split in their MD5 order."""
    return rank_order(f"{task}/{split}", range({"train800": 800, "val200": 200, "test": num_test}[split]))
