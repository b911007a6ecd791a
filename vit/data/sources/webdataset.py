"""Existing webdataset shards, ours or anyone's: the images are found by their place in the tar, nothing is unpacked."""

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from vit.data import tars
from vit.data.index import INDEX, MANIFEST, BadShard, read_index, read_manifest
from vit.data.pictures import EXTENSIONS
from vit.data.record import Record, Source, refused
from vit.data.sources.labels import Written, numbered, read_class_names, split_of
from vit.data.store import Store, as_store

IMAGES = {ext for extensions in EXTENSIONS.values() for ext in extensions} | {"img"}
LABELS = ("json", "cls", "txt")  # in this order: several labels, one, a class by its name
CLASS_FILES = ("classnames.txt", "classes.txt", "class_names.txt")
MAX_LABEL = 1 << 20  # bytes


class Sample(NamedTuple):
    """The members of a tar that share a key."""

    shard: str
    key: str
    members: dict[str, tars.Member]  # by what follows the key's dot
    labels: dict[str, str]  # text of the members in LABELS


def webdataset(place: Path | Store, *, class_names: Sequence[str] = ()) -> Source:
    """All samples of all `.tar` files below a directory, in order; the split is in the names of shards or folders.

    A sample has one image and a label: KEY.cls (a number), KEY.json (`label` or `labels`) or KEY.txt (the name of its
    class). Class names come from a manifest of ours or a classnames.txt beside the shards, else numbers are names.
    Raises ValueError if there are no shards, BadShard naming one that is no whole tar.
    """
    store = as_store(place)
    samples = list(_samples(store))
    written = [_written(sample.labels) for sample in samples]
    names = class_names or _class_names(store)
    names, labels = numbered([() if isinstance(one, str) else one for one in written], names)
    labels = [one if isinstance(one, str) else number for one, number in zip(written, labels, strict=True)]
    is_unique = len({(sample.shard, sample.key) for sample in samples}) == len({sample.key for sample in samples})
    splits = _splits(store)
    return Source(
        name="webdataset",
        family="user",
        class_names=names,
        records=[
            _record(store, sample, own, splits, is_unique=is_unique)
            for sample, own in zip(samples, labels, strict=True)
        ],
        multi_label=any(len(one) > 1 for one in written if not isinstance(one, str)),
        where=store.uri,
    )


def _samples(store: Store) -> Iterator[Sample]:
    try:
        shards = store.names(".tar")
    except FileNotFoundError as error:
        raise ValueError(f"{store.uri} is no directory; it must hold webdataset shards (.tar)") from error
    if not shards:
        packed = store.names(".gz") or store.names(".tgz")
        why = f"; {packed[0]} is compressed: gunzip it, images are read by their place in the tar" if packed else ""
        raise ValueError(f"{store.uri} has no .tar files{why}")
    for shard in shards:
        try:
            with store.local(shard).open("rb") as file:
                yield from _grouped(shard, file, store.size(shard))
        except tars.BadTar as error:
            raise BadShard(f"{store.uri}/{shard} is no whole tar file: {error}; get it again") from error


def _grouped(shard: str, file: BinaryIO, size: int) -> Iterator[Sample]:
    sample: Sample | None = None
    for member in tars.members(file, size):
        folder, slash, name = member.name.removeprefix("./").rpartition("/")
        stem, dot, ext = name.partition(".")
        if not dot or not stem:
            continue  # no sample, as webdataset has it
        key = folder + slash + stem
        if sample is None or sample.key != key or ext.lower() in sample.members:
            if sample is not None:
                yield sample
            sample = Sample(shard, key, {}, {})
        sample.members[ext.lower()] = member
        if ext.lower() in LABELS:
            file.seek(member.offset)
            sample.labels[ext.lower()] = file.read(min(member.size, MAX_LABEL)).decode(errors="replace").strip()
    if sample is not None:
        yield sample


def _written(texts: dict[str, str]) -> Written | str:
    """The labels as they stand there; a text says why they cannot be read."""
    for ext in LABELS:
        text = texts.get(ext)
        if text is None:
            continue
        if ext == "json":
            found = _from_json(text)
            if found is None:
                continue
            return found
        return f"has an unusable label ({text[:40]!r})" if not text or "\n" in text else (text,)
    return ()


def _from_json(text: str) -> Written | str | None:
    """`labels` or `label`; None if it speaks of something else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return f"has an unusable label (KEY.json is no JSON: {text[:40]!r})"
    known = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    values = _listed(known.get("labels", known.get("label")))
    if values == [None]:
        return None
    if not all(isinstance(one, (int, str)) and not isinstance(one, bool) for one in values):
        return f"has an unusable label (KEY.json: {text[:40]!r})"
    return values


def _listed(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else [value]


def _record(
    store: Store, sample: Sample, labels: tuple[int, ...] | str, splits: dict[str, str], *, is_unique: bool
) -> Record:
    key = sample.key if is_unique else f"{sample.shard.removesuffix('.tar')}/{sample.key}"
    images = [ext for ext in sample.members if ext.rpartition(".")[2] in IMAGES]
    if len(images) != 1:
        return refused(key, f"has {len(images)} images in its sample (one is needed)")
    if isinstance(labels, str):
        return refused(key, labels)
    member = sample.members[images[0]]
    return Record(
        key=key,
        split=splits.get(key) or split_of(sample.shard),
        labels=labels,
        read=functools.partial(_read, store, sample.shard, member),
        ext=images[0].rpartition(".")[2],
        place=(sample.shard, member.offset),
    )


def _read(store: Store, shard: str, member: tars.Member) -> bytes:
    return store.read(shard, member.offset, member.size)


def _class_names(store: Store) -> tuple[str, ...]:
    if MANIFEST in store.names(MANIFEST):  # and not one of a folder below
        return tuple(read_manifest(store)["class_names"])
    names = set(store.names(".txt"))
    return next((read_class_names(store, name) for name in CLASS_FILES if name in names), ())


def _splits(store: Store) -> dict[str, str]:
    """Of shards that are ours: the split of each key."""
    if not {INDEX, MANIFEST} <= set(store.names()):
        return {}
    index = read_index(store, ["key", "split"])
    return dict(zip(index["key"].to_pylist(), index["split"].to_pylist(), strict=True))
