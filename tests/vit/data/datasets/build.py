"""Builds tiny archives in the layouts of the published ones."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from vit.data.order import hash64


def picture(seed: int, kind: str = "JPEG", mode: str = "RGB", side: int = 8) -> bytes:
    """An encoded image of noise that no other seed has."""
    pixels = (hash64(seed, np.arange(side * side * 4)) >> np.uint64(56)).astype(np.uint8).reshape(side, side, 4)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def tar(files: Mapping[str, bytes], mode: str = "w", members: Iterable[tarfile.TarInfo] = ()) -> bytes:
    """A tar with a header for each folder too, as GNU tar writes it; then `members` without content."""
    buffer = io.BytesIO()
    folders = dict.fromkeys(str(parent) for name in files for parent in Path(name).parents if str(parent) != ".")
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for folder in folders:
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in members:
            archive.addfile(info)
    return buffer.getvalue()


def write(directory: Path, files: Mapping[str, bytes]) -> Path:
    """The files below `directory`."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def mat(variables: Mapping[str, Any]) -> bytes:
    """A MATLAB 5 file."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, dict(variables))
    return buffer.getvalue()


# ILSVRC2012_ID, WNID, words, number of children: the ids are not in the order of the WordNet ids, and after the
# classes come synsets that group them.
SYNSETS = [
    (1, "n02119789", "kit fox, Vulpes macrotis", 0),
    (2, "n02100735", "English setter", 0),
    (3, "n01440764", "tench, Tinca tinca", 0),
    (4, "n02012849", "crane", 0),
    (5, "n03126707", "crane", 0),
    (6, "n00001740", "entity", 2),
]
WNIDS = sorted(wnid for _, wnid, _, children in SYNSETS if not children)
TRUTH = [3, 1, 1, 5, 2, 4]  # ILSVRC2012_IDs of the val images


def devkit(truth: Iterable[int] = TRUTH) -> bytes:
    """ILSVRC2012_devkit_t12.tar.gz."""
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.array([tuple(row) for row in SYNSETS], dtype=fields).reshape(-1, 1)
    folder = "ILSVRC2012_devkit_t12/"
    return tar(
        {
            folder + "readme.txt": b"",
            folder + "data/meta.mat": mat({"synsets": synsets}),
            folder + "data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{n}\n" for n in truth).encode(),
        },
        "w:gz",
    )


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def imagenet(directory: Path, per_class: int = 3) -> Path:
    """ImageNet-1k with five classes; val images lie in the tar in an order of their own."""
    train = {}
    for label, wnid in enumerate(WNIDS):
        images = {f"{wnid}_{number}.JPEG": picture(100 * label + number) for number in range(per_class)}
        train[f"{wnid}.tar"] = tar(images)
    val = {val_name(n): picture(1000 + n) for n in (4, 1, 6, 2, 5, 3)}
    return write(
        directory,
        {
            "ILSVRC2012_img_train.tar": tar(train),
            "ILSVRC2012_img_val.tar": tar(val),
            "ILSVRC2012_devkit_t12.tar.gz": devkit(),
        },
    )
