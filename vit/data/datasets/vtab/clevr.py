"""CLEVR v1.0 (Johnson et al. 2017): how many objects a scene has, and how far the nearest is.

The test images have no labels, so VTAB tests on the published validation split. The distance is the third of an
object's `pixel_coords`. Images are RGBA PNGs and passed on as published; whoever decodes drops the alpha channel.

Not verified here, for lack of the data: that scenes name every image (TFDS pairs sorted images with scenes in order).
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vit.data.datasets.archives import BadArchive, Member, is_gzipped
from vit.data.datasets.download import Archive, need
from vit.data.datasets.vtab.dataset import Dataset, Item, Part, part, tree, wanted
from vit.data.datasets.vtab.thresholds import bin_of

ARCHIVE = Archive(
    name="CLEVR_v1.0.zip",
    publisher="Stanford and Facebook AI, https://cs.stanford.edu/people/jcjohns/clevr/",
    digest="sha256:5cd61cf1096ed20944df93c9adb31e74d189b8459a94f54ba00090e5c59936d1",
    size=19_021_600_724,
    url="https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip",
    folders=("CLEVR_v1.0",),
)
ARCHIVES = (ARCHIVE,)
SPLITS = {"train": "train", "validation": "val"}
FEWEST, MOST = 3, 10  # objects in a scene
DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
Scene = dict[str, Any]
_BETWEEN = re.compile(r"[\s,]*")  # scenes


def count(directory: Path) -> Dataset:
    """Train (70,000) and validation (15,000), keys `CLEVR_train_000000.png`; label 0 is three objects, 7 is ten.

    Raises ValueError if the archive, a scene or an image is missing, or a scene has another number of objects.
    """
    return _clevr(directory, tuple(f"{number} objects" for number in range(FEWEST, MOST + 1)), _count)


def distance(directory: Path) -> Dataset:
    """As `count`, labelled with the distance of the nearest object: (0, 8], (8, 8.5], …, (10, 100]."""
    names = tuple(f"{near:g} to {far:g}" for near, far in itertools.pairwise(DISTANCES))
    return _clevr(directory, names, _distance)


def _clevr(directory: Path, class_names: tuple[str, ...], label: Callable[[Scene], int]) -> Dataset:
    place = need(directory, ARCHIVE)
    files = tree(place, "CLEVR_v1.0")
    parts: dict[str, Part] = {}
    for split, name in SPLITS.items():
        scenes = wanted(files, f"scenes/CLEVR_{name}_scenes.json", place)
        labels = {str(scene["image_filename"]): label(scene) for scene in _scenes(scenes)}
        parts[split] = part(_items(files, f"images/{name}", labels, place))
    return Dataset(where=place, class_names=class_names, parts=parts, ext="png", keep_order=is_gzipped(place))


def _items(files: dict[str, Member], folder: str, labels: dict[str, int], place: Path) -> Iterator[Item]:
    unseen = set(labels)
    for name, member in files.items():
        path = PurePosixPath(name)
        if path.parent == PurePosixPath(folder) and path.name in labels:
            unseen.remove(path.name)
            yield Item(key=path.name, label=labels[path.name], read=member.read)
    if unseen:
        raise BadArchive(f"{place} lacks {len(unseen)} of the images of its scenes, first {folder}/{min(unseen)}")


def _scenes(member: Member) -> Iterator[Scene]:
    """One scene after the other: all at once they are gigabytes of objects."""
    text = member.read().decode()
    decoder = json.JSONDecoder()
    try:
        position = _after(text, text.index("[", text.index('"scenes"')) + 1)
        while text[position] != "]":
            scene, end = decoder.raw_decode(text, position)
            yield _checked(scene)
            position = _after(text, end)
    except (ValueError, LookupError, TypeError) as error:
        raise BadArchive(f"{member.name} in {member.path} is no list of scenes ({error}); get it again") from error


def _checked(scene: Any) -> Scene:
    if not isinstance(scene["image_filename"], str) or not all(len(o["pixel_coords"]) == 3 for o in scene["objects"]):
        raise ValueError("a scene has no image_filename or an object no pixel_coords")
    return scene


def _after(text: str, position: int) -> int:
    found = _BETWEEN.match(text, position)
    return found.end() if found else position


def _count(scene: Scene) -> int:
    number = len(scene["objects"])
    if not FEWEST <= number <= MOST:
        raise BadArchive(f"the scene of {scene['image_filename']} has {number} objects, not {FEWEST} … {MOST}")
    return number - FEWEST


def _distance(scene: Scene) -> int:
    return bin_of(min(thing["pixel_coords"][2] for thing in scene["objects"]), DISTANCES)
