"""Encoded pictures for tests, small and different from each other."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from vit.data.synthetic.draw import integers


def pixels(number: int, height: int = 8, width: int = 6) -> np.ndarray:
    return (
        integers("pixels", number, np.arange(height * width * 3), count=256).astype(np.uint8).reshape(height, width, 3)
    )


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(number: int) -> bytes:
    return encoded(Image.fromarray(pixels(number)))


def jpeg(number: int, side: int = 24) -> bytes:
    return encoded(Image.fromarray(pixels(number, side, side)), "JPEG")


def webp(number: int) -> bytes:
    return encoded(Image.fromarray(pixels(number)), "WEBP", lossless=True)


def pack(path: Path, members: Mapping[str, bytes]) -> None:
    """A tar file, as other people's tools write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
