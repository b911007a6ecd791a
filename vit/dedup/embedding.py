"""The optional tier: vectors of any network that returns them, compared by cosine after centring and normalisation.

Cosines of two networks mean different things (published thresholds of copy detectors span 0.45 to 0.95), so there is
no constant here: vit.dedup.calibration finds the threshold on the user's own images. Centring and score normalisation
follow SSCD (Pizzi et al., arXiv 2202.10261, §4.4 and the repository facebookresearch/sscd-copy-detection): from
each similarity the query's mean similarity to its nearest unrelated images is taken away, which tells a picture that is
like nothing else from one that is a little like everything.
"""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch
from torch import Tensor

from vit.data import decode
from vit.data.pictures import UnreadableImage
from vit.dedup.search import Match
from vit.models import weights
from vit.typing import Floats, Ints, Pixels

TIER = "embedding"
BACKGROUND_NEIGHBOURS = 10  # unrelated images whose mean similarity is taken away
NORMALISED = 1.0  # how much of it
BLOCK = 4096  # training vectors compared at a time
DIGITS = 4
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation, as SSCD, DINO and torchvision
OURS = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # [-1, 1], as this package's networks


class Network(NamedTuple):
    """What turns images into vectors."""

    vectors: Callable[[Tensor], Tensor]  # float B 3 R R, normalised -> B D
    resolution: int
    scale: tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of RGB in 0 … 1
    device: torch.device


class Embedded(NamedTuple):
    """Vectors of N readable images."""

    rows: Ints  # int64 [N], places in the batch
    vectors: Floats  # float32 [N, D], of unit length
    unreadable: dict[int, str]


class Space(NamedTuple):
    """What is known about unrelated images: the middle of their vectors, and examples."""

    centre: Floats  # float32 [D]
    background: Floats  # float32 [M, D], centred, of unit length


def load(path: Path, *, resolution: int, allow_code: bool = False, device: torch.device | None = None) -> Network:
    """A TorchScript file (SSCD's are such), or any file or directory that vit.models.weights reads.

    A TorchScript archive is a program of its own: nothing in it is unpickled as Python, but what it does when called is
    up to who made it. It is refused unless `allow_code` says that its source is trusted. Raises ValueError.
    """
    device = device or torch.device("cpu")
    if not _is_torchscript(path):
        model = cast(Any, weights.load(path, resolution=resolution)).to(device).eval()
        return Network(model.features, resolution, OURS, device)
    if not allow_code:
        raise ValueError(
            f"{path} is a TorchScript archive, which holds code as well as weights; allow code if you trust where it "
            "comes from, or give the network as safetensors"
        )
    module = cast(Any, torch.jit.load(str(path), map_location=device)).eval()
    return Network(module, resolution, IMAGENET, device)


def embed(network: Network, encoded: Sequence[bytes], *, batch_size: int = 32) -> Embedded:
    """Vectors of encoded images, squashed to the network's square; a bad image is listed with its reason."""
    pixels: dict[int, Pixels] = {}
    unreadable: dict[int, str] = {}
    for row, data in enumerate(encoded):
        try:
            image = decode.decode(data)
        except UnreadableImage as error:
            unreadable[row] = str(error)
            continue
        side = (network.resolution, network.resolution)
        is_smaller = min(image.shape[:2]) < network.resolution
        squashed: Any = cv2.resize(image, side, interpolation=cv2.INTER_CUBIC if is_smaller else cv2.INTER_AREA)
        pixels[row] = squashed
    rows = list(pixels)
    parts = [
        _vectors(network, [pixels[row] for row in rows[i : i + batch_size]]) for i in range(0, len(rows), batch_size)
    ]
    vectors = np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)
    return Embedded(np.array(rows, dtype=np.int64), vectors, unreadable)


def space(background: Floats) -> Space:
    """Learn the space from vectors float32 [M, D] of images that no test image shows (a sample of the corpus)."""
    if len(background) <= BACKGROUND_NEIGHBOURS:
        raise ValueError(f"{len(background)} background images are too few; give at least {BACKGROUND_NEIGHBOURS + 1}")
    centre = background.mean(axis=0)
    return Space(centre, _unit(background - centre))


def similarities(space: Space, train: Floats, test: Floats) -> Floats:
    """Normalised similarities float32 [N, M] of vectors [N, D] and [M, D]; larger is more alike."""
    ours, theirs = _unit(train - space.centre), _unit(test - space.centre)
    near = np.sort(theirs @ space.background.T, axis=1)[:, -BACKGROUND_NEIGHBOURS:].mean(axis=1)
    normalised: Floats = ours @ theirs.T - NORMALISED * near
    return np.round(normalised, DIGITS)


def find(space: Space, train: Embedded, test: Embedded, threshold: float) -> list[Match]:
    """All pairs at least that similar, by training and then test image."""
    matches: list[Match] = []
    for start in range(0, len(train.rows), BLOCK):
        scores = similarities(space, train.vectors[start : start + BLOCK], test.vectors)
        for i, j in np.argwhere(scores >= threshold).tolist():
            matches.append(
                Match(
                    train=int(train.rows[start + i]),
                    test=int(test.rows[j]),
                    tier=TIER,
                    distance=-1,
                    score=float(scores[i, j]),
                    window="full",
                    flip="identity",
                    refined=False,
                )
            )
    return matches


def _is_torchscript(path: Path) -> bool:
    """By content: a zip archive with code in it."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


@torch.inference_mode()
def _vectors(network: Network, images: Sequence[Pixels]) -> Floats:
    mean, deviation = (torch.tensor(values, device=network.device).view(3, 1, 1) for values in network.scale)
    batch = torch.from_numpy(np.stack(images)).to(network.device).permute(0, 3, 1, 2).float() / 255
    vectors: Floats = network.vectors((batch - mean) / deviation).float().cpu().numpy()
    if vectors.ndim != 2:
        raise ValueError(
            f"the network returns {vectors.ndim}-dimensional output; it must give one vector per image (B D)"
        )
    return _unit(vectors)


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
