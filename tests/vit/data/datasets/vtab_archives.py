"""Tiny archives in the layouts of VTAB's 19 tasks, and the tasks with numbers that fit them."""

import dataclasses
import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image

from vit.data.datasets.vtab import TASKS, Task, read
from vit.data.datasets.vtab.tfrecord import masked_crc
from vit.data.pictures import decode
from vit.data.record import Record, Source


def tiny(name: str, counts: tuple[int, int, int], num_classes: int | None = None) -> Task:
    """A task of which there are fewer images and classes."""
    classes = TASKS[name].num_classes if num_classes is None else num_classes
    return dataclasses.replace(TASKS[name], counts=counts, num_classes=classes, published=None)


def loaded(task: Task, directory: Path, *splits: str) -> dict[str, Record]:
    """Records by key."""
    records = list(read(task, directory, splits=splits).records)
    assert len({record.key for record in records}) == len(records)
    return {record.key: record for record in records}


def labels(source: Source, split: str) -> dict[str, int]:
    return {record.key: record.labels[0] for record in source.records if record.split == split}


def pixels(record: Record) -> np.ndarray:
    return np.asarray(decode(record.read()))


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def encoded(values: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def norb(array: np.ndarray) -> bytes:
    """As smallNORB's page describes it: magic, number of dimensions, at least three of them, the array."""
    magic = {np.dtype(np.uint8): 507333717, np.dtype(np.int32): 507333716}[array.dtype]
    shape = [*array.shape, *[1] * (3 - array.ndim)]
    return struct.pack(f"<ii{len(shape)}i", magic, array.ndim, *shape) + array.tobytes()


def scenes(split: str, depths: Sequence[Sequence[float]]) -> bytes:
    """CLEVR_SPLIT_scenes.json: an object for each depth."""
    described = [
        {
            "image_index": number,
            "objects": [{"shape": "cube", "pixel_coords": [160, 120, depth], "3d_coords": [1, 2, 3]} for depth in row],
            "relationships": {"right": [[], [0]]},
            "image_filename": f"CLEVR_{split}_{number:06d}.png",
            "split": split,
        }
        for number, row in enumerate(depths)
    ]
    return json.dumps({"info": {"date": "2/14/2017", "version": "1.0", "split": split}, "scenes": described}).encode()


def tfrecord(messages: Sequence[bytes]) -> bytes:
    records: list[bytes] = []
    for message in messages:
        length = struct.pack("<Q", len(message))
        records += [length, struct.pack("<I", masked_crc(length)), message, struct.pack("<I", masked_crc(message))]
    return b"".join(records)


def _example_class() -> Any:
    """tf.train.Example, declared by hand for Google's own protocol buffers."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> Any:
        added = file.message_type.add(name=name)
        for text, number, label, kind, type_name in fields:
            added.field.add(name=text, number=number, label=label, type=kind, type_name=type_name or None)
        return added

    one, many, nested = field.LABEL_OPTIONAL, field.LABEL_REPEATED, field.TYPE_MESSAGE
    message("BytesList", ("value", 1, many, field.TYPE_BYTES, ""))
    message("FloatList", ("value", 1, many, field.TYPE_FLOAT, ""))
    message("Int64List", ("value", 1, many, field.TYPE_INT64, ""))
    kinds = [("bytes_list", 1, ".t.BytesList"), ("float_list", 2, ".t.FloatList"), ("int64_list", 3, ".t.Int64List")]
    message("Feature", *[(text, number, one, nested, kind) for text, number, kind in kinds])
    features = message("Features", ("feature", 1, many, nested, ".t.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=nested, type_name=".t.Feature")
    message("Example", ("features", 1, one, nested, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


EXAMPLE = _example_class()


def example(**features: bytes | int | float) -> bytes:
    """A tf.train.Example as TensorFlow serialises it."""
    made = EXAMPLE()
    for name, value in features.items():
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(value)]
        getattr(made.features.feature[name], kind).value.append(value)
    return made.SerializeToString()
