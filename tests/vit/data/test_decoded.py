"""Images kept decoded give the same batches, bit for bit, are read once, and stay within their limit."""

import dataclasses
import io
import pickle
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from tests.recipes import augmentation
from vit.data import decoded
from vit.data.augment import AugmentConfig
from vit.data.decoded import Decoded, Memory
from vit.data.loader import KINDS, evaluation_batches, training_batches
from vit.data.shards import Example, Shards, write
from vit.data.views import View

SIZE, SIDE, PLENTY = 12, 40, 10**9
PLAIN = augmentation()
CROPS: list[AugmentConfig] = [
    PLAIN,
    dataclasses.replace(PLAIN, crop="inception", crop_area=0.2, flip=True),
    dataclasses.replace(PLAIN, crop="square", crop_area=0.6),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of them JPEGs, which are decoded in part where nothing keeps them."""
    path = tmp_path_factory.mktemp("toy")
    write(path, [example(number) for number in range(SIZE)], name="toy", class_names=["a", "b"])
    return path


def example(number: int) -> Example:
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8)
    image = Image.fromarray(pixels).resize((SIDE, SIDE + number))
    buffer, ext = io.BytesIO(), ("jpg", "png")[number % 2]
    image.save(buffer, {"jpg": "JPEG", "png": "PNG"}[ext])
    split = "train" if number < SIZE // 2 else "test"
    size = {"width": image.width, "height": image.height}
    return Example(key=f"{number}", split=split, labels=(number % 2,), image=buffer.getvalue(), ext=ext, **size)


def batches(shards: Shards, config: AugmentConfig, count: int = 6) -> torch.Tensor:
    stream = training_batches(shards, resolution=24, config=config, batch_size=5, seed=3, first_step=0)
    found = torch.cat([next(stream)[0] for _ in range(count)])
    stream.close()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", CROPS, ids=lambda config: config.crop)
def test_batches_are_the_same(
    config: AugmentConfig, kind: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITFLOW_LOADER", kind)
    for limit in (0, 3 * SIDE * SIDE * 4, PLENTY):
        kept = batches(Decoded(directory, Memory(limit)), config)
        assert torch.equal(batches(Shards(directory), config), kept)


@pytest.mark.parametrize("view", get_args(View))
def test_evaluation_is_the_same(view: View, directory: Path) -> None:
    memory = Memory(PLENTY)
    for _ in range(2):
        pairs = zip(
            *(
                evaluation_batches(shards, range(SIZE), resolution=24, view=view)
                for shards in (Shards(directory), Decoded(directory, memory))
            ),
            strict=True,
        )
        assert all(torch.equal(plain[0], kept[0]) for plain, kept in pairs)


def test_each_image_is_read_once_for_all_who_share_the_memory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = Shards.read
    monkeypatch.setattr(
        Shards, "read", lambda self, row, **how: (read.append(self.keys[row]), plain(self, row, **how))[1]
    )
    memory = Memory(PLENTY)
    for splits in (("train",), ("train", "test"), ("test",)):
        batches(Decoded(directory, memory, splits=splits), PLAIN)
    assert sorted(read, key=int) == [str(number) for number in range(SIZE)]


def test_memory_keeps_to_its_limit_and_is_not_pickled(directory: Path) -> None:
    image = 3 * SIDE * (SIDE + SIZE)
    shards = Decoded(directory, Memory(4 * image))
    batches(shards, PLAIN)
    assert 3 * image < shards.memory.size <= 4 * image
    copy = pickle.loads(pickle.dumps(shards))
    assert (copy.memory.size, copy.memory.limit) == (0, 4 * image)
    assert len(pickle.dumps(shards)) < 20_000


def test_kept_pixels_cannot_be_written_to(directory: Path) -> None:
    shards = Decoded(directory, Memory(PLENTY))
    for row in range(2):
        pixels = shards.content(row)
        assert isinstance(pixels, np.ndarray) and shards.content(row) is pixels
        with pytest.raises(ValueError, match="read-only"):
            pixels[0, 0, 0] = 1


def test_the_limit_is_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITFLOW_DECODED_BYTES", raising=False)
    assert decoded.limit() == 10**9
    monkeypatch.setenv("VITFLOW_DECODED_BYTES", "5")
    assert decoded.limit() == 5
    monkeypatch.setenv("VITFLOW_DECODED_BYTES", "1 GB")
    with pytest.raises(ValueError, match="VITFLOW_DECODED_BYTES is '1 GB'"):
        decoded.limit()
