"""A corpus from a directory of class-named folders of images (ImageFolder): checked image by image, bytes unchanged."""

import csv
import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vit.data import shards
from vit.data.split import train_or_val

SALT = "folder"
KEY_LENGTH = 60  # characters of the path that a key keeps: tar's names end at 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A file of the folder that decodes as an image, or the reason why not."""

    path: Path
    label: int
    ext: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def write(folder: Path, directory: Path, *, val_fraction: float, max_unreadable: int) -> list[Found]:
    """Write the images below `folder` as shards into `directory`, classes in the order of their names.

    Every image is decoded once; files that do not decode are left out and returned, in order. Hidden files and folders
    are passed over. Raises ValueError if more than `max_unreadable` do not decode, if a class has no image, or if there
    are fewer than two classes.
    """
    class_names = _class_names(folder)
    found = [image for label, name in enumerate(class_names) for image in _scan(folder / name, label)]
    unreadable = [image for image in found if image.problem]
    _check(folder, class_names, found, max_unreadable)
    images = [image for image in found if not image.problem]
    keys = [_key(image.path.relative_to(folder)) for image in images]
    labels = np.array([image.label for image in images])
    splits = train_or_val(keys, labels, val_fraction=val_fraction, salt=SALT)
    if "val" not in splits:
        raise ValueError(
            f"every class in {folder} has a single image: add images, so that some are left to validate with"
        )
    shards.write(directory, _examples(images, keys, splits), name="corpus", class_names=class_names)
    return unreadable


def write_unreadable(unreadable: Sequence[Found], folder: Path, path: Path) -> None:
    """The files that were left out, as CSV with columns path (below `folder`) and problem."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "problem"])
        rows.writerows([image.path.relative_to(folder).as_posix(), image.problem] for image in unreadable)


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no directory; `folder` must name a directory with one sub-folder of images per class"
        )
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        only = f" (only {names[0]})" if names else ""
        raise ValueError(
            f"{folder} has {len(names)} sub-folders{only}; at least two classes, one sub-folder each, are needed"
        )
    return names


def _scan(folder: Path, label: int) -> Iterator[Found]:
    """All files of a class in the order of their paths, decoded in parallel (Pillow's decoders release the GIL)."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(_inspect, paths, itertools.repeat(label))


def _inspect(path: Path, label: int) -> Found:
    try:
        image = shards.decode(path.read_bytes())
    except (OSError, shards.UnreadableImage) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Found(path=path, label=label, problem=reason or "cannot be read")
    return Found(path=path, label=label, ext=_extension(path), width=image.width, height=image.height)


def _check(folder: Path, class_names: list[str], found: Sequence[Found], max_unreadable: int) -> None:
    unreadable = [image for image in found if image.problem]
    if len(unreadable) > max_unreadable:
        first = "; ".join(f"{image.path.relative_to(folder)} {image.problem}" for image in unreadable[:3])
        raise ValueError(
            f"{len(unreadable)} of {len(found)} files in {folder} are unreadable, but max_unreadable is "
            f"{max_unreadable}. The first: {first}. Repair or remove them, or raise max_unreadable"
        )
    readable = {image.label for image in found if not image.problem}
    empty = [name for label, name in enumerate(class_names) if label not in readable]
    if empty:
        raise ValueError(
            f"{len(empty)} of {len(class_names)} classes in {folder} have no readable image for the train split, "
            f"first {empty[0]}; add images or remove the sub-folder"
        )


def _examples(images: Sequence[Found], keys: Sequence[str], splits: Sequence[str]) -> Iterator[shards.Example]:
    for image, key, split in zip(images, keys, splits, strict=True):
        yield shards.Example(
            key=key,
            split=split,
            label=image.label,
            image=image.path.read_bytes(),
            ext=image.ext,
            width=image.width,
            height=image.height,
        )


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _key(path: Path) -> str:
    """The end of the path in letters that tar and webdataset accept, and a hash of the whole: unique and repeatable."""
    text = path.as_posix()
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
    return f"{re.sub('[^A-Za-z0-9_-]+', '-', path.with_suffix('').as_posix())[-KEY_LENGTH:]}-{digest}"


def _extension(path: Path) -> str:
    """Lower-cased; `img` where it is missing or could be taken for something else in the shard."""
    ext = path.suffix[1:].lower()
    return ext if re.fullmatch("[a-z0-9]{1,8}", ext) and ext != "cls" else "img"
