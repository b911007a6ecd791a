"""Images in class-named folders (ImageFolder), with or without train/, val/ and test/ above them; local or in S3."""

import functools
import os
from pathlib import Path

from vit.data.record import SPLITS, Record, Source, printable, split_name
from vit.data.store import LocalStore, Store, as_store

SALT = "folder"  # of the cut into train and val, as the name of the source


def folder(place: Path | Store) -> Source:
    """One sub-folder of images for each class, classes in the order of their names, files in that of their paths.

    If all top folders are named after splits, classes are looked for one level deeper. Hidden files and folders are
    passed over. Raises ValueError if there are fewer than two classes.
    """
    store = as_store(place)
    files = [name.split("/") for name in _names(store)]
    tops = _folders(store, files, ())
    splits = {top: split_name(top) for top in tops if top.lower() in SPLITS}
    depth = 1 if len(splits) == len(tops) and "train" in splits.values() else 0
    if depth:
        classes = sorted({name for top in tops for name in _folders(store, files, (top,))})
    else:
        classes, splits = tops, {}
    if len(classes) < 2:
        only = f" (only {classes[0]})" if classes else ""
        raise ValueError(
            f"{store.uri} has {len(classes)} sub-folders{only}; at least two classes, one sub-folder each, are needed"
        )
    labels = {name: label for label, name in enumerate(classes)}
    records = [
        Record(
            key="/".join(parts),
            split=splits.get(parts[0], "") if depth else "",
            labels=(labels[parts[depth]],),
            read=functools.partial(store.read, "/".join(parts)),
            ext=_extension(parts[-1]),
        )
        for parts in sorted(files)
        if len(parts) > depth + 1
    ]
    names = tuple(map(printable, classes))
    return Source(name=SALT, family="user", class_names=names, records=records, where=store.uri)


def _names(store: Store) -> list[str]:
    try:
        return [name for name in store.names() if not any(part.startswith(".") for part in name.split("/"))]
    except FileNotFoundError as error:
        raise ValueError(
            f"{store.uri} is no directory; it must hold one sub-folder of images for each class"
        ) from error


def _folders(store: Store, files: list[list[str]], above: tuple[str, ...]) -> list[str]:
    """Names of the folders below `above`; those without a file are seen on a local disk only."""
    depth = len(above)
    found = {parts[depth] for parts in files if len(parts) > depth + 1 and tuple(parts[:depth]) == above}
    if isinstance(store, LocalStore):
        with os.scandir(store.directory.joinpath(*above)) as entries:
            found |= {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    return sorted(found)


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""
