"""The embedding tier with networks made here: no weights are downloaded."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor, nn

from vit.dedup import calibration, embedding, prints
from vit.dedup.embedding import Network

PHOTOS = ("chelsea", "coffee", "astronaut", "gravel", "grass")


class Blocks(nn.Module):
    """A stand-in for a trained network: how cells of an 8 x 8 grid differ from the whole."""

    def forward(self, images: Tensor) -> Tensor:
        cells = nn.functional.adaptive_avg_pool2d(images, 8)
        return (cells - cells.mean(dim=(2, 3), keepdim=True)).flatten(1)


def photos(number: int) -> list[bytes]:
    files: list[bytes] = []
    for name in PHOTOS:
        picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        for i in range(number):
            buffer = io.BytesIO()
            picture.crop((20 + 90 * i, 60, 105 + 90 * i, 130)).save(buffer, "JPEG")
            files.append(buffer.getvalue())
    return files


def network() -> Network:
    return Network(Blocks(), 32, embedding.IMAGENET, torch.device("cpu"))


def test_torchscript_is_code_and_must_be_allowed(tmp_path: Path) -> None:
    torch.jit.trace(Blocks(), torch.zeros(1, 3, 32, 32)).save(tmp_path / "net.pt")
    with pytest.raises(ValueError, match="TorchScript archive, which holds code as well as weights; allow code if"):
        embedding.load(tmp_path / "net.pt", resolution=32)
    loaded = embedding.load(tmp_path / "net.pt", resolution=32, allow_code=True)
    files = photos(1)
    np.testing.assert_allclose(
        embedding.embed(loaded, files).vectors, embedding.embed(network(), files).vectors, atol=1e-6
    )


def test_bad_images_are_listed_and_batches_change_nothing() -> None:
    files = [b"no image", *photos(1)]
    one, many = (embedding.embed(network(), files, batch_size=size) for size in (1, 4))
    assert list(one.unreadable) == [0] and one.rows.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(one.vectors, many.vectors, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(one.vectors, axis=1), 1, atol=1e-5)


def test_calibrated_threshold_finds_copies_and_no_others() -> None:
    files = photos(4)
    net = network()
    space = embedding.space(embedding.embed(net, files).vectors)

    def similarity(train, test):
        return embedding.similarities(space, *(embedding.embed(net, side).vectors for side in (train, test)))

    found = calibration.calibrate(similarity, files, false_rate=1e-3, seed=0)
    assert found.by_edit["jpeg50"] > 0.9 > found.by_edit["flipped"]  # cells survive JPEG, not a flip
    assert found.negatives == 29 * 20 * 19 and found.positives == 29 * 20
    recalls, rates = ([point[name] for point in found.curve] for name in ("recall", "false_rate"))
    assert recalls == sorted(recalls, reverse=True) and rates == sorted(rates, reverse=True) and rates[0] == 1
    tests = embedding.embed(net, files)
    matches = embedding.find(space, embedding.embed(net, files[::-1]), tests, found.threshold)
    assert [(match.train, match.test) for match in matches] == [(i, 19 - i) for i in range(20)]


def test_the_tail_is_extrapolated_as_an_exponential() -> None:
    scores = np.random.Generator(np.random.PCG64(0)).exponential(0.05, 200_000)
    found = calibration.fit({"copy": np.array([2.0])}, scores, false_rate=1e-9)
    assert found.threshold == pytest.approx(0.05 * math.log(1e9), rel=0.1)  # true quantile
    low = calibration.fit({"copy": np.array([2.0])}, np.append(scores, 1.9), false_rate=1e-6)
    assert low.threshold > 1.9 and low.recall == 1  # never below a negative that was seen


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 11"):
        embedding.space(np.eye(10, dtype=np.float32))
    with pytest.raises(ValueError, match="at least 10 images"):
        calibration.calibrate(lambda a, b: np.zeros((1, 1)), photos(1), false_rate=1e-6, seed=0)


def test_prints_are_not_needed_for_vectors() -> None:
    """The tiers read the same bytes by the same rules: what one lists as unreadable the other does, too."""
    files = [b"", photos(1)[0][:500], photos(1)[0]]
    assert embedding.embed(network(), files).unreadable == prints.take(files, complete=True).unreadable
